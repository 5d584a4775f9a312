"""Files that are written whole or not at all, and files that may be opened."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np


def is_url(name: str) -> bool:
    """Whether a name begins like a URL; in a `Path`, the second slash is lost."""
    return re.match(r"[a-z][a-z0-9+.-]+:/", name, re.IGNORECASE) is not None


def require_regular(path: Path) -> None:
    """Raise an OSError that names the path unless it is a regular file, because a pipe or a device may never end."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a directory, not a file", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "a pipe or a device; a regular file is needed", str(path))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which replaces `path` once the block has ended without an exception."""
    temporary = path.with_name(f".{path.name}.tmp")
    _remove(temporary)
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        _remove(temporary)


def _remove(temporary: Path) -> None:
    """Remove a temporary file and what a database keeps beside it, whose names begin with the same."""
    for leftover in glob.glob(f"{glob.escape(str(temporary))}*"):
        with suppress(FileNotFoundError):
            os.unlink(leftover)


def set_aside(path: Path) -> Path:
    """The new path of a damaged file, which is renamed to NAME.damaged, or NAME.damaged-2 where that exists."""
    new, number = path.with_name(f"{path.name}.damaged"), 2
    while new.exists():
        new, number = path.with_name(f"{path.name}.damaged-{number}"), number + 1
    os.replace(path, new)
    return new


def stamp(path: Path) -> tuple[int, int]:
    """The state of a file: its size in bytes and the time of its last change in ns."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def digest_of(path: Path, *, start: int = 0) -> str:
    """The SHA-256 of the bytes of a file from `start` on, in hexadecimal digits."""
    with path.open("rb") as file:
        file.seek(start)
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_arrays(tree: Any) -> str:
    """The SHA-256 of the types, shapes and values of all arrays of a pytree, in hexadecimal digits."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_room(folder: Path, size: int) -> None:
    """Raise an OSError unless this many bytes are free on the disk of a folder, and a file may become as large."""
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    with suppress(ImportError):  # Windows has no such limit.
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        if limit != resource.RLIM_INFINITY and limit < size:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(folder))


def is_disk_full(error: OSError) -> bool:
    """Whether an error means a full disk or an exhausted quota; some libraries say that only in their message."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left on device" in str(error)
