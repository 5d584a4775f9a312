"""Two sets of keypoints are equal, or rounding decided: each keypoint that only one of them has must show why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Point = tuple[int, int]

ROUNDING = 1e-5
"""How far two float32 score maps of one network lie apart. A decision between closer scores is rounding's."""


class Found(NamedTuple):
    """Keypoints of one image: (x, y) -> score and descriptor, and the score map that they were found in."""

    scores: Mapping[Point, float]
    descriptors: Mapping[Point, np.ndarray]
    score_map: np.ndarray


class Rules(NamedTuple):
    """What decides which pixels are keypoints.

    Attributes:
        passes: The reference's suppression of a score map: which pixels are kept after each of its passes.
        threshold_first: The threshold comes before suppression.
        cut: The output was cut to `max_keypoints`.
    """

    passes: Callable[[np.ndarray], list[np.ndarray]]
    threshold: float
    radius: int
    threshold_first: bool
    cut: bool


def found(xy: np.ndarray, scores: np.ndarray, descriptors: np.ndarray, score_map: np.ndarray) -> Found:
    """The same from arrays [N,2], [N], [N,D], without padding; coordinates must be whole numbers."""
    whole = np.rint(np.asarray(xy)).astype(int)
    # Coordinates relative to the image, as transformers gives them, come back to 1e-4 px.
    np.testing.assert_allclose(xy, whole, rtol=0, atol=1e-3)
    points = [(int(x), int(y)) for x, y in whole]
    assert len(set(points)) == len(points), "a keypoint is there twice"
    pairs = (scores, np.asarray(descriptors))
    return Found(*(dict(zip(points, values, strict=True)) for values in pairs), score_map)


def of_image(keypoints, i: int, score_map: np.ndarray) -> Found:
    """The keypoints of image i of a `superpoint_jax.Keypoints`."""
    entry = keypoints.to_list()[i]
    return found(entry["keypoints"], entry["scores"], entry["descriptors"], score_map)


def assert_same_keypoints(ours: Found, theirs: Found, rules: Rules) -> None:
    """Scores and descriptors agree where both have a keypoint; where one has it alone, rounding decided."""
    common = ours.scores.keys() & theirs.scores.keys()
    for point in common:
        assert abs(ours.scores[point] - theirs.scores[point]) <= ROUNDING, point
        assert cosine(ours.descriptors[point], theirs.descriptors[point]) > 0.99999, point

    alone = ours.scores.keys() ^ theirs.scores.keys()
    if not alone:
        return
    by_suppression = _suppression_differences(ours.score_map, theirs.score_map, rules)
    lowest = [min(side.scores.values(), default=0) for side in (ours, theirs)]
    for x, y in alone:
        pair = ours.score_map[y, x], theirs.score_map[y, x]
        at_threshold = min(abs(score - rules.threshold) for score in pair) <= ROUNDING
        # A keypoint more above moves the cut from one score to the next: all from the lower to the upper are at it.
        at_cut = rules.cut and min(lowest) - ROUNDING <= max(pair) and min(pair) <= max(lowest) + ROUNDING
        assert at_threshold or at_cut or (y, x) in by_suppression, f"nothing explains the keypoint at {(x, y)}"


def _suppression_differences(ours: np.ndarray, theirs: np.ndarray, rules: Rules) -> set[tuple[int, int]]:
    """Pixels (y, x) that suppression keeps in one map only, each shown to be rounding's work.

    A pixel's fate hangs on the order of the scores within its window and on the fate of pixels within two radii. So a
    pixel treated differently has a near tie in its window (or is at a threshold that comes before), or one near it has,
    which changed its fate: a chain that starts at such a pixel.
    """
    kept = [rules.passes(scores) for scores in (ours, theirs)]
    explained: set[tuple[int, int]] = set()
    final: set[tuple[int, int]] = set()
    for mine, other in zip(*kept, strict=True):
        final = {(int(y), int(x)) for y, x in np.argwhere(mine != other)}
        open_cases = final - explained
        while open_cases:
            closed = {p for p in open_cases if _rounding_decides(p, ours, theirs, explained, rules)}
            assert closed, f"suppression treats (y, x) {open_cases} differently, without a near tie"
            explained |= closed
            open_cases -= closed
    return final


def _rounding_decides(p: tuple[int, int], ours: np.ndarray, theirs: np.ndarray, explained: set, rules: Rules) -> bool:
    (y, x), radius = p, rules.radius
    for scores in (ours, theirs):
        window = scores[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
        if np.sum(np.abs(window - scores[p]) <= ROUNDING) > 1:  # one of them is the pixel itself
            return True
        if rules.threshold_first and abs(scores[p] - rules.threshold) <= ROUNDING:
            return True
    return any(max(abs(y - v), abs(x - u)) <= 2 * radius for v, u in explained)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of the angle between two vectors, in float64."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def assert_as_near_to_float64(ours: np.ndarray, theirs: np.ndarray, exact: np.ndarray) -> None:
    """Ours is no further from float64 than twice torch's float32: in the mean, and in the worst of a thousand pixels.

    The one worst pixel is no measure: between two runs of the same accuracy its error differs by more than 2. It has
    its own bound.
    """
    assert exact.dtype == np.float64
    assert np.abs(ours - theirs).max() <= ROUNDING
    assert np.abs(ours - exact).max() <= ROUNDING
    our_errors, their_errors = np.abs(ours - exact), np.abs(theirs - exact)
    assert np.sqrt(np.mean(our_errors**2)) <= 2 * np.sqrt(np.mean(their_errors**2))
    assert np.quantile(our_errors, 0.999) <= 2 * np.quantile(their_errors, 0.999)
