"""The parts of the result that are done, in a folder; each is written under another name and then renamed.

A part is an HDF5 file in hloc's layout that holds its own checksum (see `sealed`) and what it depends on. It is either
complete and on the disk, or not there at all. A run that is killed leaves a set of complete parts, and temporary files
that the next run removes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from superpoint_jax.bulk.hloc import Stamp, stamps_in
from superpoint_jax.bulk.sealed import is_intact, sealing
from superpoint_jax.files import flush, set_aside

if TYPE_CHECKING:
    import h5py

OPTIONS = "superpoint_jax"
"""Attribute of an HDF5 file, key of a Parquet file and table of a database that stores what the result depends on."""


class Conflict(ValueError):
    """The result was made with other options or from other images, or another run is writing it."""


def check_options(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise a `Conflict` that says how the options of a file differ from those of this run."""
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if names:
        what = "; ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in names)
        raise Conflict(f"{path} was made with other options: {what}. Choose another output, or remove this one")


def options_in(path: Path) -> dict[str, Any]:
    """What the features in an HDF5 file depend on."""
    import h5py

    with h5py.File(path, "r") as file:
        return json.loads(str(file.attrs[OPTIONS]))


class Parts:
    """A folder of parts. A context manager: it holds a lock for as long as it is open."""

    def __init__(self, folder: Path, options: Mapping[str, Any], *, lock: str = "lock") -> None:
        """Open the folder, or make a new one.

        Args:
            folder: The folder; made if necessary.
            options: What the result depends on.
            lock: Name of the lock; runs with different names may write at the same time.

        Raises:
            Conflict: A run with this lock is writing.
        """
        self.folder, self.options = folder, options
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(folder / lock)
        # A run with this lock that was killed may have left these files.
        for path in folder.glob(f"*.{lock}.tmp"):
            path.unlink()
        self._temporary = folder / f"part.{lock}.tmp"

    def paths(self) -> list[Path]:
        """The parts that are done, in order."""
        return sorted(self.folder.glob("part-*.h5"))

    def done(self, tell: Callable[[str], object] = lambda _: None) -> dict[str, Stamp]:
        """The images in the parts that are done, with their stamps. Damaged parts are set aside and told.

        Raises:
            Conflict: A part was made with other options.
        """
        found: dict[str, Stamp] = {}
        for path in self.paths():
            if not is_intact(path):
                tell(f"{path} is damaged; it is kept as {set_aside(path).name}, and its images are extracted again")
                continue
            check_options(self.folder, options_in(path), self.options)
            found |= stamps_in(path)
        return found

    @contextmanager
    def writing(self) -> Iterator[h5py.File]:
        """A new part, which appears once the block has ended without an exception."""
        number = 1 + max((int(path.stem.split("-")[1]) for path in self.paths()), default=-1)
        try:
            with sealing(self._temporary) as file:
                file.attrs[OPTIONS] = json.dumps(self.options)
                yield file
            # Two runs may choose the same number: the second takes the next.
            while True:
                try:
                    os.link(self._temporary, self.folder / f"part-{number:08}.h5")
                    break
                except FileExistsError:
                    number += 1
            flush(self.folder)
        finally:
            with suppress(FileNotFoundError):
                self._temporary.unlink()

    def close(self) -> None:
        """Release the lock, so that others can write."""
        self._lock.close()

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def remove(self) -> None:
        """Remove the parts, and the folder unless something that was set aside is in it."""
        for path in self.folder.iterdir():
            if ".damaged" not in path.name:
                path.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def _locked(path: Path) -> IO[str]:
    file = path.open("w")
    try:
        _lock(file)
    except OSError as error:
        file.close()
        raise Conflict(f"{path.parent}: another run is writing here") from error
    return file


def _lock(file: IO[str]) -> None:
    """Lock a file until it is closed; raise OSError if another process has locked it."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        getattr(msvcrt, "locking")(file.fileno(), getattr(msvcrt, "LK_NBLCK"), 1)  # noqa: B009 (known on Windows only)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
