"""The results that are compared: those of one image after each stage, for the original and for ours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from superpoint_jax.config import SuperPointConfig
from superpoint_jax.detection import score_map, suppress_greedy, suppress_three_pass
from superpoint_jax.extraction import decode
from superpoint_jax.features import Keypoints
from superpoint_jax.model import SuperPoint


@dataclass(frozen=True)
class Stages:
    """Results of one image.

    Attributes:
        blocks: Output of each encoder block [h,w,c], finest first.
        logits: Keypoint logits [h,w,65].
        score_map: Scores [H,W] before suppression.
        suppressed: Scores [H,W] that suppression keeps, 0 elsewhere; the greedy rule applies the threshold before.
        keypoints_xy: Keypoints [N,2] in pixels.
        scores: Scores [N] of the keypoints.
        descriptors: Descriptors [N,D] of the keypoints.
    """

    blocks: tuple[np.ndarray, ...]
    logits: np.ndarray
    score_map: np.ndarray
    suppressed: np.ndarray
    keypoints_xy: np.ndarray
    scores: np.ndarray
    descriptors: np.ndarray


def our_stages(model: SuperPoint, gray: np.ndarray) -> Stages:
    """The stages that this library computes for a gray image [H,W] in [0, 1]."""
    hidden_states, logits, scores, suppressed, found = _ours(model, jnp.asarray(gray)[None, ..., None], model.config)
    (keypoints,) = found.to_list()
    return Stages(
        blocks=tuple(np.asarray(state[0]) for state in hidden_states),
        logits=np.asarray(logits[0]),
        score_map=np.asarray(scores[0]),
        suppressed=np.asarray(suppressed[0]),
        keypoints_xy=keypoints["keypoints"],
        scores=keypoints["scores"],
        descriptors=keypoints["descriptors"],
    )


@partial(jax.jit, static_argnames="config")
def _ours(
    model: SuperPoint, images: Array, config: SuperPointConfig
) -> tuple[tuple[Array, ...], Array, Array, Array, Keypoints]:
    dense = model(images, output_hidden_states=True)
    scores = score_map(dense.logits, rule=config.score_rule)
    if config.suppression_rule == "greedy":
        suppressed = suppress_greedy(jnp.where(scores >= config.keypoint_threshold, scores, 0), config.nms_radius)
    else:
        suppressed = suppress_three_pass(scores, config.nms_radius)
    sizes = jnp.array([images.shape[1:3]], jnp.int32)
    found = decode(dense, sizes, config=config)
    assert dense.hidden_states is not None
    return dense.hidden_states, dense.logits, scores, suppressed, found
