"""Regions: where in an image keypoints may be, as a mask at the size of the image, or at the size the network sees."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Int


def check_region(region: Any, shape: tuple[int, ...]) -> None:
    """Raise a ValueError if the region is not a bool array [B,H,W] for images of `shape` [B,H,W,C]."""
    if not hasattr(region, "dtype"):
        raise ValueError(f"region is a {type(region).__name__}; a bool array [B,H,W] is needed")
    if region.dtype != bool:
        raise ValueError(f"region has type {region.dtype}; bool is needed: region > 0?")
    if tuple(region.shape) != tuple(shape[:3]):
        raise ValueError(f"region has shape {tuple(region.shape)}; that of the images is needed, {tuple(shape[:3])}")


def source_pixels(count: int, from_size: Any, to_size: Any) -> Any:
    """For the first `count` pixels of a resized side, the pixels of the original side in which their centres lie.

    Exact, in integers, for sides below 20000 pixels that grow or shrink. Sizes of several images [B] give [B, count].
    """
    library = jnp if isinstance(to_size, jax.Array) else np
    places = 2 * library.arange(count, dtype=np.int32) + 1
    from_size, to_size = library.asarray(from_size, np.int32)[..., None], library.asarray(to_size, np.int32)[..., None]
    places = places.reshape((1,) * (from_size.ndim - 1) + places.shape)
    return library.minimum(places * from_size // (2 * to_size), from_size - 1)


def resized_region(region: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> Bool[np.ndarray, "_h2 _w2"]:
    """The region at (height, width) `size`; each pixel takes the value of the pixel in which its centre lies."""
    rows, columns = (source_pixels(to, np.int32(old), np.int32(to)) for old, to in zip(region.shape, size, strict=True))
    return region[rows[:, None], columns[None, :]]


def enlarged_region(
    region: Bool[Array, "b h w"],
    sizes: Int[Array, "b 2"],
    new_sizes: Int[Array, "b 2"],
    *,
    shape: tuple[int, int],
) -> Bool[Array, "b _h2 _w2"]:
    """The regions of images of (height, width) `sizes` in arrays of `shape` whose images have `new_sizes`.

    Each pixel takes the value of the pixel in which its centre lies.
    """
    rows, columns = (source_pixels(shape[axis], sizes[:, axis], new_sizes[:, axis]) for axis in (0, 1))
    return jax.vmap(lambda image, y, x: image[y][:, x])(region, rows, columns)
