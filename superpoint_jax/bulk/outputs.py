"""Outputs made from the parts: one class per kind of output, chosen by the suffix of its name."""

from __future__ import annotations

import abc
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from superpoint_jax.bulk.colmap import write_database
from superpoint_jax.bulk.hloc import names_in, read_features
from superpoint_jax.bulk.pairs import Matching, PairCount
from superpoint_jax.bulk.parts import Conflict, Parts, replacing
from superpoint_jax.matching import Matcher

OPTIONS = "superpoint_jax"
"""Attribute of an HDF5 file or key of a Parquet file that stores what the result depends on."""


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
    def check(self, root: Path) -> None:
        """Refuse, before any work, an output that could not be written at the end."""

    @abc.abstractmethod
    def done(self) -> set[str]:
        """Names of the images that the output already contains."""

    @abc.abstractmethod
    def finish(self, parts: Parts, root: Path) -> PairCount:
        """Make the output from the parts, and remove the parts; return how many pairs of images were matched."""

    def _need(self, module: str, extra: str) -> None:
        import importlib.util

        for name in ("h5py", module):
            if importlib.util.find_spec(name) is None:
                raise ImportError(f"{self.path.name} needs {name}: pip install 'superpoint-jax[{extra}]'")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(2, "no such folder", str(self.path.parent))

    def _same(self, before: Mapping[str, Any]) -> None:
        names = sorted(
            name for name in before.keys() | self.options.keys() if before.get(name) != self.options.get(name)
        )
        if names:
            what = "; ".join(f"{name} was {before.get(name)!r} and is {self.options.get(name)!r}" for name in names)
            raise Conflict(
                f"{self.path} was made with other options: {what}. Choose another output, or remove this one"
            )


class HlocFile(Output):
    """One HDF5 file in hloc's layout (see `hloc`), for hloc and every program that reads its files."""

    def check(self, root: Path) -> None:
        """Refuse a file made with other options or by another program."""
        self._need("h5py", "bulk")
        if self.path.exists():
            import h5py

            try:
                with h5py.File(self.path, "r") as file:
                    before = file.attrs.get(OPTIONS)
            except OSError as error:
                raise ValueError(f"{self.path} exists and is not an HDF5 file: {error}") from error
            if before is None:
                raise Conflict(f"{self.path} exists and was not written by this program; choose another output")
            self._same(json.loads(str(before)))

    def done(self) -> set[str]:
        """Names in the file."""
        return set(names_in(self.path)) if self.path.exists() else set()

    def finish(self, parts: Parts, root: Path) -> PairCount:
        """Copy the parts into one file, together with what the file already contains."""
        import h5py

        paths = parts.paths()
        if paths or not self.path.exists():
            with replacing(self.path) as temporary, h5py.File(temporary, "w", libver="latest") as file:
                file.attrs[OPTIONS] = json.dumps(self.options)
                for path in [self.path] * self.path.exists() + paths:
                    with h5py.File(path, "r") as part:
                        for name in names_in(path):
                            if name not in file:
                                part.copy(name, file, name)
        parts.remove()
        return PairCount(0, 0)


class ParquetFolder(Output):
    """A folder of Parquet files with one row per image, for data analysis.

    Columns: name, width, height; keypoints and descriptors (lists of vectors); scores; uncertainty in pixels.
    """

    def check(self, root: Path) -> None:
        """Refuse a folder made with other options or by another program."""
        self._need("pyarrow", "parquet")
        if self.path.exists() and not self.path.is_dir():
            raise Conflict(f"{self.path} exists and is not a folder; choose another output")
        for file in self._files()[:1]:
            import pyarrow.parquet

            before = (pyarrow.parquet.read_schema(file).metadata or {}).get(OPTIONS.encode())
            if before is None:
                raise Conflict(f"{file} was not written by this program; choose another output")
            self._same(json.loads(before))

    def done(self) -> set[str]:
        """Names in the files."""
        import pyarrow.parquet

        tables = (pyarrow.parquet.read_table(file, columns=["name"]) for file in self._files())
        return {name for table in tables for name in table["name"].to_pylist()}

    def finish(self, parts: Parts, root: Path) -> PairCount:
        """Turn each part into a Parquet file and then remove the part: at most one part is on the disk twice."""
        import pyarrow.parquet

        self.path.mkdir(exist_ok=True)
        here = self.done()
        number = 1 + max((int(file.stem.split("-")[1]) for file in self._files()), default=-1)
        for path in parts.paths():
            names = [name for name in names_in(path) if name not in here]
            here.update(names)
            if names:
                with replacing(self.path / f"part-{number:08}.parquet") as temporary:
                    pyarrow.parquet.write_table(_table(path, names, self.options), temporary)
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
        }
    )
    return table.replace_schema_metadata({OPTIONS: json.dumps(options)})


class ColmapDatabase(Output):
    """A COLMAP database with cameras, images, keypoints and, on request, matches. Descriptors are not stored in it."""

    matching = Matching()
    matcher: Matcher | None = None
    pairs: Sequence[tuple[str, str]] | None = None

    def check(self, root: Path) -> None:
        """Refuse a database that exists."""
        self._need("pycolmap", "colmap")
        if self.path.exists():
            raise Conflict(f"{self.path} exists; a database is not extended. Choose another output, or remove this one")

    def done(self) -> set[str]:
        """Nothing, because the database is only made at the end."""
        return set()

    def finish(self, parts: Parts, root: Path) -> PairCount:
        """Write the database from the parts, and remove the parts; see `colmap.write_database`."""
        names = {name: path for path in parts.paths() for name in names_in(path)}
        with replacing(self.path) as temporary:
            count = write_database(
                temporary, root, names, matching=self.matching, matcher=self.matcher, pairs=self.pairs
            )
        parts.remove()
        return count


def output_for(
    path: Path,
    options: Mapping[str, Any],
    *,
    matching: Matching | None = None,
    matcher: Matcher | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> Output:
    """The output of the kind given by the suffix: .h5 or .hdf5, .db, or none for Parquet.

    Raises:
        ValueError: Another suffix, or matching for an output that is not a COLMAP database.
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
        wanted = f"matches={matching.matches!r}" if matching.pairs is None else f"pairs={str(matching.pairs)!r}"
        raise ValueError(f"{path}: {wanted} needs a COLMAP database (.db)")
    output = kinds[path.suffix.lower()](path, options)
    if isinstance(output, ColmapDatabase):
        output.matching, output.matcher, output.pairs = matching, matcher, pairs
    return output
