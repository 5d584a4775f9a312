"""The interface of a network that `match` takes as its `matcher`."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jax import Array
from jaxtyping import Float

from superpoint_jax.features import Keypoints
from superpoint_jax.matching.matches import Matches


@runtime_checkable
class Matcher(Protocol):
    """Any object with this method, for example `superpoint_jax.LightGlue`."""

    def match(self, a: Keypoints, b: Keypoints, *, min_score: float | Float[Array, ""] | None = None) -> Matches:
        """The partner in b of each keypoint in a.

        a and b are batches of B pairs, or one side is a batch of one image and is matched with all B images of the
        other. If neither has a batch axis, the result has none. `min_score` is the smallest score of a match; None uses
        the matcher's own.
        """
        ...
