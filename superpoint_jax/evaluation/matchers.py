"""What an evaluation matches the features of two images with: nearest neighbours by default, or a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int

from superpoint_jax.evaluation.extractors import OPENCV, Features
from superpoint_jax.evaluation.metrics import mutual_matches
from superpoint_jax.features import Keypoints
from superpoint_jax.matching import Matcher, match


@dataclass(frozen=True)
class FeatureMatcher:
    """Matches features of two images: dictionaries of an extractor, with "image_size" (height, width) added.

    Attributes:
        name: Name in the report.
        network: The network that matches; None for mutual nearest neighbours.
        tests: What a match has to pass: `ratio`, `max_distance` and `min_score` of `superpoint_jax.match`.
    """

    name: str = "nearest"
    network: Matcher | None = None
    tests: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, a: Features, b: Features) -> Int[np.ndarray, "m 2"]:
        """The matches, as rows (in a, in b)."""
        if self.network is None and not self.tests:
            return mutual_matches(a["descriptors"], b["descriptors"])
        found = match(keypoints_of(a), keypoints_of(b), matcher=self.network, **self.tests)
        rows = np.flatnonzero(found.mask)
        return np.stack([rows, np.asarray(found.indices)[rows]], axis=1)


NEAREST = FeatureMatcher()
"""Mutual nearest neighbours."""


def matcher_for(extractor: str, matcher: FeatureMatcher) -> FeatureMatcher:
    """The matcher for the extractor of a name: a network matches SuperPoints, and SIFT and ORB keep `NEAREST`."""
    return NEAREST if extractor in OPENCV and matcher.network is not None else matcher


def keypoints_of(features: Features) -> Keypoints:
    """The features of one image, with "image_size", as `Keypoints` of numpy arrays."""
    count = len(features["scores"])
    rows: dict[str, Any] = {name: features[name].astype(np.float32) for name in ("keypoints", "scores", "descriptors")}
    rows |= dict(mask=np.ones(count, bool), num_detected=np.int32(count))
    rows |= dict(image_sizes=features["image_size"].astype(np.int32))
    return Keypoints(**rows)
