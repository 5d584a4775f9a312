"""Enlarges images before the network, so that keypoints are found on a finer grid."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
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
    down, across = (
        jax.vmap(partial(_weights, lengths=(gray.shape[1 + axis], shape[axis])))(sizes[:, axis], new_sizes[:, axis])
        for axis in (0, 1)
    )

    def resized(x: Array) -> Array:
        return jnp.einsum("byi,bijc,bxj->byxc", down, x, across, precision=lax.Precision.HIGHEST)

    inside = valid_mask(sizes, (gray.shape[1], gray.shape[2]))[..., None]
    finite = jnp.isfinite(gray)
    values = resized(jnp.where(inside & finite, gray, 0))
    damaged = resized((inside & ~finite).astype(gray.dtype)) > 0
    within = valid_mask(new_sizes, shape)[..., None]
    return jnp.where(within, jnp.where(damaged, jnp.nan, values), 0), new_sizes


def _weights(
    before: Int[Array, ""], after: Int[Array, ""], *, lengths: tuple[int, int]
) -> Float[Array, "after before"]:
    """The weights of linear interpolation of an axis; beyond the centre of the first or last pixel, it is repeated.

    Places are numbers of steps of 1 / (2 after) pixels: integers, so that every program computes the same weights. They
    are exact while the product of both lengths is below 2^30.

    Args:
        before: Number of pixels.
        after: Number of pixels of the enlarged axis.
        lengths: Both lengths of the arrays, which may be larger.
    """
    steps = 2 * after
    places = (2 * jnp.arange(lengths[1], dtype=jnp.int32) + 1) * before - after
    places = jnp.clip(places, 0, steps * (before - 1))
    distances = jnp.abs(places[:, None] - steps * jnp.arange(lengths[0], dtype=jnp.int32)[None])
    return jnp.maximum(steps - distances, 0).astype(jnp.float32) / steps.astype(jnp.float32)
