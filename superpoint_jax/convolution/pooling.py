"""2x2 max pooling on the CPU, where XLA's gradient of it takes about as long as a convolution."""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """2x2 max pooling; an odd last row or column is dropped."""
    return functools.reduce(jnp.maximum, _corners(x))


def max_pool_gradient(x: Float[Array, "b h w c"], gradient: Float[Array, "b h2 w2 c"]) -> Float[Array, "b h w c"]:
    """Gradient to the input of `max_pool`; to the first of equal maxima, in raster order."""
    best, *others = _corners(x)
    chosen = jnp.zeros(best.shape, jnp.uint8)
    for corner, value in enumerate(others, 1):
        chosen = jnp.where(value > best, jnp.uint8(corner), chosen)
        best = jnp.maximum(value, best)
    # Else the choice would be made anew for each of the four.
    chosen = lax.optimization_barrier(chosen)[:, :, None, :, None]
    corner = jnp.arange(4, dtype=jnp.uint8).reshape(1, 1, 2, 1, 2, 1)
    spread = jnp.where(chosen == corner, gradient[:, :, None, :, None], 0)
    batch, height, width, channels = gradient.shape
    spread = spread.reshape(batch, 2 * height, 2 * width, channels)
    return jnp.pad(spread, ((0, 0), (0, x.shape[1] - 2 * height), (0, x.shape[2] - 2 * width), (0, 0)))


def _corners(x: Array) -> list[Array]:
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2].reshape(batch, height // 2, 2, width // 2, 2, channels)
    return [x[:, :, i, :, j] for i in range(2) for j in range(2)]
