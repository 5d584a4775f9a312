"""Matches as transformers computes them: of both images of a pair, and with keypoints that drop out early."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from superpoint_jax.features import Keypoints
from superpoint_jax.lightglue import LightGlue
from superpoint_jax.lightglue.assignment import assign, mutual_matches
from superpoint_jax.lightglue.network import confidences_after, scored_after
from superpoint_jax.lightglue.pair import image_of, prepare


@jax.jit
def matched_as_theirs(
    matcher: LightGlue,
    a: Keypoints,
    b: Keypoints,
    filter_threshold: float | Array,
    depth_confidence: float | Array | None,
    width_confidence: float | Array | None,
) -> dict[str, Array]:
    """ "matches" int32 [B,2,K], "matching_scores" float32 [B,2,K] and "prune" [B,2,K]; see the output's class.

    Args:
        matcher: The network; its attention must be "xla".
        a: Keypoints of the first images.
        b: Keypoints of the second images, with the same K.
        filter_threshold: The score of a match must be greater than this.
        depth_confidence: See `LightGlue.match`; None runs every layer.
        width_confidence: After a layer, a keypoint drops out if the probability that it has a partner is at most 1
            minus this, and the network is confident about that. None drops none.
    """
    if width_confidence is None or depth_confidence is None:
        found = matcher(a, b, depth_confidence=depth_confidence)
        log_scores = found.log_scores
        # A float, as in transformers.
        layers = jnp.full((2, *a.mask.shape), matcher.rules.num_hidden_layers, jnp.float32)
    else:
        log_scores, layers = _with_dropouts(matcher, a, b, depth_confidence, width_confidence)
    sides = [mutual_matches(scores, -1.0) for scores in (log_scores, jnp.swapaxes(log_scores, 1, 2))]
    return {
        "matches": jnp.stack([jnp.where(side.scores > filter_threshold, side.indices, -1) for side in sides], axis=1),
        "matching_scores": jnp.stack([side.scores for side in sides], axis=1),
        "prune": jnp.moveaxis(layers, 0, 1),
    }


def _with_dropouts(
    matcher: LightGlue, a: Keypoints, b: Keypoints, depth: float | Array, width: float | Array
) -> tuple[Float[Array, "b k k2"], Int[Array, "2 b k"]]:
    """The logarithms of the probabilities, and the number of layers that each keypoint took part in.

    A keypoint that drops out is masked from then on, which gives the result of taking it out of the arrays. A pair
    stops after the layer at which more than `depth` of its keypoints are confident.

    Source: paper, section 3.3; transformers' `_match_image_pair`, which tests/parity/test_huggingface_lightglue.py
    compares.
    """
    rules = matcher.rules
    last = rules.num_hidden_layers - 1
    pair = prepare(image_of(a), image_of(b), matcher.positional_encoder, matcher.input_projection, sort=False)
    total = jnp.maximum(sum(jnp.sum(mask, axis=-1, dtype=jnp.float32) for mask in pair.masks), 1)

    def run(carry: Any, given: tuple[Any, Any, Array]) -> Any:
        states, masks, layers, stops = carry
        layer, head, index = given
        running = stops == last
        new = layer(*states, masks, pair.rotations, dtype=rules.dtype)
        states = jax.tree.map(lambda x, y: jnp.where(running[:, None, None], x, y), new, states)
        confidences, threshold = confidences_after(matcher, index, states)
        unsure = sum(
            jnp.sum((confidence < threshold) & mask, axis=-1, dtype=jnp.float32)
            for confidence, mask in zip(confidences, masks, strict=True)
        )
        stop = running & (index < last) & (1 - unsure / total > depth)
        goes_on = (running & ~stop & (index < last))[:, None]
        kept = [
            mask & ((jax.nn.sigmoid(head.matchability_logits(x)) > 1 - width) | (confidence <= threshold))
            for x, confidence, mask in zip(states, confidences, masks, strict=True)
        ]
        masks = tuple(jnp.where(goes_on, k, mask) for k, mask in zip(kept, masks, strict=True))
        layers = tuple(count + (goes_on & mask) for count, mask in zip(layers, masks, strict=True))
        return states, masks, layers, jnp.where(stop, index, stops)

    def step(carry: Any, given: tuple[Any, Any, Array]) -> tuple[Any, None]:
        # A layer is skipped when every pair has stopped.
        return lax.cond(jnp.any(carry[-1] == last), run, lambda carry, given: carry, carry, given), None

    ones = tuple(jnp.ones_like(mask, jnp.int32) for mask in pair.masks)
    stops = jnp.full(len(a.mask), last, jnp.int32)
    steps = matcher.transformer_layers, matcher.match_assignment_layers, jnp.arange(last + 1, dtype=jnp.int32)
    (states, masks, layers, stops), _ = lax.scan(step, (pair.states, pair.masks, ones, stops), steps)

    mask_a, mask_b = masks
    found = assign(*scored_after(matcher, stops, *states), mask_a, mask_b, stops + 1)
    return found.log_scores, jnp.stack(layers)
