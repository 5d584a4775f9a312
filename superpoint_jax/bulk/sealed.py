"""HDF5 files that hold their own checksum, and that can be written to a disk that becomes full."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superpoint_jax.files import digest_of, flush

if TYPE_CHECKING:
    import h5py

SEAL_BYTES = 512
"""Size of the user block, the bytes at the start of an HDF5 file that HDF5 leaves to others. The checksum is in it."""

_BEGINNING = b"superpoint_jax sha256 "


@contextmanager
def sealing(path: Path, **options: Any) -> Iterator[h5py.File]:
    """A new HDF5 file, which is on the disk and has its checksum once the block has ended without an exception.

    Args:
        path: File to write.
        **options: Options of `h5py.File`.

    Raises:
        OSError: The file can't be written, for example because the disk is full.
    """
    import h5py

    with _Recorded(path, "w+b") as raw:
        with h5py.File(raw, "w", userblock_size=SEAL_BYTES, **options) as file:
            yield file
            raw.check()
        raw.check()
    flush(path)
    seal = _seal(path)  # Read back from the file.
    with path.open("r+b") as raw:
        raw.write(seal)
    flush(path)


def is_ours(path: Path) -> bool:
    """Whether a file begins as those that `sealing` writes."""
    with path.open("rb") as file:
        return file.read(len(_BEGINNING)) == _BEGINNING


def is_intact(path: Path) -> bool:
    """Whether the contents of a file that `sealing` wrote agree with its checksum."""
    with path.open("rb") as file:
        return file.read(SEAL_BYTES) == _seal(path)


def _seal(path: Path) -> bytes:
    return (_BEGINNING + digest_of(path, start=SEAL_BYTES).encode()).ljust(SEAL_BYTES, b"\0")


class _Recorded(io.FileIO):
    """A file that remembers its first error of writing, and then takes everything without writing it.

    HDF5 ends the process where it can't write at its end, so it must not see an error there.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all bytes; the number of bytes is returned, whether or not they were written."""
        rest = memoryview(data).cast("B")
        count = len(rest)
        try:
            while self.error is None and rest:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return count

    def truncate(self, size: int | None = None) -> int:
        """Set the length of the file; the length is returned, whether or not it was set."""
        try:
            if self.error is None:
                return super().truncate(size)
        except OSError as error:
            self.error = error
        return size or 0

    def check(self) -> None:
        """Raise the first error of writing, if there was one."""
        if self.error is not None:
            raise OSError(self.error.errno, os.strerror(self.error.errno or 0), str(self.name)) from self.error
