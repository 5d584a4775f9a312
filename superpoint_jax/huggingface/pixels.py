"""Turns `pixel_values` of any kind and layout into the images that `extract` takes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from superpoint_jax.huggingface.arrays import is_traced, to_jax

CHANNELS = (1, 3, 4)


def as_images(pixel_values: Any, *, first_channel: bool) -> Any:
    """Images [B,H,W,1 or 3], an array of numpy or jax.

    Args:
        pixel_values: [B,C,H,W], or [B,H,W,C] if the shape can't be [B,C,H,W]; C is 1, 3 or 4.
        first_channel: Keep only the first channel, because transformers' model reads no other.

    Raises:
        ValueError: The shape is another, or floats are far outside [0, 1] (checked unless jax is tracing).
    """
    shape = getattr(pixel_values, "shape", None)
    if shape is None:
        raise ValueError(
            f"pixel_values is a {type(pixel_values).__name__}; an array [B,3,H,W] is needed. Images of different sizes "
            f"don't fit into one array: leave do_resize on"
        )
    if len(shape) != 4 or (shape[1] not in CHANNELS and shape[3] not in CHANNELS):
        raise ValueError(f"pixel_values have shape {tuple(shape)}; [B,3,H,W] is needed, or [B,H,W,3]")
    pixels = to_jax(pixel_values)
    if pixels.dtype == np.float64:
        pixels = pixels.astype(np.float32)
    library = np if isinstance(pixels, np.ndarray) else jnp
    images = library.moveaxis(pixels, 1, -1) if shape[1] in CHANNELS else pixels
    images = images[..., :1] if first_channel else images[..., :3]
    _check_values(images)
    return images


def _check_values(images: Any) -> None:
    """Raise a ValueError if floats are far outside [0, 1].

    Such values saturate the network. transformers computes with them all the same, but its keypoints are then noise.
    """
    if is_traced(images) or images.dtype == np.uint8 or 0 in images.shape:
        return
    library = jnp if isinstance(images, jax.Array) else np
    finite = library.where(library.isfinite(images), images, 0)
    low, high = float(finite.min()), float(finite.max())
    if low < -1 or high > 2:
        raise ValueError(
            f"pixel_values have values from {low:g} to {high:g}; [0, 1] is needed: leave do_rescale on, or pass bytes"
        )
