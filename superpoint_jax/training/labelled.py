"""Photos with labels, as arrays, and photos read from a folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, UInt8

from superpoint_jax.processing import ImageError, list_images, load_image

if TYPE_CHECKING:
    import PIL.Image

log = logging.getLogger(__name__)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Photos:
    """Gray photos, each in the top-left corner of its array, and their corners.

    Attributes:
        images: Gray values.
        sizes: (height, width) of each photo.
        corners_xy: Positions of the labels, in pixels.
        corners_mask: False for rows that are padding.
    """

    images: UInt8[Array, "n h w"]
    sizes: Int[Array, "n 2"]
    corners_xy: Float[Array, "n p 2"]
    corners_mask: Bool[Array, "n p"]


def photos_in(folder: str | Path, *, colours: bool = False) -> Iterator[tuple[Path, PIL.Image.Image]]:
    """The photos below a folder by name, in gray or, with `colours`, in red, green and blue.

    Photos that can't be read are named in the log and skipped.

    Raises:
        ValueError: There is no such folder, or no photo in it.
    """
    from PIL import Image

    for path in list_images(folder):
        try:
            yield path, Image.fromarray(load_image(path)).convert("RGB" if colours else "L")
        except ImageError as error:
            log.warning("skipped: %s", error)


def load_photos(
    folder: str | Path, *, side: int = 480, colours: bool = False
) -> tuple[np.ndarray, np.ndarray, list[Path]]:
    """The photos of a folder in gray (uint8 [N,side,side]), their sizes (int32 [N,2]) and paths.

    With `colours`, they are red, green and blue (uint8 [N,side,side,3]).
    Larger photos are reduced to a long side of `side` pixels. Photos that can't be read, or whose short side is below a
    quarter of `side`, are named in the log and skipped.

    Raises:
        ValueError: There is no such folder, no photo in it, or none that can be used.
    """
    from PIL import Image

    images, sizes, kept = [], [], []
    for path, pixels in photos_in(folder, colours=colours):
        factor = min(1.0, side / max(pixels.size))
        if factor < 1:
            width, height = (max(1, round(length * factor)) for length in pixels.size)
            pixels = pixels.resize((width, height), Image.Resampling.LANCZOS)
        if min(pixels.size) < side // 4:
            log.warning("skipped: %s is only %d x %d px", path, *pixels.size)
            continue
        array = np.zeros((side, side, 3) if colours else (side, side), np.uint8)
        array[: pixels.height, : pixels.width] = np.asarray(pixels)
        images.append(array)
        sizes.append((pixels.height, pixels.width))
        kept.append(path)
    if not kept:
        raise ValueError(f"{folder}: none of the photos can be used; the log names each with the reason")
    return np.stack(images), np.array(sizes, np.int32), kept


def as_float(images: UInt8[Array, "*b h w"]) -> Float[Array, "*b h w 1"]:
    """The images as float in [0, 1] with a channel axis."""
    return jnp.asarray(images)[..., None].astype(jnp.float32) / 255
