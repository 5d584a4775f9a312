"""How many keypoints of a view are expected to be found again in another view, and matched. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float

from superpoint_jax.config import CELL_PX, SamplingRule
from superpoint_jax.description import sample_descriptors
from superpoint_jax.detection import (
    border_mask,
    cells_to_pixels,
    pixels_to_cells,
    score_map,
    suppress_three_pass,
    window_max,
)
from superpoint_jax.features import AnyArray, pytree
from superpoint_jax.geometry import pixel_grid, sample_bilinear
from superpoint_jax.sharding import placed_like, vary_like
from superpoint_jax.training.repeats.views import STEPS_PER_PX, SharedViews
from superpoint_jax.training.scenes import inside

PLACE_SHARPNESS = 6.0
"""The network's probability of a pixel within its cell is raised to this power, because extraction takes the best."""
CHOICE_SHARPNESS = 2.0
"""How much more often a cell is chosen that has a better score: the odds grow with the score to this power."""
NEAR_PX = (0.7, 1.8)
"""Standard deviations of the two Gaussians that say how near a repeated keypoint is, each counting half."""
SUPPRESSION_PX = 4
"""Radius of the suppression in pixels, also for models with a smaller one: the weights in the package were made so."""
BORDER_PX = 4
"""Nearer to the border of a view there are no keypoints, as in extraction."""
DISTINCTIVENESS = 15.0
"""How quickly a keypoint counts more as the margin of its descriptor grows."""
DISTINCT_PX = 12.0
"""A keypoint at least this far from the right place must not have a more similar descriptor than the one there."""
SAME_PX = 6.0
"""A keypoint nearer than this to the right place has nearly the same descriptor, and counts neither way."""
INVERSE_TEMPERATURE = 30.0
"""Similarities times this are the logits of a match. The scale that `train superpoint` learns is 20 to 37."""
_HALVINGS = 30
"""The threshold is searched in an interval of 60, which is narrower than 1e-7 after so many halvings."""


