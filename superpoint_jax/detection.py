"""From keypoint logits to a fixed number of keypoints: score map, suppression, border, top-k. Pure functions."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from superpoint_jax.config import CELL_PX, SuperPointConfig

if TYPE_CHECKING:
    from superpoint_jax.config import BorderRule, ScoreRule, ThresholdRule

Threshold = float | Array | np.ndarray
"""Smallest score of a keypoint: one for all images [], or one per image [B]."""


def score_map(logits: Float[Array, "b h w 65"], *, rule: ScoreRule = "softmax") -> Float[Array, "b 8*h 8*w"]:
    """Probability of a keypoint at each pixel: softmax over a cell's 65 logits, the last dropped, in float32.

    Args:
        rule: "softmax", or the Magic Leap demo's "unshifted_softmax" = exp(x) / (sum exp(x) + 1e-5). Where its
            exponentials would overflow, above 88, numerator and denominator are scaled down alike.

    Source: paper, section 3.2; tests/parity.
    """
    logits = logits.astype(jnp.float32)
    if rule == "softmax":
        probabilities = jax.nn.softmax(logits, axis=-1)
    else:
        # 0 for the logits that networks have, so that the demo's arithmetic is kept to the bit.
        excess = lax.stop_gradient(jnp.maximum(jnp.max(logits, axis=-1, keepdims=True) - 80, 0))
        exponentials = jnp.exp(logits - excess)
        probabilities = exponentials / (jnp.sum(exponentials, axis=-1, keepdims=True) + 1e-5 * jnp.exp(-excess))
    batch, height, width, _ = logits.shape
    pixels = probabilities[..., :-1].reshape(batch, height, width, CELL_PX, CELL_PX)
    return pixels.transpose(0, 1, 3, 2, 4).reshape(batch, height * CELL_PX, width * CELL_PX)


def window_max(x: Array, radius: int) -> Array:
    """Maximum over the (2 radius + 1)^2 window of each pixel of [B,H,W]; what lies outside the array does not count.

    Two 1-D windows: the maximum is separable, and a 9x9 window is 40 times slower in XLA on CPU.
    """
    lowest = jnp.array(-jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min, x.dtype)
    size = 2 * radius + 1
    for window in ((1, size, 1), (1, 1, size)):
        x = lax.reduce_window(x, lowest, lax.max, window, (1, 1, 1), "SAME")
    return x


def suppress_three_pass(scores: Float[Array, "b h w"], radius: int) -> Float[Array, "b h w"]:
    """Scores where they are kept by three-pass non-maximum suppression, else 0.

    A pixel is kept that equals the maximum of its window; twice more, all within `radius` of a kept pixel are set aside
    and what is then its window's maximum is kept too. Equal neighbours are all kept. Negative infinity marks pixels
    that do not exist; they are never kept. Chebyshev radius in pixels.

    Source: the suppression of SuperGlue's, LightGlue's and Hugging Face's SuperPoint, bit for bit (tests/parity).
    """
    exists = scores > -jnp.inf
    kept = scores == window_max(scores, radius)
    for _ in range(2):
        near_kept = window_max(kept.astype(jnp.float32), radius) > 0
        rest = jnp.where(near_kept, 0, scores)
        kept = kept | ((rest == window_max(rest, radius)) & ~near_kept)
        kept = kept & exists
    return jnp.where(kept & exists, scores, 0)


@partial(jax.jit, static_argnames="radius")
def suppress_greedy(scores: Float[Array, "b h w"], radius: int) -> Float[Array, "b h w"]:
    """Scores where they are kept by greedy non-maximum suppression, else 0.

    By descending score (ties in raster order), a candidate is kept unless one within Chebyshev distance `radius` has
    been. Candidates are the scores above 0. The sequential rule is computed in parallel rounds, each of which settles
    every candidate that is the first of its window; the result is the same.

    Source: the suppression of the Magic Leap demo (tests/parity).
    """
    batch, height, width = scores.shape
    flat = scores.reshape(batch, -1)
    # A unique integer a pixel, larger for those that come first, makes ties impossible.
    order = jnp.argsort(-flat, axis=-1, stable=True)
    places = jnp.arange(height * width, 0, -1, dtype=jnp.int32)
    rank = jax.vmap(lambda o: jnp.zeros(height * width, jnp.int32).at[o].set(places, unique_indices=True))(order)
    rank = jnp.where(flat > 0, rank, 0).reshape(scores.shape)

    def settle(state: tuple[Array, Array]) -> tuple[Array, Array]:
        undecided, kept = state
        first = (undecided > 0) & (undecided == window_max(undecided, radius))
        near_first = window_max(first.astype(jnp.int32), radius) > 0
        return jnp.where(near_first, 0, undecided), kept | first

    _, kept = lax.while_loop(lambda state: jnp.any(state[0] > 0), settle, (rank, jnp.zeros(scores.shape, bool)))
    return jnp.where(kept, scores, 0)


def border_mask(
    shape: tuple[int, int], image_sizes: Int[Array, "b 2"], border_px: int, *, rule: BorderRule = "image"
) -> Bool[Array, "b h w"]:
    """True where a keypoint may lie: at least `border_px` from the border.

    Args:
        shape: (H, W) of the score map.
        image_sizes: (height, width) of the images.
        rule: "image": all four borders of the image; "cells": of the part that whole cells cover; "top_left": Hugging
            Face's defect, which spares the bottom and the right.
    """
    rows, columns = jnp.arange(shape[0])[None, :, None], jnp.arange(shape[1])[None, None, :]
    inside = (rows >= border_px) & (columns >= border_px)
    if rule == "top_left":
        return jnp.broadcast_to(inside, (image_sizes.shape[0], *shape))
    end = image_sizes if rule == "image" else image_sizes // CELL_PX * CELL_PX
    end = end - border_px
    return inside & (rows < end[:, :1, None]) & (columns < end[:, 1:, None])


def capacity(shape: tuple[int, int], config: SuperPointConfig) -> int:
    """Rows K of the output for a score map of (H, W): `max_keypoints`, or all that fit more than `nms_radius` apart."""
    if config.max_keypoints != -1:
        return config.max_keypoints
    spacing = config.nms_radius + 1
    return math.ceil(shape[0] / spacing) * math.ceil(shape[1] / spacing)


def top_k(values: Float[Array, "b n"], k: int) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
    """The k largest values of each row and their indices, descending, ties by lower index; exactly `lax.top_k`.

    In two stages: the k segments with the largest maxima hold the k largest values (a segment that comes k segments
    later holds none: each before it has a value at least as large, and earlier in the row if equal). So no sort sees
    more than about 2 sqrt(n k) values.
    """
    batch, n = values.shape
    segment = 2 ** round(math.log2(math.sqrt(n / k))) if n > k else 1
    if segment < 4:
        top, index = lax.top_k(values, k)
        return top, index
    padded = jnp.pad(values, ((0, 0), (0, -n % segment)), constant_values=-jnp.inf)
    segments = padded.reshape(batch, -1, segment)
    _, best = lax.top_k(jnp.max(segments, axis=-1), k)
    best = jnp.sort(best, axis=-1)  # row order again, so that ties stay in it
    candidates = jnp.take_along_axis(segments, best[..., None], axis=1).reshape(batch, -1)
    top, position = lax.top_k(candidates, k)
    return top, jnp.take_along_axis(best, position // segment, axis=1) * segment + position % segment


def detect(
    logits: Float[Array, "b h w 65"],
    image_sizes: Int[Array, "b 2"],
    *,
    config: SuperPointConfig,
    keypoint_threshold: Threshold | None = None,
) -> tuple[Float[Array, "b k 2"], Float[Array, "b k"], Bool[Array, "b k"], Int[Array, " b"]]:
    """Keypoints of the logits; see `select_keypoints`."""
    scores = score_map(logits, rule=config.score_rule)
    return select_keypoints(scores, image_sizes, config=config, keypoint_threshold=keypoint_threshold)


def select_keypoints(
    scores: Float[Array, "b h w"],
    image_sizes: Int[Array, "b 2"],
    *,
    config: SuperPointConfig,
    keypoint_threshold: Threshold | None = None,
) -> tuple[Float[Array, "b k 2"], Float[Array, "b k"], Bool[Array, "b k"], Int[Array, " b"]]:
    """Keypoints of a score map: (keypoints_xy, scores, mask, num_detected).

    (x, y) in pixels, centres at integers; scores descending, ties in raster order; rows beyond the mask are 0.
    Borders and suppression are those of the peak's pixel; a refined position may lie up to `refinement_radius` beyond.
    `num_detected` counts before the cut to K. Differentiable through the scores (and the coordinates where they are
    refined); which pixels are keypoints is not. A `keypoint_threshold` stands in for the configuration's: one for all
    images or one per image, which may be traced.
    """
    shape = (scores.shape[1], scores.shape[2])
    kept = keypoint_mask(scores, image_sizes, config=config, keypoint_threshold=keypoint_threshold)
    num_detected = jnp.sum(kept, axis=(1, 2), dtype=jnp.int32)

    k = capacity(shape, config)
    available = min(k, shape[0] * shape[1])
    candidates = jnp.where(kept, lax.stop_gradient(scores), -1).reshape(scores.shape[0], -1)
    best, index = top_k(candidates, available)
    index = jnp.where(best >= 0, index, 0)
    mask = best >= 0
    values = jnp.take_along_axis(scores.reshape(scores.shape[0], -1), index, axis=1)
    keypoints_xy = jnp.stack([index % shape[1], index // shape[1]], axis=-1).astype(jnp.float32)
    if config.refinement == "soft_argmax":
        keypoints_xy = refine_soft_argmax(scores, keypoints_xy, image_sizes, radius=config.refinement_radius)
    rows = ((0, 0), (0, k - available))
    return (
        jnp.pad(jnp.where(mask[..., None], keypoints_xy, 0), (*rows, (0, 0))),
        jnp.pad(jnp.where(mask, values, 0), rows),
        jnp.pad(mask, rows),
        num_detected,
    )


def keypoint_mask(
    scores: Float[Array, "b h w"],
    image_sizes: Int[Array, "b 2"],
    *,
    config: SuperPointConfig,
    keypoint_threshold: Threshold | None = None,
) -> Bool[Array, "b h w"]:
    """True where the score map has a keypoint: above the threshold, not suppressed, not at the border."""
    scores = lax.stop_gradient(scores)
    shape = (scores.shape[1], scores.shape[2])
    threshold = config.keypoint_threshold if keypoint_threshold is None else keypoint_threshold
    threshold = jnp.asarray(checked_threshold(threshold, scores.shape[0]), scores.dtype).reshape(-1, 1, 1)
    above = partial(_above, threshold=threshold, rule=config.threshold_rule)
    exists = border_mask(shape, image_sizes, 0, rule="cells")
    if config.suppression_rule == "greedy":
        # The demo takes the threshold first; a suppressed or missing pixel is 0, and 0 is no candidate.
        kept = suppress_greedy(jnp.where(exists & above(scores), scores, 0), config.nms_radius) > 0
    else:
        kept = suppress_three_pass(jnp.where(exists, scores, -jnp.inf), config.nms_radius)
        kept = above(kept) & (kept > 0)
    return kept & border_mask(shape, image_sizes, config.border_removal_distance, rule=config.border_rule)


def refine_soft_argmax(
    scores: Float[Array, "b h w"],
    keypoints_xy: Float[Array, "b k 2"],
    image_sizes: Int[Array, "b 2"],
    *,
    radius: int = 2,
) -> Float[Array, "b k 2"]:
    """Keypoints moved to the centre of mass of the scores in the (2 radius + 1)^2 window around them.

    Never leaves the window; pixels outside the image weigh nothing. Differentiable.
    """
    offsets = jnp.arange(-radius, radius + 1, dtype=jnp.int32)
    dx, dy = offsets[None, None, None, :], offsets[None, None, :, None]
    rows = keypoints_xy[..., 1].astype(jnp.int32)[..., None, None] + dy
    columns = keypoints_xy[..., 0].astype(jnp.int32)[..., None, None] + dx
    cells_end = (image_sizes // CELL_PX * CELL_PX)[:, None, None, None]
    inside = (rows >= 0) & (columns >= 0) & (rows < cells_end[..., 0]) & (columns < cells_end[..., 1])
    index = jnp.where(inside, rows * scores.shape[2] + columns, 0)
    flat = scores.reshape(scores.shape[0], -1)
    window = jax.vmap(lambda image, i: image[i])(flat, index)
    weights = jnp.where(inside, window, 0)
    total = jnp.maximum(jnp.sum(weights, axis=(-1, -2)), 1e-12)
    shift = jnp.stack([jnp.sum(weights * d.astype(weights.dtype), axis=(-1, -2)) for d in (dx, dy)], axis=-1)
    return keypoints_xy + shift / total[..., None]


def checked_threshold(threshold: Threshold, batch: Any) -> Threshold:
    """The threshold of a batch, once it is known to be one.

    Raises:
        ValueError: It is negative or not a number (unless it is traced), or neither one number nor one per image.
    """
    if isinstance(threshold, int | float | np.ndarray) and not np.all(threshold >= 0):
        raise ValueError(f"keypoint_threshold={threshold} must be a number that is not negative")
    if np.shape(threshold) not in ((), (batch,)):
        raise ValueError(f"keypoint_threshold has shape {np.shape(threshold)}; one number, or one per image, is needed")
    return threshold


def _above(scores: Array, *, threshold: Array, rule: ThresholdRule) -> Array:
    return scores > threshold if rule == "greater" else scores >= threshold
