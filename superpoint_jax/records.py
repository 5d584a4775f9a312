"""Keypoints and matches as objects for JSON, as the command line and the page write them, and keypoints from files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from superpoint_jax.estimation import Estimate
from superpoint_jax.features import Keypoints
from superpoint_jax.files import require_regular
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


def read_keypoints(path: Path) -> Float[np.ndarray, "n 2"]:
    """The places (x, y) in a file: JSON as `keypoints_record` makes it, alone or in a list of one, or a list of pairs.

    A file with another suffix than .json is text, with x and y on each line, separated by white space or a comma. Empty
    lines and lines that begin with # are left out.

    Raises:
        FileNotFoundError: No such file.
        ValueError: There are no places, or one is not two finite numbers.
    """
    require_regular(path)
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix.lower() == ".json" else _lines(text)
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are of this kind.
        raise ValueError(f"{path}: {error}") from error
    if isinstance(values, list) and len(values) == 1 and isinstance(values[0], dict):
        (values,) = values
    if isinstance(values, dict):
        values = values.get("keypoints")
    elif isinstance(values, list) and values and isinstance(values[0], dict):
        raise ValueError(f"{path}: keypoints of {len(values)} photos; those of one are needed")
    if not isinstance(values, list) or not values:
        raise ValueError(f"{path}: no keypoints; a list [[x, y], ...] is needed")
    for row, value in enumerate(values, 1):
        if not isinstance(value, list) or len(value) != 2 or not all(map(_is_finite, value)):
            raise ValueError(f"{path}: keypoint {row} is {value}; two finite numbers, x and y, are needed")
    return np.array(values, np.float64)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _lines(text: str) -> list[list[float]]:
    """The numbers on each line of a text."""
    lines = ((number, line.replace(",", " ").split()) for number, line in enumerate(text.splitlines(), 1))
    found = []
    for number, parts in lines:
        if parts and not parts[0].startswith("#"):
            try:
                found.append([float(part) for part in parts])
            except ValueError as error:
                raise ValueError(f"line {number}: {' '.join(parts)!r} is not x and y") from error
    return found


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
