"""The result and the input checks shared by all estimators."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from superpoint_jax.features import Indexable, Keypoints, pytree
from superpoint_jax.matching import Matches


@pytree
@dataclass(frozen=True)
class Estimate(Indexable):
    """The geometry of one pair of images, or of a batch of pairs.

    Attributes:
        matrix: Homography from a to b, (x, y, 1) in pixels, centres at integers, last entry 1; or fundamental or
            essential matrix with b' F a = 0. All 0 if none was found.
        inliers: True for each keypoint of a whose match agrees with the matrix.
        found: Whether a matrix was found.
    """

    matrix: Float[Array | np.ndarray, "*b 3 3"]
    inliers: Bool[Array | np.ndarray, "*b k"]
    found: Bool[Array | np.ndarray, "*b"] | np.bool_

    def _batched(self) -> bool:
        return self.inliers.ndim > 1


def check_pair(a: Keypoints, b: Keypoints, matches: Matches) -> None:
    """Raise a ValueError if the shapes do not fit together."""
    shapes = f"a.mask {a.mask.shape}, b.mask {b.mask.shape}, matches.mask {matches.mask.shape}"
    if not a.mask.ndim == b.mask.ndim == matches.mask.ndim or matches.mask.ndim > 2:
        raise ValueError(f"{shapes}: either all must be of one pair, or all must have a batch axis")
    if a.mask.shape[-1] != matches.mask.shape[-1]:
        raise ValueError(f"{shapes}: the matches must have the rows of a")
    if matches.mask.ndim == 2 and any(len(side) not in (1, len(matches)) for side in (a, b)):
        raise ValueError(f"{shapes}: the batches must have equal sizes, or one image")
