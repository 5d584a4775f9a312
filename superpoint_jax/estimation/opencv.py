"""Robust estimation on the host by OpenCV's USAC and RANSAC."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from superpoint_jax.estimation.estimate import Estimate, check_pair
from superpoint_jax.features import Keypoints
from superpoint_jax.matching import Matches

Method = Literal["magsac", "ransac"]
"""OpenCV's MAGSAC++, or plain RANSAC, which published results use."""

MAX_ITERATIONS = 10_000
CONFIDENCE = 0.9999
"""Both are so high that the result depends on the matches and hardly on the random samples."""


def estimate_homography(
    a: Keypoints, b: Keypoints, matches: Matches, *, threshold_px: float = 3.0, method: Method = "magsac"
) -> Estimate:
    """The homography from image a to image b, by OpenCV, for one pair or a batch of pairs.

    The arrays are numpy's, in float64. The same matches give the same result. With fewer than 4 matches, or none that
    agree, `found` is False.

    Args:
        a: Keypoints of the first images.
        b: Keypoints of the second images.
        matches: Matches of a in b.
        threshold_px: Largest reprojection error of an inlier, in pixels of b.
        method: "magsac" (better), or "ransac".

    Raises:
        ValueError: The shapes do not fit together, or the method is unknown.
        ImportError: OpenCV is not installed (`pip install 'superpoint-jax[geometry]'`).
    """
    fit = partial(homography_of_points, threshold_px=threshold_px, method=method)
    return _over_pairs(a, b, matches, fit)


def estimate_fundamental(
    a: Keypoints, b: Keypoints, matches: Matches, *, threshold_px: float = 1.0, method: Method = "magsac"
) -> Estimate:
    """The fundamental matrix F of two views, b' F a = 0, by OpenCV, for one pair or a batch of pairs.

    With fewer than 8 matches, `found` is False. Everything else is as in `estimate_homography`.

    Args:
        a: Keypoints of the first images.
        b: Keypoints of the second images.
        matches: Matches of a in b.
        threshold_px: Largest distance of an inlier from its epipolar line, in pixels.
        method: "magsac" (better), or "ransac".

    Raises:
        ValueError: The shapes do not fit together, or the method is unknown.
        ImportError: OpenCV is not installed.
    """

    def fit(points_a: np.ndarray, points_b: np.ndarray) -> _Fit | None:
        cv2, code = require_opencv(), _code(method)
        if len(points_a) < 8:
            return None
        cv2.setRNGSeed(0)
        return _fit_of(*cv2.findFundamentalMat(points_a, points_b, code, threshold_px, CONFIDENCE, MAX_ITERATIONS))

    return _over_pairs(a, b, matches, fit)


def estimate_essential(
    a: Keypoints,
    b: Keypoints,
    matches: Matches,
    *,
    camera_a: Float[Array | np.ndarray, "3 3"],
    camera_b: Float[Array | np.ndarray, "3 3"] | None = None,
    threshold_px: float = 1.0,
    method: Method = "magsac",
) -> Estimate:
    """The essential matrix E of two views by calibrated cameras, b' E a = 0 in normalised coordinates, by OpenCV.

    With fewer than 6 matches, `found` is False. Everything else is as in `estimate_homography`.

    Args:
        a: Keypoints of the first images.
        b: Keypoints of the second images.
        matches: Matches of a in b.
        camera_a: Intrinsic matrix of the first camera. It maps a direction (x, y, 1) to pixels, centres at integers.
        camera_b: Intrinsic matrix of the second camera; by default that of the first.
        threshold_px: Largest distance of an inlier from its epipolar line, in pixels at the mean focal length.
        method: "magsac" (better), or "ransac".

    Raises:
        ValueError: The shapes do not fit together, the method is unknown, or a camera is not an intrinsic matrix.
        ImportError: OpenCV is not installed.
    """
    camera_a, camera_b = _cameras(camera_a, camera_b)
    focal_px = np.mean([camera[i, i] for camera in (camera_a, camera_b) for i in (0, 1)])

    def fit(points_a: np.ndarray, points_b: np.ndarray) -> _Fit | None:
        cv2, code = require_opencv(), _code(method)
        if len(points_a) < 6:
            return None
        cv2.setRNGSeed(0)
        matrix, mask = cv2.findEssentialMat(
            _normalized(points_a, camera_a),
            _normalized(points_b, camera_b),
            np.eye(3),
            method=code,
            prob=CONFIDENCE,
            threshold=float(threshold_px / focal_px),
            maxIters=MAX_ITERATIONS,
        )
        # OpenCV stacks several solutions, which are equally good; the first is used.
        return _fit_of(None if matrix is None else matrix[:3], mask)

    return _over_pairs(a, b, matches, fit)


