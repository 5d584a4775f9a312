"""The parts of the result that are done, in a folder; each is written under another name and then renamed.

A part is an HDF5 file in hloc's layout. It is either complete and on the disk, or not there at all. A run that is
killed leaves a set of complete parts, and temporary files that the next run removes.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from superpoint_jax.bulk.hloc import names_in

if TYPE_CHECKING:
    import h5py

FORMAT = 1
"""Version of the layout of a folder of parts; another layout gets another number."""


class Conflict(ValueError):
    """The result was made with other options, or another run is writing it."""


class Parts:
    """A folder of parts. A context manager: it holds a lock for as long as it is open."""

    def __init__(self, folder: Path, options: Mapping[str, Any], *, lock: str = "lock") -> None:
        """Open the folder, or make a new one.

        Args:
            folder: The folder; made if necessary.
            options: What the result depends on; must be the same as when the folder was made.
            lock: Name of the lock; runs with different names may write at the same time.

        Raises:
            Conflict: The folder was made with other options, or a run with this lock is writing.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(folder / lock)
        try:
            _same_options(folder / "options.json", {"format": FORMAT, **options})
        except BaseException:
            self.close()
            raise
        # A run with this lock that was killed may have left these files.
        for path in folder.glob(f"*.{lock}.tmp"):
            path.unlink()
        self._suffix = f".{lock}.tmp"

    def paths(self) -> list[Path]:
        """The parts that are done, in order."""
        return sorted(self.folder.glob("part-*.h5"))

    def done(self) -> set[str]:
        """Names of the images in the parts that are done."""
        return {name for path in self.paths() for name in names_in(path)}

    @contextmanager
    def writing(self) -> Iterator[h5py.File]:
        """A new part, which appears once the block has ended without an exception."""
        import h5py

        number = 1 + max((int(path.stem.split("-")[1]) for path in self.paths()), default=-1)
        temporary = self.folder / f"part{self._suffix}"
        try:
            with h5py.File(temporary, "w") as file:
                yield file
            _flush(temporary)
            # Two runs may choose the same number: the second takes the next.
            while True:
                try:
                    os.link(temporary, self.folder / f"part-{number:08}.h5")
                    break
                except FileExistsError:
                    number += 1
            _flush(self.folder)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()

    def close(self) -> None:
        """Release the lock, so that others can write."""
        self._lock.close()

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def remove(self) -> None:
        """Remove the folder with its contents."""
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which replaces `path` once the block has ended without an exception."""
    temporary = path.with_name(f".{path.name}.tmp")
    with suppress(FileNotFoundError):
        temporary.unlink()
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def is_disk_full(error: OSError) -> bool:
    """Whether the error means a full disk; HDF5 reports that only in the text of its message."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


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


def _same_options(path: Path, options: Mapping[str, Any]) -> None:
    """Write the options if the file is new; otherwise raise `Conflict` if it contains other options."""
    text = json.dumps(options, indent=1, sort_keys=True)
    if not path.exists():
        with replacing(path) as temporary:
            temporary.write_text(text)
        return
    before, now = json.loads(path.read_text()), json.loads(text)
    differing = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if differing:
        what = "; ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in differing)
        raise Conflict(f"{path.parent} was begun with other options: {what}. Choose another output, or remove this one")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
