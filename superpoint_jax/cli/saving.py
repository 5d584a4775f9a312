"""Paths of pictures and JSON files, checks that they can be written, and writing them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superpoint_jax import visualization
from superpoint_jax.cli.errors import CommandError, told

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def picture_paths(images: Sequence[Path], output: Path | None) -> list[Path | None]:
    """The path of each photo's picture; the folder is made. Equal names are numbered: photo.png, photo-2.png."""
    if output is None:
        return [None] * len(images)
    if len(images) == 1 and output.suffix and not output.is_dir():
        return [output]
    if output.suffix and not output.is_dir():
        raise CommandError(f"{output}: several images need a folder; give --output a name without a suffix")
    with told():
        output.mkdir(parents=True, exist_ok=True)
    paths: list[Path | None] = []
    for image in images:
        names = itertools.chain([image.stem], (f"{image.stem}-{number}" for number in itertools.count(2)))
        candidates = (output / f"{name}.png" for name in names)
        paths.append(next(path for path in candidates if path not in paths))
    return paths


def check_outputs(outputs: Sequence[Path], images: Sequence[Path]) -> None:
    """Refuse, before the work, outputs that would overwrite a photo or can't be written."""
    inputs = {path.resolve() for path in images}
    for path in outputs:
        if path.resolve() in inputs:
            raise CommandError(f"{path} is one of the images and would be overwritten; choose another output")
        if path.is_dir():
            raise CommandError(f"{path} is a folder; a file is needed")
        if not path.parent.is_dir():
            raise CommandError(f"{path}: no such folder")


def save_picture(axes: Axes, path: Path) -> None:
    """Write the figure of the axes."""
    with told():
        visualization.save(axes, path)


def save_json(content: Any, path: Path | None) -> None:
    """Write a JSON file if a path is given."""
    if path is not None:
        with told():
            path.write_text(json.dumps(content))