def relative_pose(
    a: Keypoints,
    b: Keypoints,
    matches: Matches,
    essential: Estimate,
    *,
    camera_a: Float[Array | np.ndarray, "3 3"],
    camera_b: Float[Array | np.ndarray, "3 3"] | None = None,
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, " _xyz"], Bool[np.ndarray, " k"]]:
    """(rotation, translation, in_front) of the second camera of one pair, with x_b ~ rotation x_a + translation.

    The translation has length 1, because two images do not determine the scale. `in_front` is True for the inliers that
    lie in front of both cameras.

    Args:
        a: Keypoints of the first image.
        b: Keypoints of the second image.
        matches: Matches of a in b.
        essential: Result of `estimate_essential`.
        camera_a: See `estimate_essential`.
        camera_b: See `estimate_essential`.

    Raises:
        ValueError: The shapes do not fit together, or no essential matrix was found.
        ImportError: OpenCV is not installed.
    """
    cv2 = require_opencv()
    camera_a, camera_b = _cameras(camera_a, camera_b)
    if essential.inliers.ndim != 1:
        raise ValueError(f"inliers have shape {essential.inliers.shape}; a pose needs one pair: give estimate[i]")
    if not bool(essential.found):
        raise ValueError("no essential matrix was found, so there is no pose")
    rows, points_a, points_b = _matched(a, b, matches)
    inliers = np.asarray(essential.inliers)[rows]
    _, rotation, translation, mask = cv2.recoverPose(
        np.asarray(essential.matrix, np.float64),
        _normalized(points_a[inliers], camera_a),
        _normalized(points_b[inliers], camera_b),
        np.eye(3),
    )
    in_front = np.zeros(np.asarray(matches.mask).shape, bool)
    in_front[rows[inliers]] = mask.ravel() > 0
    return rotation, translation.ravel(), in_front


class _Fit(NamedTuple):
    matrix: Float[np.ndarray, "3 3"]
    inliers: Bool[np.ndarray, " m"]


def homography_of_points(
    points_a: Float[np.ndarray, "m 2"],
    points_b: Float[np.ndarray, "m 2"],
    *,
    threshold_px: float = 3.0,
    method: Method = "magsac",
) -> _Fit | None:
    """(matrix, inliers [M]) of points that match row by row, as in `estimate_homography`; None if none was found."""
    cv2, code = require_opencv(), _code(method)
    if len(points_a) < 4:
        return None
    cv2.setRNGSeed(0)
    points_a, points_b = (np.ascontiguousarray(points, np.float64) for points in (points_a, points_b))
    return _fit_of(
        *cv2.findHomography(points_a, points_b, code, threshold_px, maxIters=MAX_ITERATIONS, confidence=CONFIDENCE)
    )


def require_opencv() -> ModuleType:
    """The module cv2; without it, an ImportError that says how to install it."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError("this needs OpenCV: pip install 'superpoint-jax[geometry]'") from error
    return cv2


def _over_pairs(
    a: Keypoints, b: Keypoints, matches: Matches, fit: Callable[[np.ndarray, np.ndarray], _Fit | None]
) -> Estimate:
    """The estimate of one pair or of each pair of a batch; a side with one image is paired with all of the other."""
    check_pair(a, b, matches)
    if matches.mask.ndim == 2:
        pairs = range(len(matches))
        estimates = [_over_pairs(a[i if len(a) > 1 else 0], b[i if len(b) > 1 else 0], matches[i], fit) for i in pairs]
        if not estimates:
            empty = np.zeros(matches.mask.shape, bool)
            return Estimate(matrix=np.zeros((0, 3, 3)), inliers=empty, found=np.zeros(0, bool))
        return jax.tree.map(lambda *leaves: np.stack(leaves), *estimates)
    rows, points_a, points_b = _matched(a, b, matches)
    inliers = np.zeros(matches.mask.shape, bool)
    found = fit(points_a, points_b)
    if found is None:
        return Estimate(matrix=np.zeros((3, 3)), inliers=inliers, found=np.zeros((), bool))
    inliers[rows] = found.inliers
    return Estimate(matrix=found.matrix, inliers=inliers, found=np.ones((), bool))


def _matched(a: Keypoints, b: Keypoints, matches: Matches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows of a that have a match, and the keypoints of both in float64."""
    rows = np.flatnonzero(np.asarray(matches.mask))
    partners = np.asarray(matches.indices)[rows]
    return rows, np.asarray(a.keypoints, np.float64)[rows], np.asarray(b.keypoints, np.float64)[partners]


def _fit_of(matrix: Any, mask: Any) -> _Fit | None:
    """The result of OpenCV; None if there is no finite matrix or no inlier."""
    if matrix is None or matrix.shape != (3, 3) or not np.isfinite(matrix).all() or not mask.any():
        return None
    return _Fit(np.asarray(matrix, np.float64), mask.ravel().astype(bool))


def _code(method: Method) -> int:
    if method not in get_args(Method):
        raise ValueError(f"method={method!r} is not known; choose one of {', '.join(get_args(Method))}")
    cv2 = require_opencv()
    return {"magsac": cv2.USAC_MAGSAC, "ransac": cv2.RANSAC}[method]


def _normalized(points: Float[np.ndarray, "m 2"], camera: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "m 2"]:
    rays = np.linalg.solve(camera, np.concatenate([points, np.ones((len(points), 1))], axis=1).T).T
    return np.ascontiguousarray(rays[:, :2] / rays[:, 2:])


def _cameras(camera_a: Any, camera_b: Any) -> tuple[np.ndarray, np.ndarray]:
    cameras = [np.asarray(camera, np.float64) for camera in (camera_a, camera_a if camera_b is None else camera_b)]
    for name, camera in zip(("camera_a", "camera_b"), cameras, strict=True):
        if camera.shape != (3, 3) or not np.allclose(camera[2], [0, 0, 1]) or min(camera[0, 0], camera[1, 1]) <= 0:
            raise ValueError(
                f"{name} is {camera.tolist()}; an intrinsic matrix [[fx,s,cx],[0,fy,cy],[0,0,1]] is needed"
            )
    return cameras[0], cameras[1]
