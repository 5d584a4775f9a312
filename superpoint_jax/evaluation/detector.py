"""How well a detector finds corners that are known, as on synthetic shapes. Numpy, in float64."""

from __future__ import annotations

import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from superpoint_jax.evaluation.metrics import average_precision

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
    """Average precision of detections over a set of images, in [0, 1]; NaN where the set has no corner.

    The detections of all images are taken by descending score. One is correct within `threshold_px` of a corner that
    none before it has found: a corner found twice counts against the detector, and so does anything on an image without
    corners. The precision down to each correct detection is summed over the set, and divided by the number of corners.
    Points are (x, y) in pixels; rows outside the masks do not count.

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
    """For detections of one image, best first: True where one is the first to find a corner.

    It finds the nearest corner that is not found yet, within the threshold.
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
