"""Pairs of images with known matches, made from photos ahead of a run: keypoints, descriptors and true positions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, UInt8

from superpoint_jax.extraction import extract
from superpoint_jax.features import AnyArray, Keypoints, pytree
from superpoint_jax.training.parts import BATCH, Network, Scenery, lit_views, make_parts
from superpoint_jax.training.scenes import transfer


@pytree
@dataclass(frozen=True)
class MatchingPairs:
    """Pairs of images; along the second axis, a comes before b.

    Attributes:
        keypoints: (x, y) in pixels.
        scores: Scores of the keypoints.
        descriptors: Descriptors, in half precision to save memory.
        mask: False for padding rows.
        image_sizes: (height, width) of each image.
        positions: Position of each keypoint in the other image, in pixels.
        known: Whether that position is known.
        flat: Whether the pair is related by a homography.
    """

    keypoints: Float[AnyArray, "n 2 k 2"]
    scores: Float[AnyArray, "n 2 k"]
    descriptors: Float[AnyArray, "n 2 k d"]
    mask: Bool[AnyArray, "n 2 k"]
    image_sizes: Int[AnyArray, "n 2 2"]
    positions: Float[AnyArray, "n 2 k 2"]
    known: Bool[AnyArray, "n 2 k"]
    flat: Bool[AnyArray, " n"]

    def __len__(self) -> int:
        return len(self.flat)

    def features(self) -> tuple[Keypoints, Keypoints]:
        """The keypoints of both sides, as `extract` returns them."""
        a, b = (
            Keypoints(
                keypoints=self.keypoints[:, side],
                scores=self.scores[:, side],
                descriptors=self.descriptors[:, side].astype(jnp.float32),
                mask=self.mask[:, side],
                image_sizes=self.image_sizes[:, side],
                num_detected=self.mask[:, side].sum(axis=-1, dtype=jnp.int32),
            )
            for side in (0, 1)
        )
        return a, b


def make_pairs(data: Path, folder: Path, *, scenery: Scenery, extractor: str, seed: int = 0) -> MatchingPairs:
    """The pairs of a folder of photos, which are also kept in files of `folder`; see `make_parts`."""

    def make(key: Array, images: Array, sizes: Array, network: Network) -> MatchingPairs:
        return _pairs_of(key, images, sizes, network, scenery)

    return make_parts(MatchingPairs, make, data, folder, scenery=scenery, extractor=extractor, seed=seed)


def _pairs_of(
    key: Array,
    images: UInt8[Array, "m s s *c"],
    sizes: Int[Array, "m 2"],
    network: Network,
    scenery: Scenery,
) -> MatchingPairs:
    scenes, views = lit_views(key, images, sizes, scenery)
    found = extract(
        network,
        views,
        max_keypoints=scenery.keypoints_per_view,
        keypoint_threshold=scenery.keypoint_threshold,
        dtype=scenery.extractor_dtype,
    )
    by_pair = jax.tree.map(lambda leaf: leaf.reshape(BATCH, 2, *leaf.shape[1:]), found)
    positions, known = transfer(scenes, by_pair.keypoints)
    pairs = MatchingPairs(
        keypoints=by_pair.keypoints,
        scores=by_pair.scores,
        descriptors=by_pair.descriptors.astype(jnp.float16),
        mask=by_pair.mask,
        image_sizes=by_pair.image_sizes,
        positions=positions,
        known=known & by_pair.mask,
        flat=scenes.flat,
    )
    return jax.tree.map(np.asarray, pairs)
