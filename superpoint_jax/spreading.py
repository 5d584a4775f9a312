"""Chooses keypoints that are spread over the image, instead of only those with the best scores."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

QUOTA = 4
"""Keypoints that a cell of the grid would have if all cells had equally many."""


def grid_cells(
    rows: Int[Array, "b n"], columns: Int[Array, "b n"], image_sizes: Int[Array, "b 2"], count: int
) -> Int[Array, "b n"]:
    """The number of the cell in which each pixel lies, in a grid for `count` keypoints.

    The image is divided into equal cells that are nearly squares, about `count` / `QUOTA` of them. They depend on the
    size of the image, and not on that of its array.
    """
    size = image_sizes.astype(jnp.float32)
    side = jnp.sqrt(size[:, :1] * size[:, 1:] * (QUOTA / count))
    down, across = jnp.split(jnp.maximum(jnp.round(size / side), 1).astype(jnp.int32), 2, axis=1)
    return rows * down // image_sizes[:, :1] * across + columns * across // image_sizes[:, 1:]


def rank_in_cell(cells: Int[Array, "b n"], mask: Bool[Array, "b n"]) -> Int[Array, "b n"]:
    """How many earlier candidates lie in the cell of each candidate; those outside the mask come after all others."""
    count = cells.shape[1]
    places = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), cells.shape)
    cells = jnp.where(mask, cells, jnp.iinfo(jnp.int32).max)
    sorted_cells, order = lax.sort((cells, places), num_keys=1, is_stable=True)
    begins = jnp.concatenate([jnp.ones_like(mask[:, :1]), sorted_cells[:, 1:] != sorted_cells[:, :-1]], axis=1)
    first = lax.cummax(jnp.where(begins, places, 0), axis=1)
    _, rank = lax.sort((order, places - first), num_keys=1, is_stable=True)
    return jnp.where(mask, rank, count)


def spread_over_grid(
    scores: Float[Array, "b n"],
    index: Int[Array, "b n"],
    image_sizes: Int[Array, "b 2"],
    *,
    width: int,
    count: int,
) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
    """The scores and indices of `count` candidates that are spread over the image, in descending order of score.

    The best candidate of every cell of a grid is taken first, then the second best of every cell that has two, and so
    on, until there are `count`; of the last round those with the best scores. So the count is filled wherever the
    candidates are, and an image with texture everywhere gets about `QUOTA` keypoints per cell.

    Args:
        scores: Scores in descending order, negative for rows without a candidate.
        index: Number of the pixel of each candidate in a map that is `width` wide.
        image_sizes: (height, width) of the images.
        width: Width of the map.
        count: Number of keypoints.

    Source: the buckets of B. Kitt, A. Geiger, H. Lategahn, "Visual odometry based on stereo image sequences with
    RANSAC-based outlier rejection scheme", 2010, section II, with rounds in the place of a fixed number per bucket.
    """
    mask = scores >= 0
    rank = rank_in_cell(grid_cells(index // width, index % width, image_sizes, count), mask)
    places = jnp.broadcast_to(jnp.arange(scores.shape[1], dtype=jnp.int32), scores.shape)
    # Candidates come in the order of their scores, so a stable sort by rank keeps that order within a round.
    _, chosen = lax.sort((rank, places), num_keys=1, is_stable=True)
    chosen = jnp.sort(chosen[:, :count], axis=1)
    return jnp.take_along_axis(scores, chosen, axis=1), jnp.take_along_axis(index, chosen, axis=1)
