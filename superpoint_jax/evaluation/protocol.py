"""The protocol: an extractor over pairs of images of known homography.

Images are resized to a long side of 640 px, the best 1000 keypoints count, matches are mutual nearest neighbours, a
homography is estimated by RANSAC at 3 px.
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
from superpoint_jax.evaluation.extractors import Extractor, Features
from superpoint_jax.evaluation.images import reduce_image
from superpoint_jax.evaluation.metrics import (
    corner_error,
    fraction_within,
    inside,
    localization_error,
    matching_score,
    mutual_matches,
    nearest_neighbor_map,
    repeatability,
    warp_points,
)
from superpoint_jax.evaluation.report import CURVE_PX, Evaluation, PairResult
from superpoint_jax.processing import load_image


def evaluate_hpatches(
    folder: str | Path, extractors: Mapping[str, Extractor], *, progress: bool = False, **options: Any
) -> list[Evaluation]:
    """The figures of each extractor on the sequences of a folder; see `sequence_pairs` for what it must hold.

    Args:
        folder: HPatches, or anything of its layout.
        extractors: By name.
        progress: Show a bar.
        **options: Of `evaluate_pairs`.
    """
    pairs = sequence_pairs(folder)
    return [
        evaluate_pairs(extractor, _shown(pairs, progress, name, len(pairs)), name=name, **options)
        for name, extractor in extractors.items()
    ]


def evaluate_homographies(
    folder: str | Path,
    extractors: Mapping[str, Extractor],
    *,
    pair_options: Mapping[str, Any] | None = None,
    long_side: int | None = 640,
    progress: bool = False,
    **options: Any,
) -> list[Evaluation]:
    """The figures of each extractor on photos and random warps of them; see `homography_pairs`.

    Args:
        folder: Any photos.
        extractors: By name.
        pair_options: Of `homography_pairs`: `seed`, `per_photo`, `limit`, `scale`, ...
        long_side: Of the photos, at most.
        progress: Show a bar.
        **options: Of `evaluate_pairs`.
    """
    evaluations = []
    for name, extractor in extractors.items():
        # Made anew for each extractor, the same by their seed, rather than held in memory.
        pairs = homography_pairs(folder, long_side=long_side, **(pair_options or {}))
        shown = _shown(pairs, progress, name, None)
        evaluations.append(evaluate_pairs(extractor, shown, name=name, long_side=long_side, **options))
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
) -> Evaluation:
    """The figures of an extractor on pairs of images.

    Features of the last image a are kept, so that a sequence of pairs with the same one extracts it once.

    Args:
        extractor: See `superpoint_jax.evaluation.extractors`.
        pairs: In an order that keeps those with the same image a together.
        name: For the report.
        max_keypoints: Those of highest score count.
        long_side: Larger images are reduced to it; the homographies follow.
        threshold_px: Of repeatability, localisation error, matching score, NN mAP, and of RANSAC's inliers.
        estimator: "ransac", which the published figures use, or the better "magsac".

    Raises:
        ValueError: No pairs.
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
        )
        results.append(PairResult(name=pair.name, group=pair.group, **result))
    if not results:
        raise ValueError("no pairs to evaluate")
    return Evaluation(
        extractor=name,
        protocol=dict(max_keypoints=max_keypoints, long_side=long_side, threshold_px=threshold_px, estimator=estimator),
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
) -> dict[str, Any]:
    """The figures of one pair of images: the fields of `PairResult` without its names.

    Args:
        features_a: Keypoints and descriptors of image a.
        features_b: Of image b.
        homography: From a to b, in pixels; positive depth where it is visible.
        size_a: (height, width).
        size_b: (height, width).
        threshold_px: See `evaluate_pairs`.
        estimator: See `evaluate_pairs`.
    """
    points_a, points_b = (features["keypoints"].astype(np.float64) for features in (features_a, features_b))
    descriptors_a, descriptors_b = features_a["descriptors"], features_b["descriptors"]
    warped_a = warp_points(homography, points_a)
    seen_a = inside(warped_a, size_b)
    seen_b = inside(warp_points(np.linalg.inv(homography), points_b), size_a)
    both = warped_a[seen_a], points_b[seen_b]

    i, j = mutual_matches(descriptors_a, descriptors_b).T
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
    """Features of an image, its size as the extractor saw it, and the map from the original to that."""

    features: Features
    size: tuple[int, int]
    resize: np.ndarray


@dataclass
class _Viewer:
    """Loads, reduces and extracts, and keeps the time."""

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
        best = np.argsort(-features["scores"], kind="stable")[: self.max_keypoints]
        kept = {key: features[key][best] for key in ("keypoints", "scores", "descriptors")}
        return _View(kept, (image.shape[0], image.shape[1]), resize)


def _same_image(a: Path | np.ndarray, b: Path | np.ndarray | None) -> bool:
    return a is b or (isinstance(a, Path) and isinstance(b, Path) and a == b)


def _shown(pairs: Iterable[Pair], progress: bool, name: str, total: int | None) -> Iterator[Pair]:
    if not progress:
        yield from pairs
        return
    from tqdm import tqdm

    yield from tqdm(pairs, desc=name, total=total, disable=None, unit="pair")
