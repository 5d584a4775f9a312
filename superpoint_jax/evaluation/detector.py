"""Metrics of a detector where the true corners are known, as on synthetic shapes; in numpy and float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from superpoint_jax.evaluation.extractors import Extractor
from superpoint_jax.evaluation.metrics import average_precision
from superpoint_jax.training.augmentation import photometric
from superpoint_jax.training.synthetic import KINDS, render_shapes

_Points = Float[np.ndarray, "b k 2"] | Float[Array, "b k 2"]
_Scores = Float[np.ndarray, "b k"] | Float[Array, "b k"]
_Mask = Bool[np.ndarray, "b k"] | Bool[Array, "b k"]
_Corners = Float[np.ndarray, "b n 2"] | Float[Array, "b n 2"]
_CornersMask = Bool[np.ndarray, "b n"] | Bool[Array, "b n"]


def detection_average_precision(
    predicted_xy: _Points,
    scores: _Scores,
    mask: _Mask,
    corners_xy: _Corners,
    corners_mask: _CornersMask,
    *,
    threshold_px: float = 3.0,
) -> float:
    """Average precision of detections over a set of images, in [0, 1]; NaN if the set has no corner.

    The detections of all images are taken in descending order of score. A detection is correct if it is within
    `threshold_px` of a corner that no earlier detection has found. So a second detection of the same corner counts as
    wrong, and so does every detection on an image without corners. The sum of the precisions at all correct detections
    is divided by the number of corners. Positions are (x, y) in pixels; rows outside the masks do not count.

    Source: paper, appendix A ("corner detection average precision"), with the one-to-one rule of detection benchmarks.
    """
    predicted_xy, corners_xy = np.asarray(predicted_xy, np.float64), np.asarray(corners_xy, np.float64)
    mask, corners_mask = np.asarray(mask), np.asarray(corners_mask)
    scores = np.asarray(scores, np.float64)
    if not corners_mask.any():
        return float("nan")
    correct = np.zeros_like(mask)
    for i, valid in enumerate(mask):
        order = np.flatnonzero(valid)[np.argsort(-scores[i, valid], kind="stable")]
        correct[i, order] = first_findings(
            predicted_xy[i, order], corners_xy[i, corners_mask[i]], threshold_px=threshold_px
        )
    return average_precision(scores[mask], correct[mask], int(corners_mask.sum()))


def first_findings(
    predicted_xy: Float[np.ndarray, "k 2"], corners_xy: Float[np.ndarray, "n 2"], *, threshold_px: float
) -> Bool[np.ndarray, " k"]:
    """For the detections of one image, best first: True where a detection finds a corner.

    A detection finds the nearest corner that is not found yet, if it is within the threshold.
    """
    found = np.zeros(len(predicted_xy), bool)
    if not len(corners_xy):
        return found
    distance = np.linalg.norm(predicted_xy[:, None] - corners_xy[None], axis=-1)
    for k in range(len(predicted_xy)):
        nearest = distance[k].argmin()
        if distance[k, nearest] <= threshold_px:
            found[k] = True
            distance[:, nearest] = np.inf
    return found


_NO_STEP = 2**31 - 1
"""Folded into the seed in the place of a training's step number; no training reaches this step."""


@dataclass(frozen=True, kw_only=True)
class ShapesResult:
    """One extractor on images of synthetic shapes.

    Attributes:
        extractor: Name of the extractor.
        photometric: Strength of noise, blur, shade and changes of light; 0 for the unchanged drawings.
        images: Number of images.
        average_precision: See `detection_average_precision`.
        by_kind: The average precision on the images of each kind; NaN for those without corners (ellipses, noise).
        localization_error: Mean distance of the correct detections from their corners, in pixels.
    """

    extractor: str
    photometric: float
    images: int
    average_precision: float
    by_kind: dict[str, float]
    localization_error: float


