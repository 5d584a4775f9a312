"""A folder of photos as arrays on the device."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, UInt8

from superpoint_jax.processing import ImageError, list_images, load_image

log = logging.getLogger(__name__)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Photos:
    """Gray photos, each in the top-left corner of its array, and their corners.

    Attributes:
        images: Gray values.
        sizes: (height, width) of each.
        corners_xy: Labels in pixels.
        corners_mask: False rows are padding.
    """

    images: UInt8[Array, "n h w"]
    sizes: Int[Array, "n 2"]
    corners_xy: Float[Array, "n p 2"]
    corners_mask: Bool[Array, "n p"]


def load_photos(folder: str | Path, *, side: int = 480) -> tuple[np.ndarray, np.ndarray, list[Path]]:
    """Gray photos (uint8 [N,side,side], sizes int32 [N,2], paths), each resized to a long side of at most `side` px.

    Files that cannot be read are named in the log and skipped; those smaller than a quarter of `side` are skipped too.

    Raises:
        ValueError: No folder, no image in it, or none that can be read.
    """
    from PIL import Image

    images, sizes, kept = [], [], []
    for path in list_images(folder):
        try:
            pixels = Image.fromarray(load_image(path)).convert("L")
        except ImageError as error:
            log.warning("skipped: %s", error)
            continue
        factor = min(1.0, side / max(pixels.size))
        if factor < 1:
            width, height = (max(1, round(length * factor)) for length in pixels.size)
            pixels = pixels.resize((width, height), Image.Resampling.LANCZOS)
        if min(pixels.size) < side // 4:
            log.warning("skipped: %s is only %d x %d px", path, *pixels.size)
            continue
        array = np.zeros((side, side), np.uint8)
        array[: pixels.height, : pixels.width] = np.asarray(pixels)
        images.append(array)
        sizes.append((pixels.height, pixels.width))
        kept.append(path)
    if not kept:
        raise ValueError(f"{folder}: none of the photos can be used; the log names each with the reason")
    return np.stack(images), np.array(sizes, np.int32), kept


def as_float(images: UInt8[Array, "*b h w"]) -> Float[Array, "*b h w 1"]:
    """uint8 to float in [0, 1] with a channel axis."""
    return jnp.asarray(images)[..., None].astype(jnp.float32) / 255
