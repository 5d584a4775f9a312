"""The steps of the two processors: with Pillow on the host, and as torchvision does on the device.

The tests compare both with transformers' processors.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from superpoint_jax.huggingface.resizing import WIDTHS, resize_bytes, resize_floats

RED, GREEN, BLUE = 0.2989, 0.5870, 0.1140
METHODS = {0: "nearest", 1: "lanczos3", 2: "linear", 3: "cubic"}
"""Pillow's filters that jax.image has too."""


def resize_on_host(image: np.ndarray, size: tuple[int, int], resample: int) -> np.ndarray:
    """An image [C,h,w] resized by Pillow in bytes. Floats in [0, 1] are truncated to bytes, and come back as floats.

    Raises:
        ValueError: The values are neither in [0, 1] nor whole numbers from 0 to 255.
    """
    from PIL import Image

    fractions = image.dtype != np.uint8 and not np.allclose(image, np.trunc(image))
    low, high = image.min(), image.max()
    if not (low >= 0 and high <= (1 if fractions else 255)):
        raise ValueError(
            f"an image has values from {low:g} to {high:g}; values in [0, 1], or whole numbers up to 255, are needed"
        )
    pixels = (image.astype(np.float64) * 255).astype(np.float32) if fractions else image
    pixels = pixels.astype(np.uint8)
    last = pixels[0] if pixels.shape[0] == 1 else np.moveaxis(pixels, 0, -1)
    resized = np.array(Image.fromarray(last).resize((size[1], size[0]), Image.Resampling(resample)))
    resized = resized[None] if resized.ndim == 2 else np.moveaxis(resized, -1, 0)
    return scaled(resized, 1 / 255) if fractions else resized


def scaled(image: np.ndarray, factor: float) -> np.ndarray:
    """The image times the factor, computed in float64 and rounded once to float32."""
    return (image.astype(np.float64) * factor).astype(np.float32)


def gray_on_host(image: np.ndarray) -> np.ndarray:
    """The image as three equal channels [3,H,W]; an image that is gray already is returned as it is."""
    if image.shape[0] == 1 or ((image[0] == image[1]).all() and (image[1] == image[2]).all()):
        return image
    gray = image[0] * RED + image[1] * GREEN + image[2] * BLUE
    return np.stack([gray] * 3)


@partial(jax.jit, static_argnames=("size", "resample", "factor", "do_grayscale"))
def on_device(
    images: Array, *, size: tuple[int, int] | None, resample: int, factor: float | None, do_grayscale: bool
) -> Array:
    """Images [B,C,H,W] of one shape, made gray, then resized with antialiasing, then multiplied by the factor.

    Bytes keep whole values until they are multiplied: gray is truncated, and a resize is rounded.
    """
    in_bytes = images.dtype == jnp.uint8
    values = images.astype(jnp.float32)
    if do_grayscale and images.shape[1] > 1:
        values = gray_of(values, in_levels=in_bytes)
    if size is not None and size != images.shape[2:]:
        # Three equal channels need one resize.
        once = values[:, :1] if do_grayscale and images.shape[1] > 1 else values
        method = METHODS[resample]
        if in_bytes and method in WIDTHS:
            once = resize_bytes(once, size, method)
        else:
            once = resize_floats(once, size, method)
            once = jnp.clip(jnp.round(once), 0, 255) if in_bytes else once
        values = jnp.broadcast_to(once, (images.shape[0], values.shape[1], *size))
    if factor is not None:
        return values * factor
    return values.astype(images.dtype)


def gray_of(images: Array, *, in_levels: bool) -> Array:
    """Images [...,3,H,W] with three equal channels, and images that are gray already as they are.

    With `in_levels`, gray is truncated to whole numbers.
    """
    red, green, blue = (images[..., i, :, :] for i in range(3))
    gray = red * RED + green * GREEN + blue * BLUE
    gray = jnp.floor(gray) if in_levels else gray
    is_gray = ((red == green) & (green == blue)).all(axis=(-2, -1), keepdims=True)
    return jnp.repeat(jnp.where(is_gray, red, gray)[..., None, :, :], 3, axis=-3)


def grouped(images: list[Any]) -> dict[tuple[tuple[int, ...], str], list[int]]:
    """The indices of the images of each shape and type."""
    groups: dict[tuple[tuple[int, ...], str], list[int]] = {}
    for i, image in enumerate(images):
        groups.setdefault((image.shape, str(image.dtype)), []).append(i)
    return groups
