"""The protocol: an extractor is evaluated on pairs of images related by a known homography.

By default, images are reduced to a long side of 640 px and the best 1000 keypoints are used, matches are mutual nearest
neighbours, and a homography is estimated by RANSAC at 3 px.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from superpoint_jax.estimation.opencv import Method, homography_of_points
from superpoint_jax.evaluation.datasets import Pair, homography_pairs, sequence_pairs
from superpoint_jax.evaluation.extractors import Extractor, Features, best_of
from superpoint_jax.evaluation.images import reduce_image
from superpoint_jax.evaluation.matchers import NEAREST, FeatureMatcher, matcher_for
from superpoint_jax.evaluation.metrics import (
    corner_error,
    fraction_within,
    inside,
    localization_error,
    matching_score,
    nearest_neighbor_map,
    repeatability,
    warp_points,
)
from superpoint_jax.evaluation.report import CURVE_PX, Evaluation, PairResult
from superpoint_jax.processing import load_image


def evaluate_hpatches(
    folder: str | Path,
    extractors: Mapping[str, Extractor],
    *,
    matcher: FeatureMatcher = NEAREST,
    progress: bool = False,
    **options: Any,
) -> list[Evaluation]:
    """The metrics of each extractor on the sequences of a folder.

    Args:
        folder: Folder of HPatches, or of other sequences in a layout that `sequence_pairs` reads.
        extractors: Extractors by name.
        matcher: What matches; a network matches SuperPoints only, and SIFT and ORB keep nearest neighbours.
        progress: Show a progress bar.
        **options: Options of `evaluate_pairs`.
    """
    pairs = sequence_pairs(folder)
    return [
        evaluate_pairs(
            extractor,
            _shown(pairs, progress, name, len(pairs)),
            name=name,
            matcher=matcher_for(name, matcher),
            **options,
        )
        for name, extractor in extractors.items()
    ]


def evaluate_homographies(
    folder: str | Path,
    extractors: Mapping[str, Extractor],
    *,
    pair_options: Mapping[str, Any] | None = None,
    long_side: int | None = 640,
    matcher: FeatureMatcher = NEAREST,
    progress: bool = False,
    **options: Any,
) -> list[Evaluation]:
    """The metrics of each extractor on photos and random warps of them; see `homography_pairs`.

    Args:
        folder: Folder of any photos.
        extractors: Extractors by name.
        matcher: What matches; a network matches SuperPoints only, and SIFT and ORB keep nearest neighbours.
        pair_options: Options of `homography_pairs`: `seed`, `per_photo`, `limit`, `scale`, ...
        long_side: Photos are reduced to this longer side, in pixels.
        progress: Show a progress bar.
        **options: Options of `evaluate_pairs`.
    """
    evaluations = []
    for name, extractor in extractors.items():
        # The same pairs are made again for each extractor, from their seed, instead of being kept in memory.
        pairs = homography_pairs(folder, long_side=long_side, **(pair_options or {}))
        shown = _shown(pairs, progress, name, None)
        own = matcher_for(name, matcher)
        evaluations.append(evaluate_pairs(extractor, shown, name=name, long_side=long_side, matcher=own, **options))
    return evaluations


def evaluate_pairs(
    extractor: Extractor,
    pairs: Iterable[Pair],
    *,
    name: str = "extractor",
    max_keypoints: int = 1000,
    long_side: int | None = 640,
    threshold_px: float = 3.0,
    estimator: Method = "ransac",
    matcher: FeatureMatcher = NEAREST,
) -> Evaluation:
    """The metrics of an extractor on pairs of images.

    The features of the last image a are kept, so that successive pairs with the same image a extract it only once.

    Args:
        extractor: See `superpoint_jax.evaluation.extractors`.
        pairs: Pairs, ordered so that those with the same image a are together.
        name: Name of the extractor in the report.
        max_keypoints: Only this many keypoints are used, those with the best scores.
        long_side: Images are reduced to this longer side, in pixels, and the homographies adapted.
        threshold_px: Threshold of repeatability, localisation error, matching score, NN mAP, and RANSAC's inliers.
        estimator: "ransac", as in published results, or the better "magsac".
        matcher: What matches.

    Raises:
        ValueError: There are no pairs.
        ImportError: OpenCV is not installed.
    """
    viewer = _Viewer(extractor, max_keypoints=max_keypoints, long_side=long_side)
    results, reference, view_a = [], None, None
    for pair in pairs:
        if view_a is None or not _same_image(pair.image_a, reference):
            reference, view_a = pair.image_a, viewer.see(pair.image_a)
        view_b = viewer.see(pair.image_b)
        result = compare(
            view_a.features,
            view_b.features,
            view_b.resize @ pair.homography @ np.linalg.inv(view_a.resize),
            view_a.size,
            view_b.size,
            threshold_px=threshold_px,
            estimator=estimator,
            matcher=matcher,
        )
        results.append(PairResult(name=pair.name, group=pair.group, **result))
    if not results:
        raise ValueError("no pairs to evaluate")
    return Evaluation(
        extractor=name,
        protocol=dict(
            max_keypoints=max_keypoints,
            long_side=long_side,
            threshold_px=threshold_px,
            estimator=estimator,
            matcher=matcher.name,
        ),
        pairs=tuple(results),
        seconds_per_image=float(np.mean(viewer.seconds[1:] or viewer.seconds)),
    )


def compare(
    features_a: Features,
    features_b: Features,
    homography: Float[np.ndarray, "3 3"],
    size_a: tuple[int, int],
    size_b: tuple[int, int],
    *,
    threshold_px: float = 3.0,
    estimator: Method = "ransac",
    matcher: FeatureMatcher = NEAREST,
) -> dict[str, Any]:
    """The metrics of one pair of images: the fields of `PairResult` without its name and group.

    Args:
        features_a: Keypoints and descriptors of image a.
        features_b: Keypoints and descriptors of image b.
        homography: From a to b, in pixels; visible points have positive depth.
        size_a: (height, width) of image a.
        size_b: (height, width) of image b.
        threshold_px: See `evaluate_pairs`.
        estimator: See `evaluate_pairs`.
        matcher: See `evaluate_pairs`.
    """
    points_a, points_b = (features["keypoints"].astype(np.float64) for features in (features_a, features_b))
    descriptors_a, descriptors_b = features_a["descriptors"], features_b["descriptors"]
    warped_a = warp_points(homography, points_a)
    seen_a = inside(warped_a, size_b)
    seen_b = inside(warp_points(np.linalg.inv(homography), points_b), size_a)
    both = warped_a[seen_a], points_b[seen_b]

    i, j = matcher({**features_a, "image_size": np.array(size_a)}, {**features_b, "image_size": np.array(size_b)}).T
    errors_px = np.linalg.norm(warped_a[i] - points_b[j], axis=1)
    errors_seen_px = errors_px[seen_a[i] & seen_b[j]]
    estimated = homography_of_points(points_a[i], points_b[j], threshold_px=threshold_px, method=estimator)
    count_a, count_b = int(seen_a.sum()), int(seen_b.sum())
    return dict(
        keypoints=(len(points_a), len(points_b)),
        visible=(count_a, count_b),
        matches=len(i),
        repeatability=repeatability(*both, threshold_px=threshold_px),
        localization_error=localization_error(*both, threshold_px=threshold_px),
        matching_score=matching_score(errors_seen_px, count_a, count_b, threshold_px=threshold_px),
        nn_map=nearest_neighbor_map(
            both[0], descriptors_a[seen_a], both[1], descriptors_b[seen_b], threshold_px=threshold_px
        ),
        matching_accuracy=tuple(fraction_within(errors_px, float(px)) for px in CURVE_PX),
        homography_error=corner_error(None if estimated is None else estimated.matrix, homography, size_a),
    )


@dataclass(frozen=True)
class _View:
    """Features of an image, the size at which the extractor saw it, and the map from the original to that size."""

    features: Features
    size: tuple[int, int]
    resize: np.ndarray


@dataclass
class _Viewer:
    """Loads and reduces images, extracts their features, and measures the time."""

    extractor: Extractor
    max_keypoints: int
    long_side: int | None
    seconds: list[float] = field(default_factory=list)

    def see(self, source: Path | np.ndarray) -> _View:
        image = source if isinstance(source, np.ndarray) else load_image(source)
        image, resize = reduce_image(image, self.long_side)
        start = time.perf_counter()
        features = self.extractor(image)
        self.seconds.append(time.perf_counter() - start)
        size = image.shape[0], image.shape[1]
        return _View(best_of(features, size, self.max_keypoints), size, resize)


def _same_image(a: Path | np.ndarray, b: Path | np.ndarray | None) -> bool:
    return a is b or (isinstance(a, Path) and isinstance(b, Path) and a == b)


def _shown(pairs: Iterable[Pair], progress: bool, name: str, total: int | None) -> Iterator[Pair]:
    if not progress:
        yield from pairs
        return
    from tqdm import tqdm

    yield from tqdm(pairs, desc=name, total=total, disable=None, unit="pair")
