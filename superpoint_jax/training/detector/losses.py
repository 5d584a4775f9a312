"""How many of the keypoints of a view are expected to be found again in another view. Pure functions."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float

from superpoint_jax.config import CELL_PX
from superpoint_jax.detection import cells_to_pixels, pixels_to_cells, score_map, suppress_three_pass, window_max
from superpoint_jax.geometry import sample_bilinear
from superpoint_jax.sharding import placed_like, vary_like
from superpoint_jax.training.detector.views import STEPS_PER_PX, SharedViews

PLACE_SHARPNESS = 6.0
"""The network's probability of a pixel within its cell is raised to this power, because extraction takes the best."""
CHOICE_SHARPNESS = 2.0
"""How much more often a cell is chosen that has a better score: the odds grow with the score to this power."""
NEAR_PX = (0.7, 1.8)
"""Standard deviations of the two Gaussians that say how near a repeated keypoint is, each counting half."""
SUPPRESSION_PX = 4
"""Radius of the suppression in pixels, that of every preset."""
BORDER_PX = 4
"""Keypoints nearer to the border of the view do not count."""
DISTINCTIVENESS = 15.0
"""How quickly a keypoint counts more as the margin of its descriptor grows."""
_HALVINGS = 30
"""The threshold is searched in an interval of 60, which is narrower than 1e-7 after so many halvings."""


def chosen(
    logits: Float[Array, "hc wc 65"], whole: Bool[Array, "hc wc"], count: Float[Array, ""] | float
) -> Float[Array, "h w"]:
    """The probability of each pixel to be among about `count` keypoints, as a smooth function of the logits.

    A cell has at most one keypoint, whose place is drawn by the logits. The probability of a cell is a sigmoid of the
    logarithm of its score minus a threshold, which is such that `count` keypoints are expected; so only the order of
    the scores decides, as in extraction. Cells that are not `whole` have none, and no place is left to a keypoint that
    a better one of another cell suppresses.
    """
    within = logits[..., :-1]
    places = jax.nn.softmax(PLACE_SHARPNESS * within, axis=-1) * _unsuppressed(logits)
    score = jax.nn.logsumexp(PLACE_SHARPNESS * within, axis=-1) / PLACE_SHARPNESS
    score = CHOICE_SHARPNESS * (score - jax.nn.logsumexp(logits, axis=-1))
    fixed, free = lax.stop_gradient((score, jnp.sum(places, axis=-1)))

    def expected(score: Array, shift: Array) -> Array:
        return jnp.where(whole, jax.nn.sigmoid(score + shift), 0)

    def halve(_: Array, interval: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = interval
        middle = (low + high) / 2
        many = jnp.sum(free * expected(fixed, middle)) > count
        return jnp.where(many, low, middle), jnp.where(many, middle, high)

    low, high = lax.fori_loop(0, _HALVINGS, halve, vary_like((jnp.float32(-20), jnp.float32(40)), fixed))
    shift = (low + high) / 2
    # The derivative of the threshold by the scores, by the implicit function theorem; what is suppressed is held fixed.
    odds = expected(fixed, shift)
    total = jnp.sum(free * expected(score, shift))
    slope = jnp.sum(free * odds * (1 - odds))
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
    logits: Float[Array, "n 2 hc wc 65"], views: SharedViews, counts: Float[Array, " n"], *, distinct: float
) -> Float[Array, " n"]:
    """The expected fraction of the keypoints of pairs of views, seen in both, that the other view repeats; in [0, 1].

    Probabilities of several pixels near a place add up to at most 1, so it is slightly too high. In cells of the other
    view that are not `whole` there is no keypoint, so one that is seen there counts as not repeated.

    Args:
        logits: Logits of both views.
        views: The pairs.
        counts: Expected number of keypoints of a view that shows only the photo; of others, a part.
        distinct: How much of the value of a repeated keypoint depends on its descriptor: 0 nothing, 1 all of it.
    """
    of_pairs = jax.vmap(partial(_repeats_of_pair, distinct=distinct))
    return placed_like(logits, of_pairs)(logits, views, counts)


def _repeats_of_pair(logits: Array, views: SharedViews, count: Array, *, distinct: float) -> Array:
    height, width = views.shared.shape[1:]
    parts = jnp.mean(views.whole, axis=(1, 2), dtype=jnp.float32)
    maps = jax.vmap(chosen)(logits, views.whole, count * parts)
    inner = jnp.pad(jnp.ones((height - 2 * BORDER_PX, width - 2 * BORDER_PX), bool), BORDER_PX)
    value = 1 - distinct + distinct * jax.nn.sigmoid(DISTINCTIVENESS * views.margins.astype(jnp.float32))
    value = jnp.repeat(jnp.repeat(value, CELL_PX, axis=1), CELL_PX, axis=2)

    def of_view(here: int) -> Array:
        there = jnp.mean(jnp.stack([jnp.minimum(_near(maps[1 - here], sigma), 1) for sigma in NEAR_PX]), axis=0)
        places = views.places[here].astype(jnp.float32) / STEPS_PER_PX
        found = sample_bilinear(there[..., None], places.reshape(-1, 2)).reshape(height, width)
        seen = jnp.where(views.shared[here] & inner, maps[here], 0)
        return jnp.sum(seen * found * value[here]) / jnp.maximum(jnp.sum(seen), 1)

    return (of_view(0) + of_view(1)) / 2


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


def _near(values: Float[Array, "h w"], sigma: float) -> Array:
    """The sum of the values around each pixel, weighted by a Gaussian of height 1."""
    radius = math.ceil(2.5 * sigma)
    weights = [math.exp(-(step**2) / (2 * sigma**2)) for step in range(-radius, radius + 1)]
    height, width = values.shape
    padded = jnp.pad(values, radius)
    rows = sum((weight * padded[i : i + height] for i, weight in enumerate(weights)), jnp.zeros_like(padded[:height]))
    return sum((weight * rows[:, i : i + width] for i, weight in enumerate(weights)), jnp.zeros_like(values))
