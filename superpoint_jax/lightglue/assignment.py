"""Turns the states of the last layer into matches: pure functions in float32 that ignore padding rows."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from superpoint_jax.features import Indexable, pytree
from superpoint_jax.matching import Matches, first_max


@pytree
@dataclass(frozen=True)
class Assignment(Indexable):
    """LightGlue's probabilities for all pairs of keypoints.

    Attributes:
        log_scores: Logarithm of the probability that keypoint i of a matches keypoint j of b; minus infinity if one of
            them is padding.
        log_unmatched_a: Logarithm of the probability that a keypoint of a has no partner; 0 for padding.
        log_unmatched_b: The same for b.
        num_layers: Number of layers that were computed for the pair.
    """

    log_scores: Float[Array, "*b i j"]
    log_unmatched_a: Float[Array, "*b i"]
    log_unmatched_b: Float[Array, "*b j"]
    num_layers: Int[Array, "*b"]

    def _batched(self) -> bool:
        return self.log_scores.ndim > 2


_NEVER = -1e30
"""Used instead of minus infinity, which would give NaN in a softmax."""


def assign(
    similarity: Float[Array, "b i j"],
    logits_a: Float[Array, "b i"],
    logits_b: Float[Array, "b j"],
    mask_a: Bool[Array, "b i"],
    mask_b: Bool[Array, "b j"],
    num_layers: Int[Array, " b"],
) -> Assignment:
    """The softmax of the similarity over b, times its softmax over a, times the probabilities that both have a partner.

    Source: paper, section 3.2 ("correspondence prediction").
    """
    valid = mask_a[:, :, None] & mask_b[:, None]
    similarity = jnp.where(valid, similarity, _NEVER)
    # Two separate softmaxes, because the similarities are large and their sum would lose digits.
    softmaxes = jax.nn.log_softmax(similarity, axis=2) + jax.nn.log_softmax(similarity, axis=1)
    certainties = jax.nn.log_sigmoid(logits_a)[:, :, None] + jax.nn.log_sigmoid(logits_b)[:, None]
    return Assignment(
        log_scores=jnp.where(valid, softmaxes + certainties, -jnp.inf),
        log_unmatched_a=jnp.where(mask_a, jax.nn.log_sigmoid(-logits_a), 0),
        log_unmatched_b=jnp.where(mask_b, jax.nn.log_sigmoid(-logits_b), 0),
        num_layers=num_layers,
    )


def mutual_matches(log_scores: Float[Array, "b i j"], min_score: float | Float[Array, ""]) -> Matches:
    """The matches: keypoints that are each other's best, with a score greater than `min_score`."""
    best, index = first_max(log_scores, axis=2)
    _, best_of_b = first_max(log_scores, axis=1)
    rows = jnp.arange(log_scores.shape[1], dtype=jnp.int32)[None]
    scores = jnp.exp(best)
    found = (jnp.take_along_axis(best_of_b, index, axis=1) == rows) & (best > -jnp.inf) & (scores > min_score)
    return Matches(indices=jnp.where(found, index, -1), scores=jnp.where(found, scores, 0), mask=found)
