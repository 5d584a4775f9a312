"""Antialiased resizing of bytes on the device, to the byte what torch and torchvision make of them on a CPU.

torch multiplies bytes with whole-numbered weights and rounds to bytes after the width and again after the height. Where
a true sum lies at half a level, and many do at the usual ratios, any other arithmetic rounds it elsewhere.
"""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

WIDTHS = {"linear": 2, "cubic": 4, "lanczos3": 6}
"""Width of a filter in pixels. torch has the first two for bytes; the third is Pillow's, by the same arithmetic."""

LARGEST_WEIGHT = 1 << 15
MOST_BITS = 22


def resize_bytes(images: Array, size: tuple[int, int], method: str) -> Array:
    """[B,C,h,w], whole numbers 0 to 255 in float32, at (height, width) `size`; whole numbers again."""
    images = _along_last(images, size[1], method)
    return jnp.swapaxes(_along_last(jnp.swapaxes(images, 2, 3), size[0], method), 2, 3)


def _along_last(images: Array, length: int, method: str) -> Array:
    if images.shape[-1] == length:
        return images
    whole, bits = whole_weights(images.shape[-1], length, method)
    # In two parts, whose sums are whole numbers below 2^24: float32 has them exactly.
    high, low = whole >> 7, whole & 127
    sums = [
        jnp.einsum("bchw,ow->bcho", images, part.astype(np.float32), precision=lax.Precision.HIGHEST).astype(jnp.int32)
        for part in (high, low)
    ]
    total = (sums[0] << 7) + sums[1] + (1 << (bits - 1))
    return jnp.clip(total >> bits, 0, 255).astype(jnp.float32)


@cache
def whole_weights(given: int, wanted: int, method: str) -> tuple[np.ndarray, int]:
    """int32 [wanted, given]: what each pixel counts for each new one, times 2 to the number of bits that comes with it.

    As many bits as the largest weight leaves in 16 with a sign.
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
    """[B,C,h,w] at (height, width) `size`, nothing rounded."""
    shape = (*images.shape[:2], *size)
    return jax.image.resize(images, shape, method, antialias=True, precision=lax.Precision.HIGHEST)
