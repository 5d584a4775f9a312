"""How well two views agree about the places of keypoints, for validation during a run."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from superpoint_jax.refinement import RefinementHead
from superpoint_jax.training.metrics import filled_batches
from superpoint_jax.training.refinement.losses import remaining_errors
from superpoint_jax.training.refinement.pairs import SharedKeypoints

LIMITS_PX = (0.5, 1, 3)


def agreement(errors_xy: np.ndarray, flat: np.ndarray) -> dict[str, float]:
    """The fraction of keypoints whose error is below each of `LIMITS_PX`, for homographies and for parallax."""
    distances = np.linalg.norm(errors_xy, axis=-1)
    return {
        f"{name}_{limit}px": float(np.mean(distances[chosen] < limit)) if chosen.any() else 0.0
        for name, chosen in (("homography", flat), ("parallax", ~flat))
        for limit in LIMITS_PX
    }


def head_validator(keypoints: SharedKeypoints, *, batch: int = 4096) -> Callable[[RefinementHead], dict[str, float]]:
    """A function that maps a head to its agreement, with that of the peaks themselves beside it."""
    flat = np.asarray(keypoints.flat)
    peaks = {f"peaks_{name}": value for name, value in agreement(np.asarray(keypoints.errors_xy), flat).items()}
    errors_of = jax.jit(remaining_errors)

    def validate(head: RefinementHead) -> dict[str, float]:
        errors = []
        for rows, used in filled_batches(len(keypoints), batch):
            part = jax.tree.map(lambda leaf: jnp.asarray(leaf[rows]), keypoints)  # noqa: B023
            errors.append(np.asarray(errors_of(head, part))[:used])
        return agreement(np.concatenate(errors), flat) | peaks

    return validate