def chosen(
    logits: Float[Array, "hc wc 65"], whole: Bool[Array, "hc wc"], count: Float[Array, ""] | float
) -> Float[Array, "h w"]:
    """The probability of each pixel to be among about `count` keypoints, as a smooth function of the logits.

    A cell has at most one keypoint, whose place is drawn by the logits. The probability of a cell is a sigmoid of the
    logarithm of its score minus a threshold, which is such that `count` keypoints are expected; so a common factor of
    all scores changes nothing, as in extraction. Cells that are not `whole` have none, and no place is left near the
    border, or to a keypoint that a better one of another cell suppresses.
    """
    within = logits[..., :-1]
    size = logits.shape[0] * CELL_PX, logits.shape[1] * CELL_PX
    allowed = pixels_to_cells(border_mask(size, jnp.array([size]), BORDER_PX))[0]
    places = jax.nn.softmax(PLACE_SHARPNESS * within, axis=-1) * _unsuppressed(logits) * allowed
    score = jax.nn.logsumexp(PLACE_SHARPNESS * within, axis=-1) / PLACE_SHARPNESS
    score = CHOICE_SHARPNESS * (score - jax.nn.logsumexp(logits, axis=-1))
    left = jnp.sum(places, axis=-1)
    fixed, fixed_left = lax.stop_gradient((score, left))

    def expected(score: Array, shift: Array) -> Array:
        return jnp.where(whole, jax.nn.sigmoid(score + shift), 0)

    def halve(_: Array, interval: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = interval
        middle = (low + high) / 2
        many = jnp.sum(fixed_left * expected(fixed, middle)) > count
        return jnp.where(many, low, middle), jnp.where(many, middle, high)

    low, high = lax.fori_loop(0, _HALVINGS, halve, vary_like((jnp.float32(-20), jnp.float32(40)), fixed))
    shift = (low + high) / 2
    # The derivative of the threshold by the logits, by the implicit function theorem; which pixels a better keypoint
    # suppresses is held fixed.
    odds = expected(fixed, shift)
    total = jnp.sum(left * expected(score, shift))
    slope = jnp.sum(fixed_left * odds * (1 - odds))
    shift = shift - (total - lax.stop_gradient(total)) / jnp.maximum(slope, 1e-3)
    cells = expected(score, shift)[..., None] * places
    return cells_to_pixels(cells[None])[0]


def _unsuppressed(logits: Float[Array, "hc wc 65"]) -> Float[Array, "hc wc 64"]:
    """1 for each pixel of a cell where no better keypoint of another cell suppresses one of this cell, else 0."""
    scores = lax.stop_gradient(score_map(logits[None]))
    kept = suppress_three_pass(scores, SUPPRESSION_PX)
    nearby = pixels_to_cells(window_max(kept, SUPPRESSION_PX))[0]
    best = jnp.max(pixels_to_cells(scores)[0], axis=-1, keepdims=True)
    return (nearby <= best).astype(jnp.float32)


def expected_repeats(
    logits: Float[Array, "n 2 hc wc 65"],
    margins: Float[Array, "n 2 hc wc"],
    views: SharedViews,
    counts: Float[Array, " n"],
    *,
    distinct: float,
) -> tuple[Float[Array, " n"], Float[Array, "n 2 hc wc"]]:
    """How many keypoints of pairs of views are expected to be repeated.

    Args:
        logits: Logits of both views.
        margins: By how much the descriptor of each cell's keypoint is distinct: see `matching`.
        views: The pairs.
        counts: Expected number of keypoints of a view that shows only the photo; of others, a part.
        distinct: How much of the value of a repeated keypoint depends on its descriptor: 0 nothing, 1 all of it.

    Returns:
        The expected fraction of the keypoints, seen in both views, that the other view repeats, in [0, 1]; and the
        probability of each cell to have a keypoint. The probabilities of pixels near a place are added, and cut off at
        1, instead of combined as independent events, so the fraction is slightly too high.
    """
    of_pairs = jax.vmap(partial(_repeats_of_pair, distinct=distinct))
    return placed_like(logits, of_pairs)(logits, margins, views, counts)


def _repeats_of_pair(
    logits: Array, margins: Array, views: SharedViews, count: Array, *, distinct: float
) -> tuple[Array, Array]:
    height, width = views.shared.shape[1:]
    parts = jnp.mean(views.whole, axis=(1, 2), dtype=jnp.float32)
    maps = jax.vmap(chosen)(logits, views.whole, count * parts)
    value = 1 - distinct + distinct * jax.nn.sigmoid(DISTINCTIVENESS * margins)
    value = jnp.repeat(jnp.repeat(value, CELL_PX, axis=1), CELL_PX, axis=2)

    def of_view(here: int) -> Array:
        near = jnp.mean(jnp.stack([jnp.minimum(_near(maps[1 - here], sigma), 1) for sigma in NEAR_PX]), axis=0)
        places = views.places[here].astype(jnp.float32) / STEPS_PER_PX
        found = sample_bilinear(near[..., None], places.reshape(-1, 2)).reshape(height, width)
        possible = views.shared[here] & inside(places, (height, width), margin_px=BORDER_PX)
        seen = jnp.where(possible, maps[here], 0)
        return jnp.sum(seen * found * value[here]) / jnp.maximum(jnp.sum(seen), 1)

    return (of_view(0) + of_view(1)) / 2, jnp.sum(pixels_to_cells(maps), axis=-1)


@pytree
@dataclass(frozen=True)
class Matching:
    """How well the keypoints of the cells of pairs of views are matched by their descriptors.

    Attributes:
        mismatch: Minus the logarithm of the probability of the right place, among it and the other view's keypoints.
        margins: Similarity with the descriptor at the right place, minus the largest similarity with that of a keypoint
            more than `DISTINCT_PX` away from it; in [-2, 2]. The gradient is zero.
        seen: Whether both views show the keypoint in whole cells. Elsewhere, the mismatch means nothing; the margins
            are those of the place where the keypoint would be.
    """

    mismatch: Float[AnyArray, "n 2 hc wc"]
    margins: Float[AnyArray, "n 2 hc wc"]
    seen: Bool[AnyArray, "n 2 hc wc"]


def matching(
    logits: Float[Array, "n 2 hc wc 65"],
    descriptors: Float[Array, "n 2 hc wc d"],
    views: SharedViews,
    *,
    rule: SamplingRule = "centered",
) -> Matching:
    """How well the descriptors match the keypoints of pairs of views, where each cell has one: its best pixel.

    Descriptors are sampled at the keypoint, without refinement, and at its place in the other view, by the rule of the
    model. A probability is the softmax of similarities times `INVERSE_TEMPERATURE`; keypoints within `SAME_PX` of the
    right place are left out.
    """
    return placed_like(logits, partial(_matching, rule=rule))(logits, descriptors, views)


def _matching(logits: Array, descriptors: Array, views: SharedViews, *, rule: SamplingRule) -> Matching:
    count, _, rows, columns, _ = logits.shape
    height, width, cells = rows * CELL_PX, columns * CELL_PX, rows * columns
    best = jnp.argmax(logits[..., :-1], axis=-1)
    within = jnp.stack([best % CELL_PX, best // CELL_PX], axis=-1)
    corners = (pixel_grid((rows, columns)) * CELL_PX).astype(jnp.int32)
    pixels = (corners[None, None] + within).reshape(count, 2, cells, 2)
    keypoints = pixels.astype(jnp.float32)

    def at(leaf: Array, index: Array) -> Array:
        return jax.vmap(jax.vmap(lambda values, i: values[i]))(leaf, index)

    index = pixels[..., 1] * width + pixels[..., 0]
    places = at(views.places.reshape(count, 2, height * width, 2), index).astype(jnp.float32) / STEPS_PER_PX
    whole = views.whole.reshape(count, 2, cells)
    sizes = jnp.broadcast_to(jnp.array([height, width], jnp.int32), (count, 2))
    every = jnp.ones((count, cells), bool)

    def sampled(view: int, xy: Array) -> Array:
        return sample_descriptors(descriptors[:, view], xy, every, sizes, rule=rule)

    own = [sampled(view, keypoints[:, view]) for view in (0, 1)]
    # As exact as the similarity with the right place, which is compared with these.
    similarity = jnp.einsum("nid,njd->nij", *own, precision=lax.Precision.HIGHEST)

    def of_view(here: int) -> tuple[Array, Array]:
        right = jnp.sum(own[here] * sampled(1 - here, places[:, here]), axis=-1)
        wrong = similarity if here == 0 else similarity.mT
        squared = jnp.sum((places[:, here, :, None] - keypoints[:, 1 - here, None]) ** 2, axis=-1)
        others = whole[:, 1 - here, None]
        among = jnp.where(others & (squared > SAME_PX**2), INVERSE_TEMPERATURE * wrong, -1e9)
        log_right = INVERSE_TEMPERATURE * right
        most = jnp.max(jnp.where(others & (squared > DISTINCT_PX**2), wrong, -1), axis=-1)
        mismatch = jnp.logaddexp(log_right, jax.nn.logsumexp(among, axis=-1)) - log_right
        return mismatch, lax.stop_gradient(right - most)

    (mismatch, margins), (mismatch_b, margins_b) = of_view(0), of_view(1)
    shape = count, 2, rows, columns
    return Matching(
        mismatch=jnp.stack([mismatch, mismatch_b], axis=1).reshape(shape),
        margins=jnp.stack([margins, margins_b], axis=1).reshape(shape),
        seen=(whole & at(views.shared.reshape(count, 2, -1), index)).reshape(shape),
    )


def change(
    logits: Float[Array, "b hc wc 65"], before: Float[Array, "b hc wc 65"], whole: Bool[Array, "b hc wc"]
) -> Float[Array, ""]:
    """How much the cells' distributions differ from those of the network before; 0 if they are equal.

    It is the mean Kullback-Leibler divergence of the distributions, plus that of the places alone, given that a cell
    has a keypoint. So the places in cells that seldom have one are kept, too; they count where many are wanted.
    """

    def divergence(logits: Array, before: Array) -> Array:
        old, new = jax.nn.log_softmax(before), jax.nn.log_softmax(logits)
        return jnp.sum(jnp.exp(old) * (old - new), axis=-1)

    both = divergence(logits, before) + divergence(logits[..., :-1], before[..., :-1])
    return jnp.sum(jnp.where(whole, both, 0)) / jnp.maximum(jnp.sum(whole, dtype=jnp.float32), 1)


def turn(
    descriptors: Float[Array, "b hc wc d"], before: Float[Array, "b hc wc d"], whole: Bool[Array, "b hc wc"]
) -> Float[Array, ""]:
    """How far the descriptors have turned from those of the network before: the mean of 1 minus their cosine."""
    cosines = jnp.sum(descriptors * before, axis=-1)
    return jnp.sum(jnp.where(whole, 1 - cosines, 0)) / jnp.maximum(jnp.sum(whole, dtype=jnp.float32), 1)


def _near(values: Float[Array, "h w"], sigma: float) -> Array:
    """The sum of the values around each pixel, weighted by a Gaussian of height 1."""
    radius = math.ceil(2.5 * sigma)
    weights = [math.exp(-(step**2) / (2 * sigma**2)) for step in range(-radius, radius + 1)]
    height, width = values.shape
    padded = jnp.pad(values, radius)
    rows = sum((weight * padded[i : i + height] for i, weight in enumerate(weights)), jnp.zeros_like(padded[:height]))
    return sum((weight * rows[:, i : i + width] for i, weight in enumerate(weights)), jnp.zeros_like(values))
