"""Which images: a folder, a list of names, or a pattern; and what each is called in the result."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from pathlib import Path

from superpoint_jax.processing.loading import IMAGE_SUFFIXES


@dataclass(frozen=True)
class Sources:
    """Images by name.

    Attributes:
        root: The folder that names are relative to.
        names: Paths relative to it, with slashes, each once, in order.
    """

    root: Path
    names: tuple[str, ...]


def find_images(source: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None) -> Sources:
    """The images of a folder (all below it), of a text file with a path a line, or of a pattern such as 'a/**/*.jpg'.

    Names keep their folders, so equal names in two folders stay apart. Of a folder, files with a suffix of an image
    count; whether those of a list or a pattern are images shows when they are read.

    Args:
        source: Folder, text file (.txt, as hloc's image lists) or pattern.
        root: What the names are relative to, and the paths in a list too; by default the folder, that of the list, or
            the part of the pattern before its first wildcard.

    Raises:
        FileNotFoundError: No such folder, list or match.
        ValueError: No image, or one outside the root.
    """
    text = os.fspath(source)
    path = Path(text)
    if path.is_dir():
        base = Path(root) if root is not None else path
        paths = sorted(p for p in _files(path) if p.suffix.lower() in IMAGE_SUFFIXES)
    elif glob.has_magic(text) and not path.exists():
        base = Path(root) if root is not None else _before_wildcard(text)
        paths = sorted(Path(match) for match in glob.glob(text, recursive=True) if not Path(match).is_dir())
    elif path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        base = Path(root) if root is not None else path.parent
        paths = [path]
    elif path.is_file():
        base = Path(root) if root is not None else path.parent
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: neither an image nor a text file of paths") from error
        # hloc's lists may have camera parameters after the name; a name with spaces is taken whole if it exists.
        entries = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        paths = [base / (entry if (base / entry).exists() else entry.split()[0]) for entry in entries]
    else:
        raise FileNotFoundError(2, "no such folder, list of images, or match of a pattern", text)
    if not paths:
        raise ValueError(f"{text}: no images ({', '.join(IMAGE_SUFFIXES)})")
    return Sources(base, tuple(dict.fromkeys(_name(p, base) for p in paths)))


def _files(folder: Path) -> list[Path]:
    # Path.rglob is several times slower on millions of files.
    return [Path(where) / file for where, _, files in os.walk(folder, followlinks=True) for file in files]


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
        raise ValueError(f"{path} is outside of {base}; give a root that holds all images")
    return name
