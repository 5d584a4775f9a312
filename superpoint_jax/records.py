"""Keypoints and matches as objects for JSON, as the command line and the page write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from superpoint_jax.estimation import Estimate
from superpoint_jax.features import Keypoints
from superpoint_jax.matching import Matches


def keypoints_record(name: str, found: Keypoints, *, with_descriptors: bool = False) -> dict[str, Any]:
    """The keypoints of one image: "image", "width", "height", "num_detected", "keypoints" and "scores".

    Args:
        name: Name of the image.
        found: Keypoints of one image [K], in its pixels.
        with_descriptors: Also add "descriptors".
    """
    mask = np.asarray(found.mask)
    height, width = found.image_sizes.tolist()
    record = {
        "image": name,
        "width": width,
        "height": height,
        "num_detected": int(found.num_detected),
        # Scores keep every digit of float32; for positions, a thousandth of a pixel is enough.
        "keypoints": np.asarray(found.keypoints, np.float64)[mask].round(3).tolist(),
        "scores": np.asarray(found.scores)[mask].tolist(),
    }
    if with_descriptors:
        record["descriptors"] = np.asarray(found.descriptors)[mask].tolist()
    return record


def matches_record(
    names: Sequence[str], features: Sequence[Keypoints], matches: Matches, *, model: str, estimate: Estimate
) -> dict[str, Any]:
    """The matches of two images, and the geometric model that relates them.

    The entries are "images", "model", "matrix" (None if none was found), and the lists "points_a", "points_b", "scores"
    and "inliers" with one entry per match.

    Args:
        names: Names of the two images.
        features: Keypoints [K] of the two images, in pixels of each.
        matches: Matches of the first image in the second.
        model: Name of the estimated model.
        estimate: Result of the estimation.
    """
    rows = np.flatnonzero(np.asarray(matches.mask))
    partners = np.asarray(matches.indices)[rows]
    points = [
        np.asarray(found.keypoints, np.float64)[index].round(3).tolist()
        for found, index in zip(features, (rows, partners), strict=True)
    ]
    images = []
    for name, found in zip(names, features, strict=True):
        height, width = found.image_sizes.tolist()
        images.append({"image": name, "width": width, "height": height, "keypoints": int(found.mask.sum())})
    return {
        "images": images,
        "model": model,
        "matrix": np.asarray(estimate.matrix).tolist() if estimate.found else None,
        "points_a": points[0],
        "points_b": points[1],
        "scores": np.asarray(matches.scores, np.float64)[rows].round(6).tolist(),
        "inliers": np.asarray(estimate.inliers)[rows].tolist(),
    }
