"""Homographies against matrices and warps computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superpoint_jax.geometry import in_front, inverse, sample_bilinear, sample_homographies, warp_images, warp_points


def gradient_image(height: int, width: int) -> jax.Array:
    """Value 2 x + 3 y, which bilinear interpolation reproduces exactly."""
    return (2.0 * jnp.arange(width)[None, :] + 3.0 * jnp.arange(height)[:, None])[None, ..., None]


def test_warp_points_by_hand():
    homography = jnp.array([[2.0, 0, 1], [0, 1, 0], [0, 0.5, 1]])
    np.testing.assert_allclose(warp_points(homography, jnp.array([[3.0, 2.0]])), [[7 / 2, 2 / 2]])


def test_points_behind_the_horizon_are_told_apart():
    homography = jnp.array([[1.0, 0, 0], [0, 1, 0], [-0.1, 0, 1]])
    assert in_front(homography, jnp.array([[9.0, 0.0], [11.0, 0.0]])).tolist() == [True, False]


@given(st.integers(0, 1000))
def test_inverse_brings_points_back(seed):
    homographies = sample_homographies(jax.random.key(seed), 3, (60, 80), translation=0.2, stretch=2.0)
    points = jax.random.uniform(jax.random.key(seed + 1), (3, 10, 2)) * jnp.array([[[79.0, 59.0]]])
    back = warp_points(inverse(homographies), warp_points(homographies, points))
    # float32: a coordinate near 80 has an ulp of 8e-6, and a perspective of 0.25 amplifies it some hundred times.
    np.testing.assert_allclose(back, points, atol=2e-2)


def test_inverse_equals_numpy():
    homographies = sample_homographies(jax.random.key(0), 4, (60, 80))
    ours = inverse(homographies)
    theirs = np.linalg.inv(np.asarray(homographies, np.float64))
    np.testing.assert_allclose(ours / ours[:, 2:, 2:], theirs / theirs[:, 2:, 2:], rtol=1e-3, atol=1e-3)


def test_without_controls_the_homography_is_the_identity():
    homographies = sample_homographies(
        jax.random.key(0), 2, (48, 64), scale=(1.0, 1.0), rotation=0.0, perspective=0.0, stretch=1.0
    )
    np.testing.assert_allclose(homographies, jnp.stack([jnp.eye(3)] * 2), atol=1e-5)


def test_the_centre_goes_to_the_middle_of_the_output():
    centers = jnp.array([[10.0, 20.0], [50.0, 7.0]])
    homographies = sample_homographies(
        jax.random.key(3), 2, (100, 100), out_shape=(32, 48), centers_xy=centers, stretch=1.7
    )
    mapped = warp_points(homographies, centers[:, None])[:, 0]
    np.testing.assert_allclose(mapped, [[23.5, 15.5], [23.5, 15.5]], atol=1e-3)


def test_scale_stays_in_its_range():
    homographies = sample_homographies(
        jax.random.key(0), 500, (48, 64), scale=(0.5, 2.0), rotation=1.0, perspective=0.0
    )
    scale = jnp.sqrt(jnp.linalg.det(homographies[:, :2, :2]))
    assert 0.5 <= scale.min() < 0.55
    assert 1.9 < scale.max() <= 2.0001


@pytest.mark.parametrize(
    ("options", "message"),
    [(dict(scale=(2.0, 1.0)), "scale"), (dict(perspective=0.5), "perspective"), (dict(stretch=0.5), "stretch")],
)
def test_controls_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sample_homographies(jax.random.key(0), 1, (8, 8), **options)


def test_warping_moves_a_linear_image_exactly():
    image = gradient_image(20, 30)
    # x' = x + 4, y' = y - 3: the pixel (x, y) of the result was (x - 4, y + 3).
    shift = jnp.array([[[1.0, 0, 4], [0, 1, -3], [0, 0, 1]]])
    warped, valid = warp_images(image, shift)
    expected = 2.0 * (np.arange(30)[None] - 4) + 3.0 * (np.arange(20)[:, None] + 3)
    inside = np.zeros((20, 30), bool)
    inside[:17, 4:] = True
    assert (np.asarray(valid[0]) == inside).all()
    np.testing.assert_allclose(warped[0, ..., 0], np.where(inside, expected, 0), atol=1e-4)


def test_warped_points_land_on_the_warped_image():
    """The pixel that a point shows is the same before and after: images and points share one convention."""
    image = gradient_image(60, 80)
    homography = sample_homographies(jax.random.key(5), 1, (60, 80), scale=(0.9, 1.1), rotation=0.2, perspective=0.1)
    warped, valid = warp_images(image, homography)
    points = jnp.array([[[30.0, 25.0], [41.0, 33.0], [50.0, 20.0]]])
    target = warp_points(homography, points)
    assert valid[0, target[0, :, 1].astype(int), target[0, :, 0].astype(int)].all()
    # Sampled twice, a smooth image is off by its curvature under perspective, well below one unit.
    np.testing.assert_allclose(
        sample_bilinear(warped[0], target[0])[:, 0], 2 * points[0, :, 0] + 3 * points[0, :, 1], atol=0.5
    )


def test_valid_size_bounds_the_source():
    image = jnp.ones((1, 10, 12, 1))
    _, valid = warp_images(image, jnp.eye(3)[None], image_sizes=jnp.array([[4, 5]]))
    assert int(valid.sum()) == 20


def test_warp_is_differentiable_in_the_homography():
    image = gradient_image(20, 30)

    def middle(shift: jax.Array) -> jax.Array:
        homography = jnp.eye(3).at[0, 2].set(shift)[None]
        return warp_images(image, homography)[0][0, 10, 15, 0]

    # Moving the image right by one pixel takes 2 off every value.
    assert jax.grad(middle)(0.3) == pytest.approx(-2, abs=1e-4)
