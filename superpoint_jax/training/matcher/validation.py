"""Precision and recall of a matcher on pairs with known matches, for validation during a run."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from superpoint_jax.lightglue import LightGlue
from superpoint_jax.matching import match
from superpoint_jax.training.matcher.losses import truth_of
from superpoint_jax.training.matcher.pairs import MatchingPairs
from superpoint_jax.training.metrics import filled_batches


def pair_metrics(
    model: LightGlue | None, pairs: MatchingPairs, *, match_px: float = 3.0, batch_size: int = 8
) -> dict[str, float]:
    """Precision and recall of a matcher on pairs, separately for those with parallax and those without.

    Precision is the fraction of matches whose error is below `match_px`, among matches of keypoints whose position is
    known. Recall is the fraction of partners (see `truth_of`) that are matched with each other.

    Args:
        model: The network; None for mutual nearest neighbours.
        pairs: The pairs.
        match_px: Largest error of a right match, in pixels.
        batch_size: Pairs on the device at a time.
    """
    counts = []
    for rows, used in filled_batches(len(pairs), batch_size):
        part = jax.tree.map(lambda leaf: jnp.asarray(leaf[rows]), pairs)  # noqa: B023
        counts.append(np.asarray(_counted(model, part, match_px))[:used])
    right, matched, recalled, partners = np.concatenate(counts).T
    metrics = {}
    for name, chosen in (("homography", np.asarray(pairs.flat)), ("parallax", ~np.asarray(pairs.flat))):
        metrics[f"{name}_precision"] = float(right[chosen].sum() / max(matched[chosen].sum(), 1))
        metrics[f"{name}_recall"] = float(recalled[chosen].sum() / max(partners[chosen].sum(), 1))
    return metrics


@jax.jit
def _counted(model: LightGlue | None, pairs: MatchingPairs, match_px: Float[Array, ""] | float) -> Array:
    """For each pair: right matches, matches with a known error, partners that were matched, partners."""
    a, b = pairs.features()
    found = match(a, b, matcher=model)
    truth = truth_of(pairs, match_px=match_px)
    partner = jnp.maximum(found.indices, 0)
    there = jnp.take_along_axis(b.keypoints, partner[..., None], axis=1)
    errors = jnp.linalg.norm(pairs.positions[:, 0] - there, axis=-1)
    known = found.mask & pairs.known[:, 0]
    has_partner = truth.partners >= 0
    columns = known & (errors < match_px), known, has_partner & (found.indices == truth.partners), has_partner
    return jnp.stack([jnp.sum(column, axis=1) for column in columns], axis=1)


def pair_validator(pairs: MatchingPairs) -> Callable[[LightGlue], dict[str, float]]:
    """A function that maps a network to its metrics on pairs, with those of mutual nearest neighbours beside them."""
    nearest = {f"nearest_{name}": value for name, value in pair_metrics(None, pairs).items()}
    return lambda model: pair_metrics(model, pairs) | nearest
