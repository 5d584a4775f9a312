"""The photos of a folder, a list of names or a pattern, and their names in the result."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from superpoint_jax.files import is_url
from superpoint_jax.processing.loading import IMAGE_SUFFIXES, natural_order, walk_images


@dataclass(frozen=True)
class Sources:
    """Photos by name.

    Attributes:
        root: The folder that names are relative to.
        names: Paths relative to `root`, with slashes, without repetition, in order.
        failures: What can't be read, a photo or a subfolder, by its name in printable characters, with the reason.
    """

    root: Path
    names: tuple[str, ...]
    failures: Mapping[str, str] = field(default_factory=dict)


def find_images(source: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None) -> Sources:
    """The photos of a folder with its subfolders, of a text file with one path per line, or of a pattern.

    Names keep their folders, so equal names in two folders stay distinct. In a folder, only files with the suffix of an
    image count. The files of a list or a pattern are not checked until they are read. The names in a list have either
    slash.

    Args:
        source: Folder, text file (.txt, like hloc's image lists) or pattern such as 'a/**/*.jpg'.
        root: The folder that the names, and the paths in a list, are relative to; by default the given folder, the
            folder of the list, or the part of the pattern before its first wildcard.

    Raises:
        FileNotFoundError: No such folder or list, or a pattern without matches.
        ValueError: There is no image, or one is outside the root, or a URL is given.
    """
    text = os.fspath(source)
    path, unread = Path(text), {}
    if is_url(text) and not path.exists():
        raise ValueError(f"{text}: a URL is not opened; download the photos and give their folder")
    if path.is_dir():
        base = Path(root) if root is not None else path
        paths, unread = walk_images(path)
    elif glob.has_magic(text) and not path.exists():
        base = Path(root) if root is not None else _before_wildcard(text)
        matches = sorted(glob.glob(text, recursive=True), key=natural_order)
        paths = [Path(match) for match in matches if not Path(match).is_dir()]
    elif path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        base = Path(root) if root is not None else path.parent
        paths = [path]
    elif path.is_file():
        base = Path(root) if root is not None else path.parent
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: neither an image nor a text file of paths") from error
        paths = [_listed(base, line.strip()) for line in lines if line.strip() and not line.startswith("#")]
    else:
        raise FileNotFoundError(2, "no such folder, list of images, or match of a pattern", text)
    if not paths and not unread:
        raise ValueError(f"{text}: no images ({', '.join(IMAGE_SUFFIXES)})")
    names = list(dict.fromkeys(_name(p, base) for p in paths))
    failures = {_printable(_name(p, base)): f"the folder can't be read: {reason}" for p, reason in unread.items()}
    # HDF5 and SQLite take UTF-8 without null characters.
    odd = {name for name in names if _printable(name) != name}
    failures |= {_printable(name): "the name is not UTF-8; rename the file" for name in names if name in odd}
    return Sources(base, tuple(name for name in names if name not in odd), failures)


def _listed(base: Path, line: str) -> Path:
    """The path in a line of a list: the whole line if there is such a file, else its first word.

    hloc's lists may have camera parameters after the name.
    """
    first = line.split()[0]
    names = [line, line.replace("\\", "/"), first, first.replace("\\", "/")]
    return base / next((name for name in names if os.path.exists(base / name)), first)


def _printable(name: str) -> str:
    """The name with bytes that are no UTF-8 written as escapes."""
    return name.encode(errors="backslashreplace").decode().replace("\0", "\\0")


def _before_wildcard(pattern: str) -> Path:
    parts: list[str] = []
    for part in Path(pattern).parts:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts) if parts else Path(".")


def _name(path: Path, base: Path) -> str:
    name = os.path.relpath(path, base).replace(os.sep, "/")
    if name == ".." or name.startswith("../"):
        raise ValueError(f"{path} is outside of {base}; give a root that contains all images")
    return name
