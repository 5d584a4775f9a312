"""A fixed number of keypoints from keypoint logits: score map, suppression, border, top-k. Pure functions."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Shaped

from superpoint_jax.config import CELL_PX, SuperPointConfig
from superpoint_jax.spreading import spread_over_grid
from superpoint_jax.top_k import top_k

if TYPE_CHECKING:
    from superpoint_jax.config import BorderRule, ScoreRule, ThresholdRule

Threshold = float | Array | np.ndarray
"""Smallest score of a keypoint: one for all images [], or one per image [B]."""


@jax.named_scope("score_map")
def score_map(
    logits: Float[Array, "b h w 65"], image_sizes: Int[Array, "b 2"] | None = None, *, rule: ScoreRule = "softmax"
) -> Float[Array, "b 8*h 8*w"]:
    """Probability of a keypoint at each pixel: the softmax over the 65 logits of a cell without the last, in float32.

    It is 0 in cells with a logit that is not finite, and in cells outside the image or only partly inside.

    Args:
        logits: Keypoint logits.
        image_sizes: (height, width) of the images, by default all of the array.
        rule: "softmax", or "unshifted_softmax" = exp(x) / (sum exp(x) + 1e-5) of the Magic Leap demo. Where its
            exponentials would overflow, above 88, numerator and denominator are scaled down by the same factor.

    Source: paper, section 3.2; tests/parity.
    """
    logits = logits.astype(jnp.float32)
    largest = lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    # Without shift, this is 0 for the logits of real networks, so that the result is bitwise that of the demo.
    excess = largest if rule == "softmax" else jnp.maximum(largest - 80, 0)
    # 0 times what is not finite is NaN, and so are its sums, whereas XLA's exponential of NaN can be a number.
    exponentials = jnp.exp(logits - excess) + 0 * logits
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    if rule == "unshifted_softmax":
        total = total + 1e-5 * jnp.exp(-excess)
    absent = jnp.isnan(total)
    if image_sizes is not None:
        absent |= ~border_mask((logits.shape[1], logits.shape[2]), image_sizes // CELL_PX, 0)[..., None]
    probabilities = jnp.where(absent, 0, exponentials / total)
    # Without the barrier, XLA for TPU computes all that follows in the layout of the cells, three times slower.
    return lax.optimization_barrier(cells_to_pixels(probabilities[..., :-1]))


def cells_to_pixels(values: Float[Array, "b h w 64"]) -> Float[Array, "b 8*h 8*w"]:
    """The map in which the 64 values of a cell, row by row, are those of its 8x8 pixels."""
    batch, height, width, _ = values.shape
    pixels = values.reshape(batch, height, width, CELL_PX, CELL_PX)
    return pixels.transpose(0, 1, 3, 2, 4).reshape(batch, height * CELL_PX, width * CELL_PX)


def pixels_to_cells(values: Shaped[Array, "b h w"]) -> Shaped[Array, "b h//8 w//8 64"]:
    """The inverse of `cells_to_pixels`."""
    batch, height, width = values.shape
    cells = values.reshape(batch, height // CELL_PX, CELL_PX, width // CELL_PX, CELL_PX)
    return cells.transpose(0, 1, 3, 2, 4).reshape(batch, height // CELL_PX, width // CELL_PX, CELL_PX**2)


def window_max(x: Array, radius: int) -> Array:
    """Maximum over the (2 radius + 1)^2 window of each pixel of [B,H,W]; the outside of the array is ignored.

    It is computed by two 1-D windows, because a 9x9 window is 40 times slower in XLA on a CPU.
    """
    lowest = jnp.array(-jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min, x.dtype)
    size = 2 * radius + 1
    for window in ((1, size, 1), (1, 1, size)):
        x = lax.reduce_window(x, lowest, lax.max, window, (1, 1, 1), "SAME")
    return x


def suppress_three_pass(scores: Float[Array, "b h w"], radius: int) -> Float[Array, "b h w"]:
    """Scores of the pixels kept by three-pass non-maximum suppression, 0 elsewhere.

    First, every pixel that equals the maximum of its window is kept. Then, twice, all pixels within `radius` of a kept
    pixel are set to 0, and the pixels that are now the maximum of their window are also kept. Equal neighbours are all
    kept. No score is negative, so pixels of score 0 have no influence. `radius` is a Chebyshev distance in pixels.

    Source: the suppression in SuperGlue, LightGlue and Hugging Face's SuperPoint, bit for bit (tests/parity).
    """
    kept = scores == window_max(scores, radius)
    for _ in range(2):
        near_kept = window_max(kept.astype(jnp.float32), radius) > 0
        rest = jnp.where(near_kept, 0, scores)
        kept |= (rest == window_max(rest, radius)) & ~near_kept
    return jnp.where(kept, scores, 0)


@partial(jax.jit, static_argnames="radius")
def suppress_greedy(scores: Float[Array, "b h w"], radius: int) -> Float[Array, "b h w"]:
    """Scores of the pixels kept by greedy non-maximum suppression, 0 elsewhere.

    Candidates are the pixels with scores above 0. In descending order of score (ties in raster order), a candidate is
    kept unless another within Chebyshev distance `radius` has been kept before. This sequential rule is computed in
    parallel rounds with the same result; each round decides every candidate that is the first of its window.

    Source: the suppression of the Magic Leap demo (tests/parity).
    """
    batch, height, width = scores.shape
    flat = scores.reshape(batch, -1)
    # Each pixel gets a unique integer, larger for pixels that come earlier, so that there are no ties.
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
    """True where a keypoint may lie, at least `border_px` from the border.

    Args:
        shape: (H, W) of the score map.
        image_sizes: (height, width) of the images.
        border_px: Smallest distance from the border, in pixels.
        rule: "image" for all four borders of the image; "cells" for all four borders of the area that whole cells
            cover; "top_left" for only the top and the left border, as in Hugging Face's port, where this is a defect.
    """
    rows, columns = jnp.arange(shape[0])[None, :, None], jnp.arange(shape[1])[None, None, :]
    inside = (rows >= border_px) & (columns >= border_px)
    if rule == "top_left":
        return jnp.broadcast_to(inside, (image_sizes.shape[0], *shape))
    end = image_sizes if rule == "image" else image_sizes // CELL_PX * CELL_PX
    end = end - border_px
    return inside & (rows < end[:, :1, None]) & (columns < end[:, 1:, None])


def capacity(shape: tuple[int, int], config: SuperPointConfig) -> int:
    """Rows K of the output for a score map of (H, W): `max_keypoints`, or if that is -1, the most keypoints that fit.

    Keypoints fit if they are more than `nms_radius` apart.
    """
    if config.max_keypoints != -1:
        return config.max_keypoints
    spacing = config.nms_radius + 1
    return math.ceil(shape[0] / spacing) * math.ceil(shape[1] / spacing)


def detect(
    logits: Float[Array, "b h w 65"],
    image_sizes: Int[Array, "b 2"],
    *,
    config: SuperPointConfig,
    keypoint_threshold: Threshold | None = None,
    region: Bool[Array, "b _h _w"] | None = None,
) -> tuple[Float[Array, "b k 2"], Float[Array, "b k"], Bool[Array, "b k"], Int[Array, " b"]]:
    """Keypoints from keypoint logits: (keypoints_xy, scores, mask, num_detected); see `select_keypoints`."""
    scores = score_map(logits, image_sizes, rule=config.score_rule)
    return select_keypoints(scores, image_sizes, config=config, keypoint_threshold=keypoint_threshold, region=region)


def select_keypoints(
    scores: Float[Array, "b h w"],
    image_sizes: Int[Array, "b 2"],
    *,
    config: SuperPointConfig,
    keypoint_threshold: Threshold | None = None,
    region: Bool[Array, "b _h _w"] | None = None,
) -> tuple[Float[Array, "b k 2"], Float[Array, "b k"], Bool[Array, "b k"], Int[Array, " b"]]:
    """Keypoints from a score map: (keypoints_xy, scores, mask, num_detected).

    No score may be negative, and outside the images all must be 0, as in the result of `score_map`. Positions are
    (x, y) in pixels, centres at integers. Scores are descending, ties in raster order. Rows where the mask is False
    are 0. Border and suppression apply to the pixel of the peak; a refined position may lie up to `refinement_radius`
    beyond. `num_detected` counts before the cut to K. Gradients flow through the scores and through refined
    coordinates, but not through the choice of pixels. A `keypoint_threshold`, one for all images or one per image,
    replaces that of the configuration and may be traced.
    """
    shape = (scores.shape[1], scores.shape[2])
    with jax.named_scope("suppression"):
        kept = keypoint_mask(scores, image_sizes, config=config, keypoint_threshold=keypoint_threshold, region=region)
    num_detected = jnp.sum(kept, axis=(1, 2), dtype=jnp.int32)

    k = capacity(shape, config)
    available = min(k, shape[0] * shape[1])
    candidates = jnp.where(kept, lax.stop_gradient(scores), -1).reshape(scores.shape[0], -1)
    with jax.named_scope("top_k"):
        if config.spread == "grid":
            # All that can lie in the array: with equal scores, those beyond are no candidates.
            wide = min(max(available, capacity(shape, config.replace(max_keypoints=-1))), shape[0] * shape[1])
            best, index = top_k(candidates, wide)
            best, index = spread_over_grid(best, index, image_sizes, width=shape[1], count=available)
        else:
            best, index = top_k(candidates, available)
    index = jnp.where(best >= 0, index, 0)
    mask = best >= 0
    values = jnp.take_along_axis(scores.reshape(scores.shape[0], -1), index, axis=1)
    keypoints_xy = jnp.stack([index % shape[1], index // shape[1]], axis=-1).astype(jnp.float32)
    if config.refinement == "soft_argmax":
        with jax.named_scope("refinement"):
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
    region: Bool[Array, "b _h _w"] | None = None,
) -> Bool[Array, "b h w"]:
    """True where the score map has a keypoint: above the threshold, not suppressed, not at the border, in the region.

    No score is negative, and outside the images all are 0; see `score_map`.
    The region, which may be larger than the score map, is the last test: what lies outside it still suppresses its
    neighbours, so that the keypoints inside are those that the image has without a region.
    """
    scores = lax.stop_gradient(scores)
    shape = (scores.shape[1], scores.shape[2])
    threshold = config.keypoint_threshold if keypoint_threshold is None else keypoint_threshold
    threshold = jnp.asarray(checked_threshold(threshold, scores.shape[0]), scores.dtype).reshape(-1, 1, 1)
    above = partial(_above, threshold=threshold, rule=config.threshold_rule)
    if config.suppression_rule == "greedy":
        # The demo applies the threshold first; pixels that are set to 0 are not candidates.
        kept = suppress_greedy(jnp.where(above(scores), scores, 0), config.nms_radius) > 0
    else:
        kept = suppress_three_pass(scores, config.nms_radius)
        kept = above(kept) & (kept > 0)
    kept &= border_mask(shape, image_sizes, config.border_removal_distance, rule=config.border_rule)
    return kept if region is None else kept & region[:, : shape[0], : shape[1]]


def refine_soft_argmax(
    scores: Float[Array, "b h w"],
    keypoints_xy: Float[Array, "b k 2"],
    image_sizes: Int[Array, "b 2"],
    *,
    radius: int = 2,
) -> Float[Array, "b k 2"]:
    """Keypoints moved to the centre of mass of the scores in the (2 radius + 1)^2 window around them.

    A keypoint never leaves its window; pixels outside the image have weight 0. The result is differentiable.
    """
    dy, dx = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.int32).reshape(2, 1, -1, 1)
    # The keypoints come last, in [B, pixels of the window, K], because a TPU pads a short last axis to 128.
    rows = keypoints_xy[:, None, :, 1].astype(jnp.int32) + dy
    columns = keypoints_xy[:, None, :, 0].astype(jnp.int32) + dx
    cells_end = (image_sizes // CELL_PX * CELL_PX)[:, None, None]
    inside = (rows >= 0) & (columns >= 0) & (rows < cells_end[..., 0]) & (columns < cells_end[..., 1])
    index = jnp.where(inside, rows * scores.shape[2] + columns, 0)
    flat = scores.reshape(scores.shape[0], -1)
    window = jax.vmap(lambda image, i: image[i])(flat, index)
    weights = jnp.where(inside, window, 0)
    total = jnp.maximum(jnp.sum(weights, axis=1), 1e-12)
    shift = jnp.stack([jnp.sum(weights * d.astype(weights.dtype), axis=1) for d in (dx, dy)], axis=-1)
    return keypoints_xy + shift / total[..., None]


def checked_threshold(threshold: Threshold, batch: Any) -> Threshold:
    """The threshold of a batch, after it is checked.

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
