"""Enlarges images before the network, so that keypoints are found on a finer grid."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from superpoint_jax.model import valid_mask


def enlarged_shape(shape: tuple[int, int], factor: float) -> tuple[int, int]:
    """(height, width) of the array after its images are enlarged."""
    height, width = (int(np.floor(np.float32(side) * np.float32(factor) + np.float32(0.5))) for side in shape)
    return height, width


def enlarge(
    gray: Float[Array, "b h w 1"], sizes: Int[Array, "b 2"], factor: float
) -> tuple[Float[Array, "b h2 w2 1"], Int[Array, "b 2"]]:
    """The images enlarged by linear interpolation, and their new (height, width), rounded to whole pixels.

    `rescale_keypoints` with both sizes maps pixel centres exactly. The padding of an image has no influence on the
    result. Pixels that are interpolated from a value that is not finite are NaN. Interpolation is linear because that
    of the views which the weights in the package were trained on is; cubic interpolation finds worse keypoints
    (docs/performance.md).

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
    resize = jax.vmap(partial(_resize, shape=shape))
    # The weights of the interpolation are normalised over the pixels of the image, without its padding.
    weight = resize(inside.astype(gray.dtype), scale)
    values = resize(jnp.where(inside & finite, gray, 0), scale)
    damaged = resize((inside & ~finite).astype(gray.dtype), scale) > 0
    within = valid_mask(new_sizes, shape)[..., None]
    values = jnp.where(within, values / jnp.where(within, weight, 1), 0)
    return jnp.where(within & damaged, jnp.nan, values), new_sizes


def _resize(image: Float[Array, "h w 1"], scale: Float[Array, " 2"], *, shape: tuple[int, int]) -> Array:
    return jax.image.scale_and_translate(image, (*shape, 1), (0, 1), scale, jnp.zeros_like(scale), "linear")
