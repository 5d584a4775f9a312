"""Losses on cases computed by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from superpoint_jax.model import normalize
from superpoint_jax.training.losses import corner_targets, descriptor_hinge_loss, detector_loss, info_nce_loss


def targets_of(*corners: tuple[float, float], shape: tuple[int, int] = (16, 24)) -> np.ndarray:
    xy = jnp.array([corners], jnp.float32)
    return np.asarray(corner_targets(xy, jnp.ones(xy.shape[:2]), shape))[0]


def test_a_corner_on_a_pixel_is_that_pixel_of_its_cell():
    targets = targets_of((10.0, 3.0))
    assert targets[0, 1, 8 * 3 + 2] == 1
    assert targets.sum() == pytest.approx(2 * 3)  # every other cell says "no keypoint"
    assert targets[0, 0, 64] == 1


def test_a_corner_between_pixels_keeps_its_position_as_the_mean():
    targets = targets_of((10.25, 3.5))
    cell = targets[0, 1, :64].reshape(8, 8)
    assert cell.sum() == pytest.approx(1)
    assert (cell * np.arange(8)).sum() == pytest.approx(2.25)
    assert (cell * np.arange(8)[:, None]).sum() == pytest.approx(3.5)


def test_a_corner_between_cells_is_shared_by_them():
    targets = targets_of((7.25, 4.0))
    assert targets[0, 0, 64] == pytest.approx(0.25)
    assert targets[0, 1, 64] == pytest.approx(0.75)


def test_two_corners_of_a_cell_share_it():
    targets = targets_of((1.0, 1.0), (5.0, 6.0))
    assert targets[0, 0, 9] == pytest.approx(0.5)
    assert targets[0, 0, 8 * 6 + 5] == pytest.approx(0.5)
    assert targets[0, 0, 64] == 0


def test_corners_outside_and_padding_ask_for_nothing():
    xy = jnp.array([[[-5.0, 3.0], [30.0, 3.0], [4.0, 4.0]]])
    targets = corner_targets(xy, jnp.array([[1.0, 1.0, 0.0]]), (16, 24))
    assert (targets[..., 64] == 1).all()


def test_detector_loss_of_even_logits_is_log_65():
    targets = jnp.asarray(targets_of((4.0, 4.0)))[None]
    loss = detector_loss(jnp.zeros(targets.shape), targets, jnp.ones(targets.shape[:3], bool))
    assert loss == pytest.approx(math.log(65), rel=1e-6)


def test_detector_loss_ignores_cells_that_are_not_valid():
    targets = jnp.asarray(targets_of((4.0, 4.0)))[None]
    logits = jax.random.normal(jax.random.key(0), targets.shape)
    valid = jnp.ones(targets.shape[:3], bool).at[0, 0, 0].set(False)
    changed = logits.at[0, 0, 0].add(jnp.arange(65.0))
    assert detector_loss(logits, targets, valid) == detector_loss(changed, targets, valid)


def test_hinge_loss_by_hand():
    # One cell, identical images, similarity 0.5: 250 * (1 - 0.5).
    a = jnp.array([[[[1.0, 0.0]]]])
    b = jnp.array([[[[0.5, math.sqrt(0.75)]]]])
    loss = descriptor_hinge_loss(a, b, jnp.eye(3)[None], jnp.ones((1, 1, 1), bool))
    assert loss == pytest.approx(125, rel=1e-5)
    # Moved far away it is a negative pair: 0.5 - 0.2.
    far = jnp.array([[[1.0, 0, 100], [0, 1, 0], [0, 0, 1]]])
    assert descriptor_hinge_loss(a, b, far, jnp.ones((1, 1, 1), bool)) == pytest.approx(0.3, rel=1e-5)


def spread_points(n: int) -> jax.Array:
    return jnp.stack([jnp.arange(n) * 20.0, jnp.zeros(n)], axis=-1)[None]


def test_info_nce_of_equal_descriptors_is_chance():
    n = 7
    descriptors = jnp.broadcast_to(jnp.array([1.0, 0.0]), (1, n, 2))
    loss, _ = info_nce_loss(
        descriptors, descriptors, spread_points(n), spread_points(n), jnp.ones((1, n), bool), inverse_temperature=10.0
    )
    assert loss == pytest.approx(math.log(n), rel=1e-5)


def test_info_nce_of_orthogonal_descriptors_is_right_every_time():
    n = 5
    descriptors = jnp.eye(n)[None]
    loss, accuracy = info_nce_loss(
        descriptors, descriptors, spread_points(n), spread_points(n), jnp.ones((1, n), bool), inverse_temperature=50.0
    )
    assert accuracy == 1
    assert loss < 1e-6


def test_info_nce_ignores_near_neighbours_and_padding():
    n = 4
    points = spread_points(n).at[0, 1].set(jnp.array([3.0, 0.0]))  # 3 px from point 0
    descriptors = normalize(jax.random.normal(jax.random.key(0), (1, n, 8)))
    mask = jnp.array([[True, True, True, False]])
    loss, _ = info_nce_loss(descriptors, descriptors, points, points, mask, inverse_temperature=5.0)
    similarity = np.asarray(descriptors[0] @ descriptors[0].T) * 5
    allowed = {0: [0, 2], 1: [1, 2], 2: [0, 1, 2]}
    rows = [np.log(np.exp(similarity[i, js]).sum()) - similarity[i, i] for i, js in allowed.items()]
    assert loss == pytest.approx(np.mean(rows), rel=1e-5)
