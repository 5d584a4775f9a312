"""Two images with their features and matches: what `match` and `stitch` begin with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import superpoint_jax as sp
from superpoint_jax.cli.errors import told
from superpoint_jax.cli.features import load_extractor
from superpoint_jax.processing import load_image


@dataclass(frozen=True)
class MatchedPair:
    """Pixels and keypoints of two images, and the matches of the first in the second."""

    pixels: tuple[np.ndarray, np.ndarray]
    features: tuple[sp.Keypoints, sp.Keypoints]
    matches: sp.Matches


def match_images(
    image_a: Path,
    image_b: Path,
    weights: str | None,
    max_keypoints: int,
    ratio: float | None = None,
    max_distance: float | None = None,
    *,
    engine: sp.openvino.Engine = "auto",
) -> MatchedPair:
    """Read, extract and match."""
    with told():
        pixels = load_image(image_a), load_image(image_b)
    features_of = load_extractor(weights, max_keypoints, engine=engine)
    features = features_of(pixels[0]), features_of(pixels[1])
    with told():
        return MatchedPair(pixels, features, sp.match(*features, ratio=ratio, max_distance=max_distance))
