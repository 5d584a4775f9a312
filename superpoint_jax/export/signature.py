"""The function in every exported file: `extract` with fixed options, from arrays to arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from superpoint_jax.config import CELL_PX
from superpoint_jax.extraction import extract
from superpoint_jax.model import SuperPoint

INPUTS = ("images", "image_sizes")
"""float32 [B,H,W,C] in [0, 1]; int32 [B,2], the true (height, width) of each image in the top-left corner."""

OUTPUTS = ("keypoints", "scores", "descriptors", "mask")
"""float32 [B,K,2], (x, y) in pixels; float32 [B,K]; float32 [B,K,256]; bool [B,K], False for rows that are padding."""

Features = tuple[Array, Array, Array, Array]


def extraction_of(**options: Any) -> Callable[[SuperPoint, Array, Array], Features]:
    """A function from (model, images, image_sizes) to `OUTPUTS`, with these options of `extract`."""

    def features_of(model: SuperPoint, images: Array, image_sizes: Array) -> Features:
        features = extract(model, images, image_sizes=image_sizes, **options)
        return features.keypoints, features.scores, features.descriptors, features.mask

    return features_of


def input_shapes(
    batch: Any, shape: tuple[int, int], channels: int
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Shapes of `INPUTS`.

    Raises:
        ValueError: The shape or the number of channels is not possible for images.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels={channels}; images are gray (1) or RGB (3)")
    if min(shape) < CELL_PX:
        raise ValueError(f"shape={shape}; at least {CELL_PX} x {CELL_PX} pixels are needed")
    images = jax.ShapeDtypeStruct((batch, *shape, channels), jnp.float32)
    return images, jax.ShapeDtypeStruct((batch, 2), jnp.int32)
