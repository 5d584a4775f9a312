"""How far two views disagree about the places of keypoints after refinement. Pure functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from superpoint_jax.refinement import RefinementHead
from superpoint_jax.training.refinement.pairs import SharedKeypoints

SCALE_PX = 1.0
"""Errors much larger than this count little more, because most of them are of keypoints on different structures."""


def remaining_errors(head: RefinementHead, keypoints: SharedKeypoints) -> Float[Array, "n 2"]:
    """Where the refined keypoint of a lies in b, minus the refined keypoint of b, in pixels of b (x, y)."""
    count = len(keypoints)

    def stacked(leaf: Array) -> Array:
        return leaf.reshape(2 * count, -1).astype(jnp.float32)

    offsets = head(stacked(keypoints.grays) / 255, stacked(keypoints.logs)).reshape(count, 2, 2)
    # Written out, because a product of matrices would be inexact on an accelerator.
    moved = jnp.sum(keypoints.slopes * offsets[:, 0, None], axis=-1)
    return keypoints.errors_xy + moved - offsets[:, 1]


def reprojection_loss(errors_xy: Float[Array, "n 2"], slopes: Float[Array, "n 2 2"]) -> Float[Array, ""]:
    """The mean of log(1 + (e / `SCALE_PX`)^2), where e is the error in pixels of the finer of the two views."""
    area = jnp.abs(slopes[:, 0, 0] * slopes[:, 1, 1] - slopes[:, 0, 1] * slopes[:, 1, 0])
    # b is the coarser view where the map from a reduces areas.
    squared = jnp.sum(errors_xy**2, axis=-1) / jnp.minimum(area, 1)
    return jnp.mean(jnp.log1p(squared / SCALE_PX**2))


def mirrored(key: Array, keypoints: SharedKeypoints) -> SharedKeypoints:
    """The keypoints where each view is mirrored in x, in y and at the diagonal, each with a probability of one half."""
    flips = jax.random.bernoulli(key, shape=(2, 3))

    def of_view(leaf: Array, side: int) -> Array:
        x, y, diagonal = flips[side]
        leaf = leaf[:, side]
        leaf = jnp.where(x, leaf[:, :, ::-1], leaf)
        leaf = jnp.where(y, leaf[:, ::-1], leaf)
        return jnp.where(diagonal, leaf.mT, leaf)

    def matrix(side: int) -> Array:
        """What the mirrors do to an offset (x, y)."""
        x, y, diagonal = flips[side]
        signs = jnp.diag(jnp.stack([jnp.where(x, -1.0, 1.0), jnp.where(y, -1.0, 1.0)]))
        return jnp.where(diagonal, signs[::-1], signs)

    of_a, of_b = matrix(0), matrix(1)
    slopes = jnp.einsum("ij,njk,lk->nil", of_b, keypoints.slopes, of_a, precision=jax.lax.Precision.HIGHEST)
    errors = jnp.einsum("ij,nj->ni", of_b, keypoints.errors_xy, precision=jax.lax.Precision.HIGHEST)
    grays, logs = (
        jnp.stack([of_view(leaf, 0), of_view(leaf, 1)], axis=1) for leaf in (keypoints.grays, keypoints.logs)
    )
    return SharedKeypoints(grays=grays, logs=logs, errors_xy=errors, slopes=slopes, flat=keypoints.flat)
