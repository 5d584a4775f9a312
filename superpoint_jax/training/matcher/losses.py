"""The loss of LightGlue, and what is true about a pair of images. Pure functions that ignore padding rows.

Source: Lindenberger, Sarlin, Pollefeys, "LightGlue" (2023), section 3.4.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from superpoint_jax.lightglue import Assignment, LightGlue
from superpoint_jax.lightglue.assignment import assign
from superpoint_jax.lightglue.layers import MatchAssignment
from superpoint_jax.training.matcher.pairs import MatchingPairs


class Truth(NamedTuple):
    """What is true about the keypoints of pairs; about some keypoints nothing is known.

    Attributes:
        partners: Row in b of the partner of each keypoint in a; -1 if it has none or if that is not known.
        alone_a: True for keypoints of a that have no partner in b.
        alone_b: True for keypoints of b that have no partner in a.
    """

    partners: Int[Array, "n i"]
    alone_a: Bool[Array, "n i"]
    alone_b: Bool[Array, "n j"]


def truth_of(pairs: MatchingPairs, *, match_px: float | Array = 3.0, no_match_px: float | Array = 5.0) -> Truth:
    """Partners are each other's nearest in both images; keypoints without any other near their position are alone.

    Args:
        pairs: The pairs.
        match_px: Largest distance between partners, measured in both images.
        no_match_px: A keypoint is alone if no other is within this distance of its position. In between, nothing is
            claimed.
    """
    there, back = (
        jnp.linalg.norm(pairs.positions[:, here, :, None] - pairs.keypoints[:, 1 - here, None], axis=-1)
        for here in (0, 1)
    )
    valid = pairs.mask[:, 0, :, None] & pairs.mask[:, 1, None]
    there = jnp.where(valid & pairs.known[:, 0, :, None], there, jnp.inf)
    back = jnp.where(valid & pairs.known[:, 1, :, None], back, jnp.inf).mT
    both, either = jnp.maximum(there, back), jnp.minimum(there, back)
    partner, partner_of_b = jnp.argmin(both, axis=2), jnp.argmin(both, axis=1)
    mutual = jnp.take_along_axis(partner_of_b, partner, axis=1) == jnp.arange(both.shape[1])[None]
    found = mutual & (jnp.min(both, axis=2) < match_px)
    return Truth(
        partners=jnp.where(found, partner, -1).astype(jnp.int32),
        alone_a=(jnp.min(either, axis=2) > no_match_px) & pairs.known[:, 0],
        alone_b=(jnp.min(either, axis=1) > no_match_px) & pairs.known[:, 1],
    )


def matching_loss(found: Assignment, truth: Truth) -> Float[Array, ""]:
    """Minus the mean log probability of what is true: that of the partners, plus that of the keypoints alone."""
    partner = jnp.maximum(truth.partners, 0)[..., None]
    log_partner = jnp.take_along_axis(found.log_scores, partner, axis=2)[..., 0]
    has_partner = truth.partners >= 0
    alone = _mean(found.log_unmatched_a, truth.alone_a) + _mean(found.log_unmatched_b, truth.alone_b)
    return -jnp.mean(_mean(log_partner, has_partner) + alone / 2)


def every_layer_loss(
    model: LightGlue, pairs: MatchingPairs, truth: Truth, *, layer_decay: float = 0.8, dtype: str | None = None
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of all layers and its parts, where each layer weighs `layer_decay` times as much as the next.

    The part "confidence" trains the confidences, which decide when a pair needs no further layers: the cross entropy
    with whether the best partner of a keypoint is already that of the last layer. It changes no other parameter.
    """
    a, b = pairs.features()
    states = model.states(a, b, dtype=dtype)
    count = model.rules.num_hidden_layers

    def of_layer(head: MatchAssignment, states_a: Array, states_b: Array) -> tuple[Array, tuple[Array, Array]]:
        logits = head.matchability_logits(states_a), head.matchability_logits(states_b)
        layers = jnp.zeros(len(states_a), jnp.int32)
        found = assign(head.similarity(states_a, states_b), *logits, a.mask, b.mask, layers)
        return matching_loss(found, truth), _best(found)

    losses, best = jax.vmap(of_layer)(model.match_assignment_layers, *states)
    weights = layer_decay ** jnp.arange(count - 1, -1, -1, dtype=jnp.float32)
    matching = jnp.sum(weights * losses) / jnp.sum(weights)
    parts = {"matching": matching, "last_layer": losses[-1]}
    if count == 1:
        return matching, parts
    cross_entropies = []
    for side, mask in enumerate((a.mask, b.mask)):
        token = jax.vmap(lambda layer, x: layer.token(lax.stop_gradient(x))[..., 0])
        logits = token(model.token_confidence, states[side][:-1])
        settled = lax.stop_gradient(best[side][:-1] == best[side][-1:])
        entropy = jax.nn.softplus(logits) - logits * settled
        cross_entropies.append(_mean(entropy, jnp.broadcast_to(mask, entropy.shape)))
    parts["confidence"] = jnp.mean(jnp.stack(cross_entropies))
    return matching + parts["confidence"], parts


def _best(found: Assignment) -> tuple[Int[Array, "n i"], Int[Array, "n j"]]:
    """The most probable partner of each keypoint of both sides; -1 if having none is more probable."""
    best = []
    for axis, alone in ((2, found.log_unmatched_a), (1, found.log_unmatched_b)):
        likely = jnp.max(found.log_scores, axis=axis) > alone
        best.append(jnp.where(likely, jnp.argmax(found.log_scores, axis=axis), -1))
    return best[0], best[1]


def _mean(values: Array, mask: Array) -> Array:
    """The mean over the last axis of the values where the mask is True; 0 if it is nowhere."""
    return jnp.sum(jnp.where(mask, values, 0), axis=-1) / jnp.maximum(jnp.sum(mask, axis=-1), 1)
