"""`Matches`, the result of every matcher: the keypoint of image b that belongs to each keypoint of image a."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from superpoint_jax.features import AnyArray, Indexable, pytree


@pytree
@dataclass(frozen=True)
class Matches(Indexable):
    """The partner in image b of each keypoint of image a.

    Attributes:
        indices: Row of the partner in b; -1 where there is none.
        scores: Cosine similarity of the two descriptors; with a temperature, the dual-softmax probability; with a
            matcher, its probability. 0 where there is no partner.
        mask: True where there is a partner.
    """

    indices: Int[AnyArray, "*b k"]
    scores: Float[AnyArray, "*b k"]
    mask: Bool[AnyArray, "*b k"]

    def _batched(self) -> bool:
        return self.mask.ndim > 1

    def to_list(self) -> list[dict[str, np.ndarray]]:
        """The matches without empty rows, one dictionary per pair: indices [M,2] (row in a, row in b), scores [M].

        The values are numpy arrays.
        """
        indices, scores, mask = map(np.asarray, (self.indices, self.scores, self.mask))
        if mask.ndim != 2:
            raise ValueError(f"to_list needs a batch of pairs [B,K]; mask has shape {mask.shape}. Index with a slice")
        return [
            {"indices": np.stack([np.flatnonzero(m), i[m]], axis=-1).astype(np.int32), "scores": s[m]}
            for i, s, m in zip(indices, scores, mask, strict=True)
        ]


def no_matches(shape: tuple[int, ...]) -> Matches:
    """Matches of this shape in which no keypoint has a partner."""
    return Matches(indices=jnp.full(shape, -1, jnp.int32), scores=jnp.zeros(shape), mask=jnp.zeros(shape, bool))
