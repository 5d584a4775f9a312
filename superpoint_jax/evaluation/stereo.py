"""Evaluates matching on rectified stereo pairs with known disparities: these show parallax, homographies do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from superpoint_jax.evaluation.extractors import Extractor, best_of
from superpoint_jax.evaluation.matchers import NEAREST, FeatureMatcher, matcher_for
from superpoint_jax.processing import load_image
from superpoint_jax.processing.loading import load_values, read_size

THRESHOLDS_PX = (1, 3)
"""A match is right if its error is at most this, in pixels; one result for each."""


@dataclass(frozen=True, kw_only=True)
class StereoPair:
    """A rectified pair of photos.

    Attributes:
        name: Name of the pair.
        left: Path of the left photo.
        right: Path of the right photo.
        disparities: Column of each point in the left image minus its column in the right image, in pixels; 0 where it
            is not known.
    """

    name: str
    left: Path
    right: Path
    disparities: Float[np.ndarray, "h w"]


@dataclass(frozen=True, kw_only=True)
class StereoResult:
    """The result of one extractor on one pair.

    Attributes:
        extractor: Name of the extractor.
        pair: Name of the pair.
        keypoints: Number of keypoints in the left image and in the right image.
        matches: Number of matches where the disparity is known.
        right: Number of these that are right, for each of `THRESHOLDS_PX`.
    """

    extractor: str
    pair: str
    keypoints: tuple[int, int]
    matches: int
    right: tuple[int, ...]


def stereo_pairs(folder: str | Path) -> list[StereoPair]:
    """The pairs in a folder's pairs.txt; each line has left image, right image, disparities and their scale.

    A point (x, y) of the left image lies at (x - disparity / scale, y) in the right image. A disparity of 0 is unknown.

    Raises:
        ValueError: The file does not exist, has a line with something else, or lists no pair; or an image can't be
            read, or is of another size than its disparities.
    """
    folder = Path(folder)
    listing = folder / "pairs.txt"
    if not listing.is_file():
        raise ValueError(
            f"{folder} holds no pairs.txt, in which each line has left image, right image, disparities and scale"
        )
    pairs = []
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), 1):
        if not (words := line.split()):
            continue
        try:
            left, right, disparities, scale = words[0], words[1], words[2], float(words[3])
        except (IndexError, ValueError):
            raise ValueError(f"{listing}:{number}: left image, right image, disparities and scale are needed") from None
        values = load_values(folder / disparities) / np.float64(scale)
        values = values if values.ndim == 2 else values[..., 0]  # Gray values stored in three equal channels.
        if values.shape != (size := read_size(folder / left)):
            (height, width), (rows, columns) = size, values.shape
            raise ValueError(
                f"{folder / disparities}: {columns}x{rows} disparities; the left image {left} has {width}x{height} "
                "pixels"
            )
        pairs.append(
            StereoPair(name=Path(left).parent.name, left=folder / left, right=folder / right, disparities=values)
        )
    if not pairs:
        raise ValueError(f"{listing} lists no pair")
    return pairs


def evaluate_stereo(
    folder: str | Path,
    extractors: Mapping[str, Extractor],
    *,
    max_keypoints: int = 1000,
    matcher: FeatureMatcher = NEAREST,
    progress: bool = False,
) -> list[StereoResult]:
    """The results of each extractor on each pair: its matches, compared with the disparities.

    The images keep their own size.

    Args:
        folder: Folder with the pairs; see `stereo_pairs`.
        extractors: The extractors, by name.
        max_keypoints: Only this many keypoints with the highest scores count.
        matcher: What matches; a network matches SuperPoints only, and SIFT and ORB keep nearest neighbours.
        progress: Show a progress bar.
    """
    from tqdm import tqdm

    results = []
    pairs = stereo_pairs(folder)
    for name, extractor in extractors.items():
        for pair in tqdm(pairs, desc=name, unit="pair", disable=None if progress else True):
            images = [load_image(path) for path in (pair.left, pair.right)]
            features = [best_of(extractor(image), image.shape[:2], max_keypoints) for image in images]
            i, j = matcher_for(name, matcher)(*features).T
            points_a, points_b = (one["keypoints"].astype(np.float64) for one in features)
            errors_px, known = stereo_errors(points_a[i], points_b[j], pair.disparities)
            results.append(
                StereoResult(
                    extractor=name,
                    pair=pair.name,
                    keypoints=(len(points_a), len(points_b)),
                    matches=int(known.sum()),
                    right=tuple(int((errors_px[known] <= px).sum()) for px in THRESHOLDS_PX),
                )
            )
    return results


def stereo_errors(
    left_xy: Float[np.ndarray, "n 2"], right_xy: Float[np.ndarray, "n 2"], disparities: Float[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """The errors of matches in pixels, and whether the disparity of each match is known.

    The error is the distance of the right point from its expected place: the left point moved by the disparity of the
    pixel nearest to it.
    """
    height, width = disparities.shape
    columns, rows = np.round(left_xy).astype(int).T
    disparity = disparities[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
    expected = left_xy - np.stack([disparity, np.zeros_like(disparity)], axis=1)
    return np.linalg.norm(right_xy - expected, axis=1), disparity > 0


def stereo_table(results: Sequence[StereoResult]) -> str:
    """The means over the pairs as text, one line per extractor."""
    lines = [f"{'':24}{'right within 1 px':>18}{'3 px':>8}{'matches':>9}{'right within 1 px':>19}{'pairs':>7}"]
    for name in dict.fromkeys(result.extractor for result in results):
        own = [result for result in results if result.extractor == name]
        fractions = np.mean([np.array(result.right) / max(result.matches, 1) for result in own], axis=0)
        matches, right = np.mean([(result.matches, result.right[0]) for result in own], axis=0)
        lines.append(f"{name:24}{fractions[0]:18.3f}{fractions[1]:8.3f}{matches:9.0f}{right:19.0f}{len(own):7d}")
    return "\n".join(lines)
