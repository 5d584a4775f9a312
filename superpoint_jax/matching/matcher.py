"""What a network that matches has to be, so that `match` takes it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jax import Array
from jaxtyping import Float

from superpoint_jax.features import Keypoints
from superpoint_jax.matching.matches import Matches


@runtime_checkable
class Matcher(Protocol):
    """Anything with this method; `superpoint_jax.LightGlue` is one."""

    def match(self, a: Keypoints, b: Keypoints, *, min_score: float | Float[Array, ""] | None = None) -> Matches:
        """The partner in b of each keypoint in a.

        Batches of B pairs, or one image on either side against B on the other; without a batch axis on both, the result
        has none. `min_score` is the smallest score of a match, the matcher's own where it is None.
        """
        ...
