"""Enlarges images before the network, so that keypoints are found on a finer grid."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from superpoint_jax.model import valid_mask

METHOD = "cubic"


def enlarged_shape(shape: tuple[int, int], factor: float) -> tuple[int, int]:
    """(height, width) of the array after its images are enlarged."""
    height, width = (int(np.floor(np.float32(side) * np.float32(factor) + np.float32(0.5))) for side in shape)
    return height, width


def enlarge(
    gray: Float[Array, "b h w 1"], sizes: Int[Array, "b 2"], factor: float
) -> tuple[Float[Array, "b h2 w2 1"], Int[Array, "b 2"]]:
    """The images enlarged by cubic interpolation, and their new (height, width), rounded to whole pixels.

    `rescale_keypoints` with both sizes maps pixel centres exactly. The padding of an image has no influence on the
    result. Pixels next to a value that is not finite are NaN.

    Args:
        gray: Images in the top-left corners of their arrays.
        sizes: (height, width) of each image.
        factor: Factor of both sides, at least 1.
    """
    shape = enlarged_shape((gray.shape[1], gray.shape[2]), factor)
    new_sizes = jnp.floor(sizes.astype(jnp.float32) * np.float32(factor) + np.float32(0.5)).astype(jnp.int32)
    inside = valid_mask(sizes, (gray.shape[1], gray.shape[2]))[..., None]
    finite = jnp.isfinite(gray)
    scale = new_sizes.astype(jnp.float32) / sizes.astype(jnp.float32)
    resize = jax.vmap(partial(_resize, shape=shape), in_axes=(0, 0, None))
    # The weights of cubic interpolation are normalised over the pixels of the image, without its padding.
    weight = resize(inside.astype(gray.dtype), scale, METHOD)
    values = resize(jnp.where(inside & finite, gray, 0), scale, METHOD)
    damaged = jax.lax.reduce_window(
        (inside & ~finite).astype(gray.dtype), 0.0, jax.lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME"
    )
    within = valid_mask(new_sizes, shape)[..., None]
    values = jnp.where(within, values / jnp.where(within, weight, 1), 0)
    return jnp.where(within & (resize(damaged, scale, "linear") > 0), jnp.nan, values), new_sizes


def _resize(image: Float[Array, "h w 1"], scale: Float[Array, " 2"], method: str, *, shape: tuple[int, int]) -> Array:
    return jax.image.scale_and_translate(image, (*shape, 1), (0, 1), scale, jnp.zeros_like(scale), method)
