"""Antialiased resizing of bytes on the device; every byte is the one that torch and torchvision compute on a CPU.

torch multiplies bytes by integer weights, and rounds to bytes after resizing the width and again after resizing the
height. At the usual ratios many exact sums lie halfway between two bytes, so any other arithmetic rounds some of them
to the other byte.
"""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

WIDTHS = {"linear": 2, "cubic": 4, "lanczos3": 6}
"""Width of each filter in pixels. torch has the first two for bytes; Pillow has the third, with the same arithmetic."""

LARGEST_WEIGHT = 1 << 15
MOST_BITS = 22


def resize_bytes(images: Array, size: tuple[int, int], method: str) -> Array:
    """Images [B,C,h,w] resized to (height, width) `size`; float32 whole numbers from 0 to 255, in and out."""
    images = _along_last(images, size[1], method)
    return jnp.swapaxes(_along_last(jnp.swapaxes(images, 2, 3), size[0], method), 2, 3)


def _along_last(images: Array, length: int, method: str) -> Array:
    if images.shape[-1] == length:
        return images
    whole, bits = whole_weights(images.shape[-1], length, method)
    # The weights are split into two parts, so that each sum is an integer below 2^24, which float32 holds exactly.
    high, low = whole >> 7, whole & 127
    sums = [
        jnp.einsum("bchw,ow->bcho", images, part.astype(np.float32), precision=lax.Precision.HIGHEST).astype(jnp.int32)
        for part in (high, low)
    ]
    total = (sums[0] << 7) + sums[1] + (1 << (bits - 1))
    return jnp.clip(total >> bits, 0, 255).astype(jnp.float32)


@cache
def whole_weights(given: int, wanted: int, method: str) -> tuple[np.ndarray, int]:
    """(weights, bits): the weight of each given pixel for each new pixel, int32 [wanted, given], scaled by 2^bits.

    `bits` is the largest number for which every weight fits in 16 bits with a sign.
    """
    scale = given / wanted
    centre = scale * (np.arange(wanted) + 0.5)[:, None]
    stretch = max(scale, 1.0)
    support = WIDTHS[method] / 2 * stretch
    pixels = np.arange(given)[None]
    first = np.maximum(np.trunc(centre - support + 0.5), 0)
    end = np.minimum(np.trunc(centre + support + 0.5), given)
    weights = _filter((pixels - centre + 0.5) / stretch, method)
    weights = np.where((pixels >= first) & (pixels < end), weights, 0)
    weights /= weights.sum(axis=1, keepdims=True)
    bits = 0
    while bits < MOST_BITS and int(0.5 + weights.max() * (1 << (bits + 1))) < LARGEST_WEIGHT:
        bits += 1
    scaled = weights * (1 << bits)
    return np.trunc(scaled + np.where(scaled < 0, -0.5, 0.5)).astype(np.int32), bits


def _filter(x: np.ndarray, method: str) -> np.ndarray:
    x = np.abs(x)
    if method == "linear":
        return np.maximum(1 - x, 0)
    if method == "lanczos3":
        return np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0)
    a = -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def resize_floats(images: Array, size: tuple[int, int], method: str) -> Array:
    """Images [B,C,h,w] resized to (height, width) `size`, without rounding."""
    shape = (*images.shape[:2], *size)
    return jax.image.resize(images, shape, method, antialias=True, precision=lax.Precision.HIGHEST)
