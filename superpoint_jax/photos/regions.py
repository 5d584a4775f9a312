"""Masks of photos: where a mask lies in a folder, and the region that it allows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from superpoint_jax.photos.pixels import size_of
from superpoint_jax.photos.plan import Shape
from superpoint_jax.processing.loading import ImageError, load_values


def find_mask(folder: Path, name: str) -> Path | None:
    """The mask of a photo in a folder by COLMAP's rule, `a/b.jpg.png` for `a/b.jpg`, or None if there is none."""
    path = folder / f"{name}.png"
    return path if path.is_file() else None


def check_regions(regions: Sequence[Any], sizes: Sequence[Shape], names: Sequence[str]) -> None:
    """Raise a ValueError that names the first region whose size is not that of its image; only headers are read.

    Args:
        regions: Arrays, paths, Pillow images or None.
        sizes: (height, width) of the images.
        names: Names of the images in messages.
    """
    if len(regions) != len(sizes):
        raise ValueError(f"there are {len(regions)} regions and {len(sizes)} images; one per image is needed, or None")
    for region, size, name in zip(regions, sizes, names, strict=True):
        if region is not None:
            _check_dimensions(region, name)
            _check_size(size_of(region), size, _name(region), name)


def read_region(region: Any, size: Shape, name: str) -> Bool[np.ndarray, "_h _w"]:
    """True where keypoints may be: where the mask of an image is not 0, in any of its channels.

    Args:
        region: Array [H,W] or [H,W,C], path, or Pillow image.
        size: (height, width) of the image.
        name: Name of the image in messages.

    Raises:
        ImageError: A file can't be read, or the size is not that of the image.
    """
    _check_dimensions(region, name)
    values = load_values(region) if _is_picture(region) else np.asarray(region)
    _check_size(values.shape[:2], size, _name(region), name)
    allowed = values != 0
    return allowed if allowed.ndim == 2 else allowed.any(-1)


def _is_picture(region: Any) -> bool:
    return isinstance(region, str | Path) or hasattr(region, "getbands")


def _check_dimensions(region: Any, name: str) -> None:
    if not _is_picture(region) and np.ndim(region) not in (2, 3):
        raise ImageError(f"the mask of {name} has shape {np.shape(region)}; [H,W] is needed")


def _check_size(found: tuple[int, ...], size: Shape, mask: str, name: str) -> None:
    if tuple(found) != tuple(size):
        raise ImageError(
            f"{mask} has {found[1]}x{found[0]} pixels and {name} has {size[1]}x{size[0]}; a mask must have the size of "
            f"its image"
        )


def _name(region: Any) -> str:
    return str(region) if isinstance(region, str | Path) else "the mask"
