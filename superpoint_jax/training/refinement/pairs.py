"""Keypoints that two views of a photo share, with what the refinement head sees of them, made ahead of a run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, UInt8

from superpoint_jax.detection import score_map, select_keypoints
from superpoint_jax.extraction import dense_features
from superpoint_jax.features import AnyArray, pytree
from superpoint_jax.refinement import PATCH_PX, head_inputs
from superpoint_jax.training.parts import BATCH, Network, Scenery, lit_views, make_parts
from superpoint_jax.training.scenes import Scenes, transfer

LARGEST_ERROR_PX = 4.0
"""Keypoints of two views are the same if they are each other's nearest within this distance, before any refinement."""
RADIUS_PX = 6
"""Radius of the suppression, whatever that of the model is: so few keypoints have another one near their partner."""
STEP_PX = 1.5
"""Half the distance over which the slope of the map between two views is measured."""


@pytree
@dataclass(frozen=True)
class SharedKeypoints:
    """Keypoints that two views share; along the second axis, view a comes before b.

    Attributes:
        grays: Gray values of the patches that the head sees.
        logs: Logarithms of their scores, in half precision to save memory.
        errors_xy: Where the keypoint of a lies in b, minus the keypoint of b, in pixels.
        slopes: Derivative of that place by the position in a.
        flat: Whether the views are related by a homography.
    """

    grays: UInt8[AnyArray, "n 2 p p"]
    logs: Float[AnyArray, "n 2 p p"]
    errors_xy: Float[AnyArray, "n 2"]
    slopes: Float[AnyArray, "n 2 2"]
    flat: Bool[AnyArray, " n"]

    def __len__(self) -> int:
        return len(self.flat)


def make_shared_keypoints(
    data: Path, folder: Path, *, scenery: Scenery, extractor: str, seed: int = 0
) -> SharedKeypoints:
    """The keypoints of the photos of a folder, which are also kept in files of `folder`; see `make_parts`."""

    def make(key: Array, images: Array, sizes: Array, network: Network) -> SharedKeypoints:
        return _shared(_seen(key, images, sizes, network, scenery=scenery))

    return make_parts(SharedKeypoints, make, data, folder, scenery=scenery, extractor=extractor, seed=seed)


@pytree
@dataclass(frozen=True)
class _Seen:
    """All keypoints of `BATCH` pairs, and the row in b of the partner of each keypoint of a; -1 without a partner."""

    grays: UInt8[Array, "n 2 k p p"]
    logs: Float[Array, "n 2 k p p"]
    keypoints_xy: Float[Array, "n 2 k 2"]
    positions: Float[Array, "n k 2"]
    slopes: Float[Array, "n k 2 2"]
    partners: Int[Array, "n k"]
    flat: Bool[Array, " n"]


@partial(jax.jit, static_argnames="scenery")
def _seen(
    key: Array, images: UInt8[Array, "m s s *c"], sizes: Int[Array, "m 2"], network: Network, *, scenery: Scenery
) -> _Seen:
    scenes, views = lit_views(key, images, sizes, scenery)
    views = jnp.round(views * 255) / 255
    rules = network.rules.replace(
        refinement="none",
        nms_radius=RADIUS_PX,
        max_keypoints=scenery.keypoints_per_view,
        dtype=scenery.extractor_dtype,
    )
    dense, gray, _, seen = dense_features(network, views, None, rules=rules)
    scores = score_map(dense.logits, rule=rules.score_rule)
    keypoints, _, mask, _ = select_keypoints(scores, seen, config=rules, keypoint_threshold=scenery.keypoint_threshold)
    grays, logs = head_inputs(gray, scores, keypoints, seen)
    grays, logs = (leaf.reshape(*keypoints.shape[:2], PATCH_PX, PATCH_PX) for leaf in (grays, logs))
    inputs = jnp.round(grays * 255).astype(jnp.uint8), logs.astype(jnp.float16)
    by_view = jax.tree.map(lambda leaf: leaf.reshape(BATCH, 2, *leaf.shape[1:]), (*inputs, keypoints, mask))
    positions, slopes, partners = _partners(scenes, by_view[2], by_view[3])
    return _Seen(
        grays=by_view[0],
        logs=by_view[1],
        keypoints_xy=by_view[2],
        positions=positions,
        slopes=slopes,
        partners=partners,
        flat=scenes.flat,
    )


def _partners(
    scenes: Scenes, keypoints_xy: Float[Array, "n 2 k 2"], mask: Bool[Array, "n 2 k"]
) -> tuple[Float[Array, "n k 2"], Float[Array, "n k 2 2"], Int[Array, "n k"]]:
    """For the keypoints of a: their places in b, the slopes there, and their partners in b."""
    positions, known = transfer(scenes, keypoints_xy)
    slopes = []
    for step in (jnp.array([STEP_PX, 0]), jnp.array([0, STEP_PX])):
        (after, seen_after), (before, seen_before) = (
            transfer(scenes, keypoints_xy + sign * step[None, None, None]) for sign in (1, -1)
        )
        slopes.append((after - before)[:, 0] / (2 * STEP_PX))
        known = known & seen_after & seen_before
    slope = jnp.stack(slopes, axis=-1)
    # An area that changes its size more than tenfold is at an edge of the made-up depth.
    area = jnp.abs(slope[..., 0, 0] * slope[..., 1, 1] - slope[..., 0, 1] * slope[..., 1, 0])
    smooth = jnp.stack([(area > 0.1) & (area < 10), jnp.ones_like(area, bool)], axis=1)
    known = known & mask & smooth
    there, back = (
        jnp.linalg.norm(positions[:, here, :, None] - keypoints_xy[:, 1 - here, None], axis=-1) for here in (0, 1)
    )
    both = jnp.maximum(there, back.mT)
    both = jnp.where(known[:, 0, :, None] & known[:, 1, None], both, jnp.inf)
    partner, partner_of_b = jnp.argmin(both, axis=2), jnp.argmin(both, axis=1)
    mutual = jnp.take_along_axis(partner_of_b, partner, axis=1) == jnp.arange(both.shape[1])[None]
    found = mutual & (jnp.min(both, axis=2) < LARGEST_ERROR_PX)
    return positions[:, 0], slope, jnp.where(found, partner, -1)


def _shared(seen: _Seen) -> SharedKeypoints:
    """Only the keypoints with a partner, as numpy arrays."""
    pair, row = np.nonzero(np.asarray(seen.partners) >= 0)
    partner = np.asarray(seen.partners)[pair, row]

    def both(leaf: Array) -> np.ndarray:
        values = np.asarray(leaf)
        return np.stack([values[pair, 0, row], values[pair, 1, partner]], axis=1)

    arrays: dict[str, Any] = dict(
        grays=both(seen.grays),
        logs=both(seen.logs),
        errors_xy=np.asarray(seen.positions)[pair, row] - np.asarray(seen.keypoints_xy)[pair, 1, partner],
        slopes=np.asarray(seen.slopes)[pair, row],
        flat=np.asarray(seen.flat)[pair],
    )
    return SharedKeypoints(**arrays)
