"""Outputs made from the parts: one class per kind of output, chosen by the suffix of its name."""

from __future__ import annotations

import abc
import dataclasses
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from superpoint_jax.bulk.cameras import Cameras, Intrinsics
from superpoint_jax.bulk.colmap import DatabaseRecord, is_intact_database, read_record, write_database, write_record
from superpoint_jax.bulk.hloc import Stamp, names_in, read_features, stamps_in
from superpoint_jax.bulk.pairs import Matching, PairCount
from superpoint_jax.bulk.parts import OPTIONS, Conflict, Parts, check_options, options_in
from superpoint_jax.bulk.sealed import is_intact, is_ours, sealing
from superpoint_jax.files import digest_of, digest_of_arrays, flush, replacing
from superpoint_jax.matching import Matcher


class Output(abc.ABC):
    """A kind of output.

    Attributes:
        path: File or folder to write.
        options: What the result depends on.
    """

    def __init__(self, path: Path, options: Mapping[str, Any]) -> None:
        self.path, self.options = path, options

    @property
    def parts_folder(self) -> Path:
        """Folder where the parts are kept until the output is finished."""
        return self.path.with_name(self.path.name + ".parts")

    @abc.abstractmethod
    def check(self) -> None:
        """Refuse, before any work, an output that could not be written at the end."""

    @abc.abstractmethod
    def damaged(self) -> list[Path]:
        """The files of the output whose contents do not agree with their checksum."""

    @abc.abstractmethod
    def stamps(self) -> dict[str, Stamp]:
        """The images that the output contains, with their stamps."""

    @abc.abstractmethod
    def made_with(self) -> list[Mapping[str, Any]]:
        """What each file of the output depends on."""

    def done(self) -> dict[str, Stamp]:
        """The images that the output already contains, with their stamps.

        Raises:
            Conflict: The output was made with other options.
        """
        for before in self.made_with():
            check_options(self.path, before, self.options)
        return self.stamps()

    def check_room(self, names: Collection[str]) -> None:  # noqa: B027 (most outputs take all images)
        """Refuse, before any work, images that can't be added to the output."""

    @abc.abstractmethod
    def finish(self, parts: Parts, root: Path, failures: Collection[str]) -> PairCount:
        """Make the output from the parts, and remove the parts; return how many pairs of images were matched."""

    def _need(self, module: str, extra: str) -> None:
        import importlib.util

        for name in ("h5py", module):
            if importlib.util.find_spec(name) is None:
                raise ImportError(f"{self.path.name} needs {name}: pip install 'superpoint-jax[{extra}]'")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(2, "no such folder", str(self.path.parent))


class HlocFile(Output):
    """One HDF5 file in hloc's layout (see `hloc`), for hloc and every program that reads its files."""

    def check(self) -> None:
        """Refuse a file made by another program."""
        self._need("h5py", "bulk")
        if self.path.exists() and not is_ours(self.path):
            raise Conflict(f"{self.path} exists and has no checksum of this program; choose another output")

    def damaged(self) -> list[Path]:
        """The file, if it is damaged."""
        return [self.path] if self.path.exists() and not is_intact(self.path) else []

    def stamps(self) -> dict[str, Stamp]:
        """The images in the file."""
        return stamps_in(self.path) if self.path.exists() else {}

    def made_with(self) -> list[Mapping[str, Any]]:
        """What the file depends on."""
        return [options_in(self.path)] if self.path.exists() else []

    def finish(self, parts: Parts, root: Path, failures: Collection[str]) -> PairCount:
        """Copy the parts into one file, together with what the file already contains."""
        import h5py

        paths = parts.paths()
        if paths or not self.path.exists():
            with replacing(self.path) as temporary, sealing(temporary, libver="latest") as file:
                file.attrs[OPTIONS] = json.dumps(self.options)
                for path in [self.path] * self.path.exists() + paths:
                    with h5py.File(path, "r") as part:
                        for name in names_in(path):
                            if name not in file:
                                part.copy(name, file, name)
        parts.remove()
        return PairCount(0, 0)


DIGITS = 16
_PART = re.compile(rf"part-(\d+)-([0-9a-f]{{{DIGITS}}})\.parquet")


