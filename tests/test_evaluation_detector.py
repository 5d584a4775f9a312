"""Average precision of detections, on cases computed by hand."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from superpoint_jax.evaluation.detector import detection_average_precision


def precision(predicted, scores, corners, *, mask=None, corners_mask=None, **options) -> float:
    predicted, scores = np.array(predicted, np.float32), np.array(scores, np.float32)
    corners = np.array(corners, np.float32).reshape(len(predicted), -1, 2)
    mask = np.ones(scores.shape, bool) if mask is None else np.array(mask)
    corners_mask = np.ones(corners.shape[:2], bool) if corners_mask is None else np.array(corners_mask)
    return detection_average_precision(predicted, scores, mask, corners, corners_mask, **options)


CORNERS = [[[10, 10], [50, 20]]]


def test_every_corner_found_and_nothing_else_is_one():
    assert precision([[[11, 10], [50, 22]]], [[0.9, 0.1]], CORNERS) == 1


def test_a_miss_between_two_hits_costs_precision_of_the_second():
    # Right, wrong, right: precision 1 at recall 1/2, 2/3 at recall 1.
    found = precision([[[10, 10], [90, 90], [50, 20]]], [[0.9, 0.8, 0.7]], CORNERS)
    assert found == pytest.approx((1 + 2 / 3) / 2)


def test_order_of_rows_does_not_count():
    found = precision([[[50, 20], [10, 10], [90, 90]]], [[0.7, 0.9, 0.8]], CORNERS)
    assert found == pytest.approx((1 + 2 / 3) / 2)


def test_a_corner_that_is_not_found_costs_recall():
    assert precision([[[10, 10]]], [[0.9]], CORNERS) == 0.5


def test_a_corner_found_twice_counts_once():
    # Right, the same again, right.
    found = precision([[[10, 10], [10, 11], [50, 20]]], [[0.9, 0.8, 0.7]], CORNERS)
    assert found == pytest.approx((1 + 2 / 3) / 2)


def test_the_second_of_two_near_detections_finds_the_second_of_two_near_corners():
    assert precision([[[10, 10], [10, 11]]], [[0.9, 0.8]], [[[10, 10], [10, 12]]]) == 1


def test_the_threshold_includes_its_own_distance():
    assert precision([[[13, 10]]], [[0.9]], [[[10, 10]]]) == 1
    assert precision([[[13.01, 10]]], [[0.9]], [[[10, 10]]]) == 0
    assert precision([[[12, 10]]], [[0.9]], [[[10, 10]]], threshold_px=1.0) == 0


def test_scores_compare_across_images():
    # The wrong detection of the second image comes between the two right ones.
    found = precision([[[10, 10], [50, 20]], [[30, 30], [0, 0]]], [[0.9, 0.3], [0.5, 0.1]], [*CORNERS, *CORNERS])
    assert found == pytest.approx((1 + 2 / 3) / 4)


def test_detections_on_an_image_without_corners_are_wrong():
    corners, corners_mask = [[[10, 10]], [[10, 10]]], [[True], [False]]
    found = precision([[[10, 10]], [[10, 10]]], [[0.5], [0.9]], corners, corners_mask=corners_mask)
    assert found == 0.5


def test_masked_rows_do_not_count():
    predicted, scores = [[[10, 10], [0, 0], [50, 20]]], [[0.9, 0.95, 0.7]]
    assert precision(predicted, scores, CORNERS, mask=[[True, False, True]]) == 1
    assert precision([[[10, 10]]], [[0.9]], CORNERS, corners_mask=[[True, False]]) == 1


def test_no_detection_is_zero_and_no_corner_is_undefined():
    assert precision([[[10, 10]]], [[0.9]], CORNERS, mask=[[False]]) == 0
    assert math.isnan(precision([[[10, 10]]], [[0.9]], [[[10, 10]]], corners_mask=[[False]]))


def test_jax_arrays_are_welcome():
    args = jnp.array([[[10.0, 10]]]), jnp.array([[0.9]]), jnp.array([[True]]), jnp.array([[[10.0, 10]]])
    assert detection_average_precision(*args, jnp.array([[True]])) == 1
