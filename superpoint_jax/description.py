"""Descriptors at keypoints, sampled from dense descriptors. Pure functions.

Each sampling rule is a function from pixels to cells. For a keypoint at x pixels, in a map of n cells along that axis,
it gives u, the position in the dense map with cell centres at integers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from superpoint_jax.config import CELL_PX
from superpoint_jax.model import normalize

if TYPE_CHECKING:
    from superpoint_jax.config import SamplingRule


def legacy(x: Array, n: Array) -> Array:
    """u by the rule in the published results of Magic Leap's weights; it is off by up to 3.5 px across the image.

    Source: SuperGlue, LightGlue, Hugging Face (tests/parity).
    """
    return (x - 3.5) / (CELL_PX * n - 4.5) * (n - 1)


def centered(x: Array, n: Array) -> Array:
    """u by the exact rule: the centre of cell i lies at pixel 8 i + 3.5.

    Source: rpautrat's torch port (tests/parity).
    """
    return (x + 0.5) / CELL_PX - 0.5


def demo(x: Array, n: Array) -> Array:
    """u as in the Magic Leap demo under torch 1.3 and later, whose `grid_sample` no longer aligns corners."""
    return x / CELL_PX - 0.5


def demo_2018(x: Array, n: Array) -> Array:
    """u as in the Magic Leap demo under the torch of 2018, whose `grid_sample` aligned corners."""
    return x * (n - 1) / (CELL_PX * n)


SAMPLING_RULES: dict[SamplingRule, Callable[[Array, Array], Array]] = {
    "legacy": legacy,
    "centered": centered,
    "demo": demo,
    "demo_2018": demo_2018,
}


def sample_descriptors(
    descriptors_dense: Float[Array, "b h w d"],
    keypoints_xy: Float[Array, "b k 2"],
    mask: Bool[Array, "b k"],
    image_sizes: Int[Array, "b 2"],
    *,
    rule: SamplingRule = "centered",
) -> Float[Array, "b k d"]:
    """Descriptors of unit length at (x, y) in pixels; rows where the mask is False are 0.

    They are sampled bilinearly, with zeros outside the dense map and where it is not finite, and then L2-normalised.
    The result is differentiable in the map and in the coordinates.
    """
    cells = image_sizes // CELL_PX
    u = SAMPLING_RULES[rule](keypoints_xy, cells[:, None, ::-1].astype(keypoints_xy.dtype))
    sampled = _bilinear(descriptors_dense, u, cells)
    return jnp.where(mask[..., None], normalize(sampled), 0)


def _bilinear(values: Array, u: Array, sizes: Array) -> Array:
    """The values [B,h,w,D] at u [B,K,2] (x, y), with zeros outside the valid `sizes` [B,2] (h, w)."""
    batch, height, width, _ = values.shape
    flat = jnp.where(jnp.isfinite(values), values, 0).reshape(batch, height * width, -1)
    low = jnp.floor(jax.lax.stop_gradient(u))
    fraction = u - low
    low = low.astype(jnp.int32)
    total = None
    for dy in (0, 1):
        for dx in (0, 1):
            column, row = low[..., 0] + dx, low[..., 1] + dy
            inside = (column >= 0) & (row >= 0) & (column < sizes[:, 1:]) & (row < sizes[:, :1])
            weight = (fraction[..., 0] if dx else 1 - fraction[..., 0]) * (
                fraction[..., 1] if dy else 1 - fraction[..., 1]
            )
            index = jnp.where(inside, row * width + column, 0)
            corner = jax.vmap(lambda image, i: image[i])(flat, index)
            term = jnp.where(inside, weight, 0)[..., None] * corner
            total = term if total is None else total + term
    return total
