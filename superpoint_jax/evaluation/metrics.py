"""Metrics of keypoints and matches between two images related by a known homography. Pure numpy functions, in float64.

Keypoints are (x, y) in pixels, centres at integers; sizes are (height, width). Every distance is measured in image b;
the keypoints of image a are mapped there by the true homography.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

Points = Float[np.ndarray, "n 2"]
Homography = Float[np.ndarray, "3 3"]


def warp_points(homography: Homography, points_xy: Points) -> Points:
    """The points mapped by the homography; infinity for points on or behind the horizon (depth not above 0)."""
    mapped = points_xy @ homography[:, :2].T + homography[:, 2]
    depth = mapped[:, 2:]
    visible = depth > 0
    return np.where(visible, mapped[:, :2] / np.where(visible, depth, 1), np.inf)


def inside(points_xy: Points, size: tuple[int, int]) -> Bool[np.ndarray, " n"]:
    """True for points inside the image, whose area reaches from -0.5 to width - 0.5 and height - 0.5."""
    return np.all((points_xy >= -0.5) & (points_xy < np.array(size[::-1]) - 0.5), axis=1)


def nearest_distances(points_xy: Points, others_xy: Float[np.ndarray, "m 2"]) -> Float[np.ndarray, " n"]:
    """Distance of each point to the nearest of the others; infinity if there are none."""
    from scipy.spatial import KDTree

    if not len(points_xy) or not len(others_xy):
        return np.full(len(points_xy), np.inf)
    return KDTree(others_xy).query(points_xy)[0]


def repeatability(warped_a: Points, points_b: Float[np.ndarray, "m 2"], *, threshold_px: float = 3.0) -> float:
    """Fraction of the keypoints of both images with a keypoint of the other within the threshold; 0 without keypoints.

    Args:
        warped_a: The keypoints of image a that are visible in image b, mapped to image b.
        points_b: The keypoints of image b that are visible in image a.
        threshold_px: Largest distance of a repeated keypoint.

    Source: paper, appendix A. Compare only at equal numbers of keypoints, because dense keypoints repeat by chance.
    """
    total = len(warped_a) + len(points_b)
    return float(np.mean(_both_ways(warped_a, points_b) <= threshold_px)) if total else 0.0


def localization_error(warped_a: Points, points_b: Float[np.ndarray, "m 2"], *, threshold_px: float = 3.0) -> float:
    """Mean distance in pixels of the repeated keypoints of `repeatability` to the nearest; NaN if none is repeated.

    Source: paper, appendix A.
    """
    distances = _both_ways(warped_a, points_b)
    repeated = distances <= threshold_px
    return float(np.mean(distances[repeated])) if repeated.any() else float("nan")


def mutual_matches(
    descriptors_a: Float[np.ndarray, "n d"], descriptors_b: Float[np.ndarray, "m d"]
) -> Int[np.ndarray, "k 2"]:
    """Rows (in a, in b) of descriptors of unit length that are mutual nearest neighbours; ties go to the first row."""
    if not len(descriptors_a) or not len(descriptors_b):
        return np.zeros((0, 2), np.int64)
    cosine = descriptors_a @ descriptors_b.T
    of_a, of_b = cosine.argmax(axis=1), cosine.argmax(axis=0)
    rows = np.flatnonzero(of_b[of_a] == np.arange(len(of_a)))
    return np.stack([rows, of_a[rows]], axis=1)


def fraction_within(errors_px: Float[np.ndarray, " n"], threshold_px: float) -> float:
    """Fraction of errors up to the threshold (for matches, the matching accuracy); 0 without errors."""
    return float(np.mean(errors_px <= threshold_px)) if len(errors_px) else 0.0


def matching_score(
    errors_px: Float[np.ndarray, " k"],
    visible_a: int,
    visible_b: int,
    *,
    threshold_px: float = 3.0,
) -> float:
    """Correct matches divided by the keypoints in the area that both images show; the mean over both images.

    Args:
        errors_px: Errors of the matches whose two keypoints lie in that area.
        visible_a: Number of keypoints of image a in that area.
        visible_b: Number of keypoints of image b in that area.
        threshold_px: Largest error of a correct match.

    Source: paper, appendix B ("matching score").
    """
    correct = int(np.sum(errors_px <= threshold_px))
    return (correct / max(visible_a, 1) + correct / max(visible_b, 1)) / 2


def average_precision(scores: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], num_positives: int) -> float:
    """Area under the curve of precision over recall, for answers in descending order of score; ties keep their order.

    The sum of the precisions at all correct answers is divided by `num_positives`, the number of answers that could be
    found; the result is 0 if that is 0. Nothing is interpolated.
    """
    hits = correct[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(np.sum(precision[hits]) / num_positives) if num_positives else 0.0


def nearest_neighbor_map(
    warped_a: Points,
    descriptors_a: Float[np.ndarray, "n d"],
    points_b: Float[np.ndarray, "m 2"],
    descriptors_b: Float[np.ndarray, "m d"],
    *,
    threshold_px: float = 3.0,
) -> float:
    """Average precision of nearest neighbours by descriptor, over all similarity thresholds; mean of both directions.

    The answer of a keypoint is its nearest neighbour by descriptor, scored by similarity; it is correct within
    `threshold_px`. An answer could be found for every keypoint that has one of the other image within that distance.
    The keypoints are those of `repeatability`.

    Source: paper, appendix B ("nearest neighbor mean average precision").
    """
    if not len(warped_a) or not len(points_b):
        return 0.0
    cosine = descriptors_a @ descriptors_b.T
    precisions = []
    for similarity, points, others in ((cosine, warped_a, points_b), (cosine.T, points_b, warped_a)):
        nearest = similarity.argmax(axis=1)
        correct = np.linalg.norm(points - others[nearest], axis=1) <= threshold_px
        positives = int(np.sum(nearest_distances(points, others) <= threshold_px))
        precisions.append(average_precision(similarity.max(axis=1), correct, positives))
    return float(np.mean(precisions))


def corner_error(estimated: Homography | None, true: Homography, size: tuple[int, int]) -> float:
    """Mean distance in pixels between the four corners of an image of `size` mapped by two homographies.

    It is infinity without an estimate. The corners are the centres of the corner pixels.

    Source: paper, section 7.3, where a homography is correct if this is within a threshold.
    """
    if estimated is None:
        return float("inf")
    height, width = size
    corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], np.float64)
    there, truth = warp_points(estimated, corners), warp_points(true, corners)
    if not (np.isfinite(there).all() and np.isfinite(truth).all()):
        return float("inf")
    return float(np.mean(np.linalg.norm(there - truth, axis=1)))


def _both_ways(warped_a: Points, points_b: Float[np.ndarray, "m 2"]) -> Float[np.ndarray, " n_plus_m"]:
    return np.concatenate([nearest_distances(warped_a, points_b), nearest_distances(points_b, warped_a)])