def evaluate_shapes(
    extractors: Mapping[str, Extractor],
    *,
    images: int = 500,
    shape: tuple[int, int] = (240, 320),
    strengths: Sequence[float] = (0.0, 1.0),
    seed: int = 0,
    threshold_px: float = 3.0,
    batch: int = 50,
) -> list[ShapesResult]:
    """Average precision of each extractor on fresh synthetic shapes, without and with photometric noise.

    Args:
        extractors: Extractors by name; all see the same images.
        images: Number of images; all kinds are equally likely.
        shape: (height, width) of an image.
        strengths: Strengths of `superpoint_jax.training.augmentation.photometric`; 1 is that of training.
        seed: Seed of the shapes. No step of a training with the same seed draws these shapes.
        threshold_px: Largest distance of a correct detection from its corner.
        batch: Images drawn at a time.

    Source: paper, section 6.1 and appendix A; our noise differs from the paper's.
    """
    found: dict[tuple[str, float], list[tuple[np.ndarray, np.ndarray]]] = {}
    corners, kinds = [], []
    key = jax.random.fold_in(jax.random.key(seed), _NO_STEP)
    for index in range(-(-images // batch)):
        shapes_key, light_key = jax.random.split(jax.random.fold_in(key, index))
        shapes = render_shapes(shapes_key, batch=batch, shape=shape)
        count = min(batch, images - index * batch)
        kinds.append(np.asarray(shapes.kind)[:count])
        corners += [np.asarray(xy)[np.asarray(m)] for xy, m in zip(shapes.corners_xy, shapes.corners_mask, strict=True)]
        del corners[index * batch + count :]
        for strength in strengths:
            seen = photometric(light_key, shapes.images, strength=strength) if strength else shapes.images
            grays = np.round(np.asarray(seen)[:count, ..., 0] * 255).astype(np.uint8)
            for name, extractor in extractors.items():
                features = [extractor(gray) for gray in grays]
                found.setdefault((name, strength), []).extend((f["keypoints"], f["scores"]) for f in features)
    kind = np.concatenate(kinds)
    return [
        _shapes_result(name, strength, detections, corners, kind, threshold_px)
        for (name, strength), detections in found.items()
    ]


def shapes_table(results: Sequence[ShapesResult]) -> str:
    """One line per extractor and strength: average precision over all images, then over each kind with corners."""
    shown = [kind for kind in KINDS if any(not np.isnan(result.by_kind[kind]) for result in results)]
    lines = [f"{'':24}{'noise':>6}{'mAP':>7}{'loc. err.':>11}" + "".join(f"{kind:>14}" for kind in shown)]
    lines += [
        f"{result.extractor[-23:]:24}{result.photometric:6.1f}{result.average_precision:7.3f}"
        f"{result.localization_error:11.2f}" + "".join(f"{result.by_kind[kind]:14.3f}" for kind in shown)
        for result in results
    ]
    return "\n".join(lines)


def _shapes_result(
    name: str,
    strength: float,
    detections: list[tuple[np.ndarray, np.ndarray]],
    corners: list[np.ndarray],
    kind: np.ndarray,
    threshold_px: float,
) -> ShapesResult:
    most = max([len(points) for points, _ in detections] + [1])
    predicted_xy, scores = np.zeros((len(kind), most, 2)), np.zeros((len(kind), most))
    mask = np.zeros((len(kind), most), bool)
    corners_xy = np.zeros((len(kind), max([len(c) for c in corners] + [1]), 2))
    corners_mask = np.zeros(corners_xy.shape[:2], bool)
    errors = []
    for i, ((points, score), known) in enumerate(zip(detections, corners, strict=True)):
        predicted_xy[i, : len(points)], scores[i, : len(points)], mask[i, : len(points)] = points, score, True
        corners_xy[i, : len(known)], corners_mask[i, : len(known)] = known, True
        if len(points) and len(known):
            nearest = np.linalg.norm(known[:, None] - points[None], axis=-1).min(axis=1)
            errors.append(nearest[nearest <= threshold_px])

    def precision(of: np.ndarray) -> float:
        return detection_average_precision(
            predicted_xy[of], scores[of], mask[of], corners_xy[of], corners_mask[of], threshold_px=threshold_px
        )

    within = np.concatenate(errors) if errors else np.zeros(0)
    return ShapesResult(
        extractor=name,
        photometric=strength,
        images=len(kind),
        average_precision=precision(np.ones(len(kind), bool)),
        by_kind={k: precision(kind == index) for index, k in enumerate(KINDS)},
        localization_error=float(within.mean()) if len(within) else float("nan"),
    )
