"""Two views of a scene in one frame."""

import jax.numpy as jnp
import numpy as np
import pytest

from superpoint_jax.geometry import warp_images
from superpoint_jax.stitching import stitch_images


def _scene():
    """Smooth, so that bilinear sampling is nearly exact."""
    rows, columns = np.mgrid[:90, :140]
    return np.stack([128 + 100 * np.sin(rows / 9), 128 + 100 * np.cos(columns / 11), rows + columns * 0.5], axis=-1)


def test_two_crops_become_the_whole_scene():
    scene = np.round(_scene()).astype(np.uint8)
    a, b = scene[10:80, :90], scene[20:90, 50:]
    picture, offset = stitch_images(a, b, np.array([[1, 0, -50.0], [0, 1, -10.0], [0, 0, 1]]))
    assert picture.shape == (80, 140, 3)
    assert offset == (0, 0)
    np.testing.assert_array_equal(picture[:70, :90], a)
    np.testing.assert_array_equal(picture[10:80, 50:], b)
    assert not picture[75:, :40].any()


def test_a_first_image_that_is_not_leftmost_is_moved():
    scene = np.round(_scene()).astype(np.uint8)
    picture, offset = stitch_images(scene[20:, 50:], scene[:, :90], np.array([[2, 0, 100.0], [0, 2, 40.0], [0, 0, 2]]))
    assert offset == (50, 20)  # (x, y); and a homography may have any factor
    np.testing.assert_array_equal(picture, scene * np.asarray(picture.any(-1, keepdims=True), np.uint8))


def test_a_perspective_view_is_put_back():
    scene = _scene()
    homography = np.array([[0.9, 0.1, 5], [-0.1, 1.1, 8], [5e-4, 1e-3, 1]])
    warped, valid = warp_images(jnp.asarray(scene, jnp.float32)[None], jnp.asarray(homography, jnp.float32)[None])
    assert 0.5 < valid.mean() < 1
    b = np.round(np.asarray(warped[0])).astype(np.uint8)
    picture, (x, y) = stitch_images(np.zeros((90, 140, 3), np.uint8) + np.uint8(np.round(scene)), b, homography)
    middle = picture[y + 30 : y + 60, x + 40 : x + 90].astype(float)
    assert np.abs(middle - scene[30:60, 40:90]).max() < 2


def test_gray_and_colour_go_together():
    picture, _ = stitch_images(np.full((20, 30), 100, np.uint8), np.full((20, 30, 3), 100, np.uint8), np.eye(3))
    assert (picture == 100).all()
    assert picture.shape == (20, 30, 3)


@pytest.mark.parametrize(
    ("homography", "message"),
    [
        (np.array([[1, 0, 0], [0, 1, 0], [0.05, 0, 1.0]]), "behind the horizon"),
        (np.diag([0.05, 0.05, 1.0]), "it is probably wrong"),
    ],
    ids=["horizon", "huge"],
)
def test_a_homography_that_can_not_be_right_is_refused(homography, message):
    with pytest.raises(ValueError, match=message):
        stitch_images(np.zeros((100, 100), np.uint8), np.zeros((100, 100), np.uint8), homography)
