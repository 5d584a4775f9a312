"""Losses of the two heads. Pure functions of arrays; every loss is a mean, so batches of any size are comparable."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from superpoint_jax.config import CELL_PX
from superpoint_jax.detection import pixels_to_cells
from superpoint_jax.geometry import in_front, pixel_grid, warp_points


def corner_targets(
    corners_xy: Float[Array, "b n 2"], weights: Float[Array, "b n"], shape: tuple[int, int]
) -> Float[Array, "b h w 65"]:
    """The target distribution of each cell over its 64 pixels and "no keypoint".

    A corner is spread over the four pixels around it with bilinear weights, so that the distribution keeps its
    sub-pixel position. The weights of corners that share a pixel add up, and a cell with a sum above 1 is normalised.
    Corners outside the image are ignored.

    Args:
        corners_xy: Positions in pixels.
        weights: Weight of each corner: 0 for padding, 1 for a certain corner.
        shape: (height, width) of the image; multiples of 8.

    Source: paper, section 3.4, whose labels are single pixels; the sub-pixel spread is ours.
    """
    height, width = shape
    low = jnp.floor(corners_xy)
    fx, fy = jnp.moveaxis(corners_xy - low, -1, 0)
    x, y = jnp.moveaxis(low.astype(jnp.int32), -1, 0)
    total = jnp.zeros((corners_xy.shape[0], height * width), jnp.float32)
    for dy, wy in ((0, 1 - fy), (1, fy)):
        for dx, wx in ((0, 1 - fx), (1, fx)):
            column, row = x + dx, y + dy
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = jnp.where(inside, row * width + column, 0)
            share = jnp.where(inside, weights * wx * wy, 0)
            total = jax.vmap(lambda t, i, s: t.at[i].add(s))(total, index, share)
    cells = pixels_to_cells(total.reshape(-1, height, width))
    mass = jnp.sum(cells, axis=-1, keepdims=True)
    return jnp.concatenate([cells / jnp.maximum(mass, 1), jnp.maximum(1 - mass, 0)], axis=-1)


def detector_loss(
    logits: Float[Array, "b h w 65"], targets: Float[Array, "b h w 65"], valid: Bool[Array, "b h w"]
) -> Float[Array, ""]:
    """Mean cross entropy over the valid cells.

    Source: paper, section 3.4, equation 2.
    """
    entropy = -jnp.sum(targets * jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1), axis=-1)
    return jnp.sum(jnp.where(valid, entropy, 0)) / _count(valid)


def descriptor_hinge_loss(
    descriptors_a: Float[Array, "b h w d"],
    descriptors_b: Float[Array, "b h w d"],
    homographies: Float[Array, "b 3 3"],
    valid_b: Bool[Array, "b h w"],
    *,
    positive_margin: float = 1.0,
    negative_margin: float = 0.2,
    positive_weight: float = 250.0,
) -> Float[Array, ""]:
    """The paper's hinge loss over all pairs of a cell in image a and a cell in image b.

    Two cells correspond if the centre of the first, mapped from a to b by the homography, is at most 8 px from the
    centre of the second.

    Source: paper, section 3.4, equations 4 to 6, with its margins and weight.
    """
    batch, height, width, dim = descriptors_a.shape
    grid = pixel_grid((height, width)).reshape(-1, 2)
    centers = jnp.broadcast_to((grid * CELL_PX + (CELL_PX - 1) / 2)[None], (batch, height * width, 2))
    mapped = warp_points(homographies, centers)
    squared = jnp.sum((mapped[:, :, None] - centers[:, None]) ** 2, axis=-1)
    same = (squared <= CELL_PX**2) & in_front(homographies, centers)[..., None]
    similarity = jnp.einsum(
        "bnd,bmd->bnm",
        descriptors_a.reshape(batch, -1, dim),
        descriptors_b.reshape(batch, -1, dim),
        preferred_element_type=jnp.float32,
    )
    hinge = jnp.where(
        same,
        positive_weight * jax.nn.relu(positive_margin - similarity),
        jax.nn.relu(similarity - negative_margin),
    )
    valid = jnp.broadcast_to(valid_b.reshape(batch, 1, -1), hinge.shape)
    return jnp.sum(jnp.where(valid, hinge, 0)) / _count(valid)


def info_nce_loss(
    descriptors_a: Float[Array, "b n d"],
    descriptors_b: Float[Array, "b n d"],
    points_a: Float[Array, "b n 2"],
    points_b: Float[Array, "b n 2"],
    mask: Bool[Array, "b n"],
    *,
    inverse_temperature: Float[Array, ""] | float,
    ignore_px: float = 6.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Symmetric InfoNCE loss over corresponding points, and the fraction of points whose nearest descriptor is right.

    Row i of a corresponds to row i of b. Every other valid row of the same image pair is a negative, except those
    within `ignore_px` of the true one, which descriptors of 8-pixel cells cannot distinguish.

    Source: van den Oord, Li, Vinyals, "Representation Learning with Contrastive Predictive Coding" (2018), equation 4;
    applied in both directions as in CLIP (2021).
    """
    similarity = jnp.einsum("bnd,bmd->bnm", descriptors_a, descriptors_b, preferred_element_type=jnp.float32)
    logits = similarity * inverse_temperature
    n = mask.shape[1]
    own = jnp.eye(n, dtype=bool)[None]
    usable = mask[:, :, None] & mask[:, None, :]

    def direction(logits: Array, points: Array) -> tuple[Array, Array]:
        squared = jnp.sum((points[:, :, None] - points[:, None]) ** 2, axis=-1)
        allowed = usable & (own | (squared > ignore_px**2))
        rows = jnp.where(allowed, logits, -1e9)
        log_probability = jnp.einsum("bnn->bn", jax.nn.log_softmax(rows, axis=-1))
        return -log_probability, jnp.argmax(rows, axis=-1) == jnp.arange(n)[None]

    forward, hit = direction(logits, points_b)
    backward, _ = direction(logits.mT, points_a)
    count = _count(mask)
    loss = jnp.sum(jnp.where(mask, forward + backward, 0)) / (2 * count)
    return loss, jnp.sum(hit & mask, dtype=jnp.float32) / count


def _count(mask: Array) -> Float[Array, ""]:
    """The number of True entries, at least 1, for the divisor of a mean."""
    return jnp.maximum(jnp.sum(mask, dtype=jnp.float32), 1)
