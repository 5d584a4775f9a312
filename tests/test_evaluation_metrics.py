"""Metrics of keypoints, matches and homographies, and what happens to images before them."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from superpoint_jax import geometry
from superpoint_jax.evaluation import (
    metrics,
)
from superpoint_jax.evaluation.images import reduce_image, warp_mirrored
from superpoint_jax.matching import match
from tests.evaluation_cases import HOMOGRAPHY, keypoints_batch, translation, unit


def chance_of_neighbours(width: float, height: float, t: float) -> float:
    """Probability that two uniformly random points of a rectangle are within t <= min(width, height) of each other.

    The set covariance (width - |x|)(height - |y|) integrated over a disc of radius t, over the squared area.
    """
    area = width * height
    return (area * math.pi * t**2 - (width + height) * 4 / 3 * t**3 + t**4 / 2) / area**2


# Points


def test_points_are_warped_as_by_geometry():
    points = np.random.default_rng(0).uniform(0, 100, (20, 2))
    expected = geometry.warp_points(jnp.asarray(HOMOGRAPHY, jnp.float32), jnp.asarray(points, jnp.float32))
    # float32's rounding of coordinates of about 100 px.
    np.testing.assert_allclose(metrics.warp_points(HOMOGRAPHY, points), expected, atol=1e-4)


def test_points_behind_the_horizon_are_nowhere():
    horizon_at_x_10 = np.array([[1, 0, 0], [0, 1, 0], [-0.1, 0, 1]], np.float64)
    warped = metrics.warp_points(horizon_at_x_10, np.array([[5.0, 4.0], [10.0, 4.0], [15.0, 4.0]]))
    np.testing.assert_allclose(warped, [[10, 8], [np.inf, np.inf], [np.inf, np.inf]])
    assert metrics.inside(warped, (20, 30)).tolist() == [True, False, False]


def test_an_image_reaches_half_a_pixel_beyond_its_outer_pixel_centres():
    points = np.array([[-0.5, -0.5], [29.4, 19.4], [29.5, 10], [10, 19.5], [-0.6, 3]])
    assert metrics.inside(points, (20, 30)).tolist() == [True, True, False, False, False]


# Detector figures


def test_repeatability_and_localization_by_hand():
    warped_a = np.array([[10.0, 10.0], [50.0, 20.0], [80.0, 60.0]])
    points_b = np.array([[12.0, 10.0], [50.0, 24.0]])
    # Within 3 px: the first of a and the first of b, 2 px apart. Within 4: the second of each as well.
    assert metrics.repeatability(warped_a, points_b, threshold_px=3.0) == pytest.approx(2 / 5)
    assert metrics.localization_error(warped_a, points_b, threshold_px=3.0) == pytest.approx(2)
    assert metrics.repeatability(warped_a, points_b, threshold_px=4.0) == pytest.approx(4 / 5)
    assert metrics.localization_error(warped_a, points_b, threshold_px=4.0) == pytest.approx(3)


def test_a_point_may_repeat_several_others():
    assert metrics.repeatability(np.array([[10.0, 10.0], [11.0, 10.0]]), np.array([[10.0, 10.0]])) == 1


def test_without_points_nothing_is_repeated():
    none, one = np.zeros((0, 2)), np.zeros((1, 2))
    assert metrics.repeatability(none, none) == 0
    assert metrics.repeatability(none, one) == 0
    assert math.isnan(metrics.localization_error(one, none))


def test_repeatability_of_two_random_points_is_chance():
    rng = np.random.default_rng(1)
    width, height, t, trials = 40, 24, 8.0, 3000
    repeated = [
        metrics.repeatability(*rng.uniform(0, [width, height], (2, 1, 2)), threshold_px=t) for _ in range(trials)
    ]
    p = chance_of_neighbours(width, height, t)
    # Four standard deviations of a Bernoulli mean; leaving out the border would be off by six.
    assert abs(np.mean(repeated) - p) < 4 * math.sqrt(p * (1 - p) / trials)
    assert abs(np.mean(repeated) - math.pi * t**2 / (width * height)) > 4 * math.sqrt(p * (1 - p) / trials)


def test_nearest_of_many_random_points_is_chance():
    rng = np.random.default_rng(2)
    width, height, t, others, trials = 80, 50, 3, 60, 300
    # Away from the border, the chance of each other point is the disc's share of the area.
    inner = rng.uniform([t, t], [width - t, height - t], (trials, 50, 2))
    near = [
        np.mean(metrics.nearest_distances(points, rng.uniform(0, [width, height], (others, 2))) <= t)
        for points in inner
    ]
    expected = 1 - (1 - math.pi * t**2 / (width * height)) ** others
    assert abs(np.mean(near) - expected) < 4 * np.std(near) / math.sqrt(trials)


# Matching figures


def test_mutual_matches_by_hand():
    a = unit([1, 0, 0], [0, 1, 0], [0.9, 0.1, 0])
    b = unit([0, 1, 0.1], [1, 0.02, 0])
    # The third of a is nearest to the second of b, which prefers the first of a.
    assert metrics.mutual_matches(a, b).tolist() == [[0, 1], [1, 0]]
    assert metrics.mutual_matches(a, np.zeros((0, 3))).shape == (0, 2)


def test_mutual_matches_are_those_of_the_library():
    rng = np.random.default_rng(3)
    a, b = (unit(*rng.normal(size=(n, 8))).astype(np.float32) for n in (30, 40))
    masked = [keypoints_batch(np.zeros((len(x), 2)), x, (16, 24), rows=40) for x in (a, b)]
    found = match(*masked).to_list()[0]["indices"]
    assert metrics.mutual_matches(a, b).tolist() == found.tolist()


def test_accuracy_counts_matches_within_the_threshold():
    errors = np.array([0.5, 1.0, 2.9, 4.0, np.inf])
    assert [metrics.fraction_within(errors, t) for t in (1.0, 3.0, 5.0)] == [0.4, 0.6, 0.8]
    assert metrics.fraction_within(np.zeros(0), 3.0) == 0


def test_accuracy_of_random_descriptors_is_chance():
    rng = np.random.default_rng(4)
    width, height, t = 60, 40, 8.0
    errors = []
    for _ in range(150):
        points_a, points_b = rng.uniform(0, [width, height], (2, 80, 2))
        descriptors = [unit(*rng.normal(size=(80, 16))) for _ in "ab"]
        i, j = metrics.mutual_matches(*descriptors).T
        errors.append(np.linalg.norm(points_a[i] - points_b[j], axis=1))
    errors = np.concatenate(errors)
    p = chance_of_neighbours(width, height, t)
    # No point is in two matches, so that they are independent.
    assert abs(metrics.fraction_within(errors, t) - p) < 4 * math.sqrt(p * (1 - p) / len(errors))


def test_matching_score_by_hand():
    # One correct match; 4 points of a and 2 of b in the common area.
    assert metrics.matching_score(np.array([1.0, 5.0]), 4, 2) == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert metrics.matching_score(np.zeros(0), 0, 0) == 0


def test_average_precision_by_hand():
    scores, correct = np.array([0.6, 0.9, 0.7, 0.8]), np.array([False, True, True, False])
    # Right, wrong, right, wrong, and one that is never found.
    assert metrics.average_precision(scores, correct, 3) == pytest.approx((1 + 2 / 3) / 3)
    assert metrics.average_precision(scores, correct, 0) == 0


def test_average_precision_of_a_random_order_is_chance():
    rng = np.random.default_rng(5)
    n, positives, trials = 40, 8, 3000
    correct = np.arange(n) < positives
    values = [metrics.average_precision(rng.uniform(size=n), correct, positives) for _ in range(trials)]
    # Given a hit at rank k, each earlier rank holds one with probability (P - 1) / (n - 1).
    harmonic = sum(1 / k for k in range(1, n + 1))
    expected = (harmonic + (positives - 1) / (n - 1) * (n - harmonic)) / n
    assert abs(np.mean(values) - expected) < 4 * np.std(values) / math.sqrt(trials)


def test_nearest_neighbor_map_by_hand():
    points_a = np.array([[10.0, 10.0], [40.0, 10.0], [70.0, 10.0]])
    points_b = np.array([[11.0, 10.0], [41.0, 10.0]])
    a, b = np.eye(3)[[0, 1, 2]], unit([1, 0.1, 0], [0.8, 0.7, 0])
    # a to b: similarities 0.995 (right), 0.659 (right), 0 (wrong, and has no partner): 1.
    # b to a: the first right at 0.995, the second at 0.753 wrong; two to find: 1/2.
    assert metrics.nearest_neighbor_map(points_a, a, points_b, b) == pytest.approx((1 + 1 / 2) / 2)
    assert metrics.nearest_neighbor_map(points_a, a, points_b[:0], b[:0]) == 0


# Homography


def test_corner_error_by_hand():
    assert metrics.corner_error(translation(3, 4), np.eye(3), (20, 30)) == pytest.approx(5)
    doubled = np.diag([2.0, 1.0, 1.0])
    # Two corners stay at x = 0, two move from 29 to 58.
    assert metrics.corner_error(doubled, np.eye(3), (20, 30)) == pytest.approx(29 / 2)
    assert metrics.corner_error(None, np.eye(3), (20, 30)) == math.inf


def test_an_estimate_that_puts_a_corner_behind_the_horizon_is_wrong():
    assert metrics.corner_error(np.array([[1, 0, 0], [0, 1, 0], [-0.1, 0, 1.0]]), np.eye(3), (20, 30)) == math.inf


# Images


def test_reduction_and_its_matrix_agree_on_a_ramp():
    rows, columns = np.mgrid[:90, :210]
    ramp = (columns // 2 + rows).astype(np.uint8)
    reduced, matrix = reduce_image(ramp, 70)
    assert reduced.shape == (30, 70)
    np.testing.assert_allclose(metrics.warp_points(matrix, np.array([[1.0, 1.0]])), [[0, 0]], atol=1e-12)
    back = metrics.warp_points(np.linalg.inv(matrix), np.array([[20.0, 10.0], [33.0, 25.0]]))
    expected = back[:, 0] / 2 - 0.25 + back[:, 1]  # The mean of columns // 2 is columns / 2 - 1/4.
    # Within rounding of the ramp's halves and of uint8.
    np.testing.assert_allclose(reduced[[10, 25], [20, 33]], expected, atol=1)
    assert reduce_image(ramp, 210)[0] is ramp


def test_mirrored_warp_is_the_warp_inside_and_never_black_outside(gray_photos):
    photo = 0.2 + 0.8 * jnp.asarray(gray_photos["coffee"])[None, :, :, None]
    zoomed_out = jnp.asarray(translation(40, 30) @ np.diag([0.8, 0.8, 1]), jnp.float32)[None]
    warped, valid = geometry.warp_images(photo, zoomed_out)
    mirrored = warp_mirrored(photo, zoomed_out)
    # Coordinates are offset by the mirror's width, which costs float32 about 1e-5 px.
    np.testing.assert_allclose(mirrored[valid], warped[valid], atol=1e-4)
    assert 0 < np.mean(valid) < 0.8
    assert np.min(mirrored) >= 0.2 - 1e-5