class ParquetFolder(Output):
    """A folder of Parquet files with one row per image, for data analysis.

    Columns: name, width, height; keypoints and descriptors (lists of vectors); scores; uncertainty in pixels; stamp.
    The name of a file ends with the first digits of its SHA-256.
    """

    def check(self) -> None:
        """Refuse a folder with files of another program."""
        self._need("pyarrow", "parquet")
        if self.path.exists() and not self.path.is_dir():
            raise Conflict(f"{self.path} exists and is not a folder; choose another output")
        for file in self._files():
            if not _PART.fullmatch(file.name):
                raise Conflict(f"{file} was not written by this program; choose another output")

    def damaged(self) -> list[Path]:
        """The files that are damaged."""
        return [path for path in self._files() if not path.stem.endswith(f"-{digest_of(path)[:DIGITS]}")]

    def stamps(self) -> dict[str, Stamp]:
        """The images in the files."""
        import pyarrow.parquet

        found: dict[str, Stamp] = {}
        for path in self._files():
            table = pyarrow.parquet.read_table(path, columns=["name", "stamp"])
            found |= zip(table["name"].to_pylist(), map(tuple, table["stamp"].to_pylist()), strict=True)
        return found

    def made_with(self) -> list[Mapping[str, Any]]:
        """What each file depends on."""
        import pyarrow.parquet

        return [json.loads(pyarrow.parquet.read_schema(path).metadata[OPTIONS.encode()]) for path in self._files()]

    def finish(self, parts: Parts, root: Path, failures: Collection[str]) -> PairCount:
        """Turn each part into a Parquet file and then remove the part: at most one part is on the disk twice."""
        import pyarrow.parquet

        self.path.mkdir(exist_ok=True)
        here = set(self.stamps())
        number = 1 + max((int(file.stem.split("-")[1]) for file in self._files()), default=-1)
        for path in parts.paths():
            names = [name for name in names_in(path) if name not in here]
            here.update(names)
            if names:
                temporary = self.path / ".part.parquet.tmp"
                pyarrow.parquet.write_table(_table(path, names, self.options), temporary)
                flush(temporary)
                os.replace(temporary, self.path / f"part-{number:08}-{digest_of(temporary)[:DIGITS]}.parquet")
                flush(self.path)
                number += 1
            path.unlink()
        parts.remove()
        return PairCount(0, 0)

    def _files(self) -> list[Path]:
        return sorted(self.path.glob("part-*.parquet")) if self.path.is_dir() else []


def _table(path: Path, names: list[str], options: Mapping[str, Any]) -> Any:
    """An Arrow table of some images of a part."""
    import pyarrow as pa

    images = read_features(path, names)
    ends = np.concatenate([[0], np.cumsum([len(image.scores) for image in images])]).astype(np.int64)

    def lists(arrays: list[np.ndarray], kind: Any, width: int | None = None) -> Any:
        flat = pa.array(np.concatenate([array.reshape(-1) for array in arrays]), kind)
        values = flat if width is None else pa.FixedSizeListArray.from_arrays(flat, width)
        return pa.LargeListArray.from_arrays(pa.array(ends), values)

    descriptors = [image.descriptors for image in images]
    kind = pa.float16() if descriptors[0].dtype == np.float16 else pa.float32()
    table = pa.table(
        {
            "name": pa.array(names),
            "width": pa.array([image.size[1] for image in images], pa.int32()),
            "height": pa.array([image.size[0] for image in images], pa.int32()),
            "keypoints": lists([image.keypoints_xy for image in images], pa.float32(), 2),
            "scores": lists([image.scores for image in images], pa.float32()),
            "descriptors": lists(descriptors, kind, descriptors[0].shape[1]),
            "uncertainty": pa.array([image.uncertainty_px for image in images], pa.float32()),
            "stamp": pa.array([list(image.stamp) for image in images], pa.list_(pa.int64())),
        }
    )
    return table.replace_schema_metadata({OPTIONS: json.dumps(options)})


