"""The comparison finds what it is there to find."""

from functools import partial

import numpy as np
import pytest

from tests.parity import references
from tests.parity.comparison import Found, Rules, assert_same_keypoints

RULES = Rules(partial(references.three_passes, radius=4), 0.005, radius=4, threshold_first=False, cut=False)
DESCRIPTOR = np.array([1.0, 0.0])


def side(scores: np.ndarray) -> Found:
    """Keypoints of a score map by the reference, all with the same descriptor."""
    kept = np.argwhere(references.three_passes(scores, 4)[-1] & (scores > 0.005))
    points = {(int(x), int(y)): float(scores[y, x]) for y, x in kept}
    return Found(points, dict.fromkeys(points, DESCRIPTOR), scores)


@pytest.fixture
def scores() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.01, 1, (40, 56)).astype(np.float32)


def test_equal_sides_pass(scores):
    assert_same_keypoints(side(scores), side(scores), RULES)


def test_a_near_tie_explains_a_difference(scores):
    scores[20, 20], scores[20, 22] = 2, 2 - 1e-6
    other = scores.copy()
    other[20, 20], other[20, 22] = 2 - 1e-6, 2
    assert side(scores).scores.keys() != side(other).scores.keys()
    assert_same_keypoints(side(scores), side(other), RULES)


def test_another_order_of_scores_does_not(scores):
    scores[20, 20], scores[20, 22] = 2, 1.9
    other = scores.copy()
    other[20, 20], other[20, 22] = 1.9, 2
    with pytest.raises(AssertionError, match="without a near tie"):
        assert_same_keypoints(side(scores), side(other), RULES)


def test_a_missing_keypoint_is_found(scores):
    whole, part = side(scores), side(scores)
    lost = next(iter(part.scores))
    part = part._replace(scores={p: s for p, s in part.scores.items() if p != lost})
    with pytest.raises(AssertionError, match="nothing explains"):
        assert_same_keypoints(whole, part, RULES)


def test_another_score_and_another_descriptor_are_found(scores):
    one = side(scores)
    point = next(iter(one.scores))
    with pytest.raises(AssertionError):
        assert_same_keypoints(one, one._replace(scores=one.scores | {point: one.scores[point] + 2e-5}), RULES)
    turned = np.array([1.0, 0.005])  # a cosine of 0.9999875
    with pytest.raises(AssertionError):
        assert_same_keypoints(one, one._replace(descriptors=one.descriptors | {point: turned}), RULES)