class ColmapDatabase(Output):
    """A COLMAP database with cameras, images, keypoints and, on request, matches. Descriptors are not stored in it."""

    matching = Matching()
    matcher: Matcher | None = None
    pairs: Sequence[tuple[str, str]] | None = None
    cameras = Cameras()
    intrinsics: Mapping[str, Intrinsics] = MappingProxyType({})

    def check(self) -> None:
        """Refuse a database of another program, and keypoints that would not fit its cameras."""
        self._need("pycolmap", "colmap")
        if self.options.get("frame") == "upright":
            raise ValueError(f"{self.path}: COLMAP reads photos as they are stored; leave out frame='upright'")
        if self.path.exists() and read_record(self.path) is None:
            raise Conflict(
                f"{self.path} exists and is damaged or of another program; choose another output, or remove this one"
            )

    def damaged(self) -> list[Path]:
        """The database, if it is damaged."""
        return [self.path] if self.path.exists() and not is_intact_database(self.path) else []

    def stamps(self) -> dict[str, Stamp]:
        """The images in the database."""
        record = self._record()
        return {} if record is None else {name: tuple(stamp) for name, stamp in record.stamps.items()}

    def made_with(self) -> list[Mapping[str, Any]]:
        """What the database depends on, without matching and cameras, which are compared separately."""
        record = self._record()
        if record is None:
            return []
        check_options(self.path, record.matching, self._beside())
        return [record.options]

    def check_room(self, names: Collection[str]) -> None:
        """Refuse images that are not in a finished database, unless they could not be read when it was made."""
        record = self._record()
        if record is not None and (new := sorted(set(names) - set(record.failures))):
            raise Conflict(
                f"{self.path} exists without {new[0]}; a database is not extended. Choose another output, or remove "
                f"this one"
            )

    def finish(self, parts: Parts, root: Path, failures: Collection[str]) -> PairCount:
        """Write the database from the parts, and remove the parts; see `colmap.write_database`."""
        record = self._record()
        if record is not None:
            count = PairCount(*record.pairs)
        else:
            features: dict[str, Path] = {}
            stamps: dict[str, list[int]] = {}
            for path in parts.paths():
                found = stamps_in(path)
                features |= dict.fromkeys(found, path)
                stamps |= {name: list(stamp) for name, stamp in found.items()}
            with replacing(self.path) as temporary:
                count = write_database(
                    temporary,
                    root,
                    features,
                    matching=self.matching,
                    matcher=self.matcher,
                    pairs=self.pairs,
                    cameras=self.cameras,
                    intrinsics=self.intrinsics,
                )
                write_record(
                    temporary, DatabaseRecord(self.options, self._beside(), stamps, sorted(failures), list(count))
                )
        parts.remove()
        return count

    def _record(self) -> DatabaseRecord | None:
        return read_record(self.path) if self.path.exists() else None

    def _beside(self) -> dict[str, Any]:
        """What the database depends on besides the options of the keypoints."""
        matching = {field.name: getattr(self.matching, field.name) for field in dataclasses.fields(Matching)}
        cameras = {field.name: getattr(self.cameras, field.name) for field in dataclasses.fields(Cameras)}
        given = {"pairs": self.pairs, "intrinsics": self.intrinsics or None}
        matcher = None if self.matcher is None else digest_of_arrays(self.matcher)[:DIGITS]
        return json.loads(json.dumps({**matching, **cameras, **given, "matcher": matcher}))


def output_for(
    path: Path,
    options: Mapping[str, Any],
    *,
    matching: Matching | None = None,
    matcher: Matcher | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    cameras: Cameras | None = None,
    intrinsics: Mapping[str, Intrinsics] | None = None,
) -> Output:
    """The output of the kind given by the suffix: .h5 or .hdf5, .db, or none for Parquet.

    Raises:
        ValueError: Another suffix, or matching or cameras for an output that is not a COLMAP database.
    """
    # Converted to what will be read back: tuples become lists in JSON.
    options = json.loads(json.dumps(options))
    kinds = {".h5": HlocFile, ".hdf5": HlocFile, ".db": ColmapDatabase, "": ParquetFolder, ".parquet": ParquetFolder}
    if path.suffix.lower() not in kinds:
        raise ValueError(
            f"{path}: .h5 (hloc's HDF5), .db (COLMAP) or no suffix (a folder of Parquet files) is needed, "
            f"not {path.suffix}"
        )
    matching = matching or Matching()
    if matching.wanted and path.suffix.lower() != ".db":
        raise ValueError(f"{path}: matching needs a COLMAP database (.db); leave out matches, loops and pairs")
    if cameras is not None and cameras.cameras_given and path.suffix.lower() != ".db":
        raise ValueError(f"{path}: options of cameras need a COLMAP database (.db)")
    output = kinds[path.suffix.lower()](path, options)
    if isinstance(output, ColmapDatabase):
        output.matching, output.matcher, output.pairs = matching, matcher, pairs
        output.cameras, output.intrinsics = cameras or Cameras(), intrinsics or {}
    return output


def verify(path: Path) -> tuple[int, list[Path]]:
    """The number of images in an output, finished or not, and its files that do not agree with their checksums.

    Nothing is changed. If a file is damaged, the number is 0.

    Raises:
        FileNotFoundError: There is neither such an output nor parts of it.
        ValueError: It was not written by this program.
    """
    output = output_for(path, {})
    parts = sorted(output.parts_folder.glob("part-*.h5"))
    if not path.exists() and not parts:
        raise FileNotFoundError(2, "no such output, nor parts of it", str(path))
    output.check()
    damaged = output.damaged() + [part for part in parts if not is_intact(part)]
    names = [] if damaged else [output.stamps(), *map(stamps_in, parts)]
    return len({name for one in names for name in one}), damaged
