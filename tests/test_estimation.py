"""Robust estimation: OpenCV's on our features, the RANSAC in JAX held against it, and what happens at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import superpoint_jax as sp
from superpoint_jax import Keypoints, Matches
from superpoint_jax.estimation import (
    estimate_essential,
    estimate_fundamental,
    estimate_homography,
    ransac_homography,
    relative_pose,
)
from superpoint_jax.estimation.ransac import _distinct
from superpoint_jax.evaluation.metrics import warp_points
from superpoint_jax.geometry import warp_images

HEIGHT, WIDTH = 480, 640
CORNERS = np.array([[0, 0], [WIDTH - 1, 0], [0, HEIGHT - 1], [WIDTH - 1, HEIGHT - 1]], np.float64)
CAMERA = np.array([[500.0, 0, 320], [0, 520.0, 240], [0, 0, 1]])


def _keypoints(points_xy):
    points_xy = jnp.asarray(points_xy, jnp.float32)
    lead = points_xy.shape[:-1]
    return Keypoints(
        keypoints=points_xy,
        scores=jnp.ones(lead),
        descriptors=jnp.zeros((*lead, 2)),
        mask=jnp.ones(lead, bool),
        num_detected=jnp.full(lead[:-1], lead[-1]),
        image_sizes=jnp.broadcast_to(jnp.array([HEIGHT, WIDTH]), (*lead[:-1], 2)),
    )


def _matches(indices):
    indices = jnp.asarray(indices, jnp.int32)
    return Matches(indices=indices, scores=jnp.where(indices >= 0, 1.0, 0.0), mask=indices >= 0)


def _warp(homography, points):
    mapped = points @ homography[:, :2].T + homography[:, 2]
    return mapped[:, :2] / mapped[:, 2:]


def _random_homography(rng):
    """Corners of the image moved by up to a fifth of its size."""
    import cv2

    moved = CORNERS + rng.uniform(-0.2, 0.2, (4, 2)) * [WIDTH, HEIGHT]
    return cv2.getPerspectiveTransform(CORNERS.astype(np.float32), moved.astype(np.float32))


def _problem(rng, *, count=200, outliers=0.5, noise_px=1.0):
    """(points_a, points_b shuffled, indices with gaps, homography, which of a's rows are true matches)."""
    homography = _random_homography(rng)
    points_a = rng.uniform(0, [WIDTH, HEIGHT], (count, 2))
    points_b = _warp(homography, points_a) + rng.normal(0, noise_px, (count, 2))
    wrong = rng.permutation(count) < outliers * count
    points_b[wrong] = rng.uniform(0, [WIDTH, HEIGHT], (wrong.sum(), 2))
    order = rng.permutation(count)
    indices = np.argsort(order)
    unmatched = rng.permutation(count) < count // 10
    return points_a, points_b[order], np.where(unmatched, -1, indices), homography, ~wrong & ~unmatched


def _corner_error(estimate, homography):
    if not estimate.found:
        return np.inf
    return np.linalg.norm(
        _warp(np.asarray(estimate.matrix, np.float64), CORNERS) - _warp(homography, CORNERS), axis=1
    ).mean()


def _pair(problem):
    points_a, points_b, indices, *_ = problem
    return _keypoints(points_a), _keypoints(points_b), _matches(indices)


@pytest.mark.parametrize("method", ["magsac", "ransac"])
def test_a_homography_and_its_inliers_come_back_from_among_wrong_matches(method):
    *problem, homography, true = _problem(np.random.default_rng(0), noise_px=0.1)
    estimate = estimate_homography(*_pair(problem), method=method)
    assert estimate.found
    assert _corner_error(estimate, homography) < 0.5
    assert estimate.matrix[2, 2] == pytest.approx(1)
    inliers = np.asarray(estimate.inliers)
    assert inliers[true].all()
    assert inliers[~true].mean() < 0.05  # wrong matches that happen to be right
    again = estimate_homography(*_pair(problem), method=method)
    np.testing.assert_array_equal(estimate.matrix, again.matrix)


def test_the_points_and_their_order_are_those_that_opencv_gets_from_plain_numpy():
    import cv2

    points_a, points_b, indices, *_ = _problem(np.random.default_rng(1))
    rows = np.flatnonzero(indices >= 0)
    cv2.setRNGSeed(0)
    a, b = (np.float64(np.float32(points)) for points in (points_a[rows], points_b[indices[rows]]))
    matrix, mask = cv2.findHomography(a, b, cv2.RANSAC, 3.0, maxIters=10_000, confidence=0.9999)
    estimate = estimate_homography(_keypoints(points_a), _keypoints(points_b), _matches(indices), method="ransac")
    np.testing.assert_array_equal(estimate.matrix, matrix)
    np.testing.assert_array_equal(np.flatnonzero(estimate.inliers), rows[mask.ravel() > 0])


def plain_matches_and_homography(a, b):
    """Mutual nearest neighbours in numpy and OpenCV's RANSAC on them: (rows of a, rows of b, matrix or None, mask)."""
    import cv2

    (a,), (b,) = a.to_list(), b.to_list()
    similarity = a["descriptors"].astype(np.float64) @ b["descriptors"].T.astype(np.float64)
    nearest_b, nearest_a = similarity.argmax(axis=1), similarity.argmax(axis=0)
    rows = np.flatnonzero(nearest_a[nearest_b] == np.arange(len(nearest_b)))
    cv2.setRNGSeed(0)
    points = np.float64(a["keypoints"][rows]), np.float64(b["keypoints"][nearest_b[rows]])
    matrix, mask = cv2.findHomography(*points, cv2.RANSAC, 3.0, maxIters=10_000, confidence=0.9999)
    return rows, nearest_b[rows], matrix, mask.ravel() > 0


def test_photos_through_our_functions_equal_plain_numpy_and_opencv(photos):
    """The same on Oxford's 40 pairs gave equal matches, inliers and matrices in all of them (2026-11-24)."""
    homography = np.array([[0.9, -0.2, 40], [0.15, 1.0, -10], [2e-4, 1e-4, 1]])
    model = sp.from_pretrained()
    for name in ("camera", "coffee"):
        photo = jnp.asarray(photos[name], jnp.float32)
        photo = (photo if photo.ndim == 3 else photo[..., None])[..., :1] / 255
        warped, _ = warp_images(photo[None], jnp.asarray(homography, jnp.float32)[None])
        a, b = (sp.extract(model, image, max_keypoints=300) for image in (photo[None], warped))
        matches = sp.match(a, b)
        estimate = estimate_homography(a, b, matches, method="ransac")
        rows, partners, matrix, mask = plain_matches_and_homography(a, b)
        assert len(rows) > 50
        np.testing.assert_array_equal(np.flatnonzero(matches.mask[0]), rows)
        np.testing.assert_array_equal(matches.indices[0, rows], partners)
        np.testing.assert_array_equal(estimate.matrix[0], matrix)
        np.testing.assert_array_equal(np.flatnonzero(estimate.inliers[0]), rows[mask])


@pytest.mark.slow
def test_ransac_in_jax_is_right_as_often_as_opencvs():
    """200 problems, 50 % outliers, 1 px noise: mean corner error under 3 px."""
    rng = np.random.default_rng(2)
    problems = [_problem(rng) for _ in range(200)]
    pairs = [_pair(problem) for problem in problems]
    a, b, matches = (jax.tree.map(lambda *leaves: jnp.stack(leaves), *side) for side in zip(*pairs, strict=True))
    keys = jax.random.split(jax.random.key(0), 200)
    ours = jax.jit(jax.vmap(ransac_homography))(keys, a, b, matches)
    opencv = estimate_homography(a, b, matches, method="ransac")
    errors = np.array([[_corner_error(e[i], p[3]) for i, p in enumerate(problems)] for e in (ours, opencv)])
    right = (errors < 3).sum(axis=1)
    print(f"right: {right[0]} (JAX) and {right[1]} (OpenCV) of 200; median error {np.median(errors, axis=1)}")
    assert right[0] >= right[1]
    assert right[1] > 190  # else the problems would be too hard to tell


def test_ransac_under_vmap_equals_one_at_a_time():
    rng = np.random.default_rng(3)
    pairs = [_pair(_problem(rng, count=60)) for _ in range(3)]
    keys = jax.random.split(jax.random.key(1), 3)
    a, b, matches = (jax.tree.map(lambda *leaves: jnp.stack(leaves), *side) for side in zip(*pairs, strict=True))
    together = jax.vmap(ransac_homography)(keys, a, b, matches)
    for i, pair in enumerate(pairs):
        alone = ransac_homography(keys[i], *pair)
        np.testing.assert_allclose(together.matrix[i], alone.matrix, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(together.inliers[i], alone.inliers)


def test_padding_and_unmatched_rows_change_nothing():
    points_a, points_b, indices, *_ = _problem(np.random.default_rng(4), count=80)
    plain = ransac_homography(jax.random.key(0), _keypoints(points_a), _keypoints(points_b), _matches(indices))
    far = np.full((20, 2), 1e6)
    padded = ransac_homography(
        jax.random.key(0),
        _keypoints(np.concatenate([points_a, far])),
        _keypoints(np.concatenate([points_b, far])),
        _matches(np.concatenate([indices, np.full(20, -1)])),
    )
    # In pixels: float32 sums over more rows come in another order, which moves a point by thousandths.
    carried = [warp_points(np.asarray(e.matrix, np.float64), points_a.astype(np.float64)) for e in (padded, plain)]
    np.testing.assert_allclose(*carried, rtol=0, atol=0.003)
    np.testing.assert_array_equal(padded.inliers, np.append(plain.inliers, np.zeros(20, bool)))


def test_samples_are_four_different_valid_rows_all_alike_often():
    mask = jnp.array([False, True, True, False, True, True, True, False])
    samples = np.asarray(_distinct(jax.random.key(0), 3000, mask))
    assert all(len(set(sample)) == 4 for sample in samples.tolist())
    rows, counts = np.unique(samples, return_counts=True)
    np.testing.assert_array_equal(rows, [1, 2, 4, 5, 6])
    # Each is in a sample with probability 4/5; four standard deviations.
    assert np.abs(counts / 3000 - 0.8).max() < 4 * np.sqrt(0.8 * 0.2 / 3000)
    sets = np.unique(np.sort(samples, axis=1), axis=0, return_counts=True)[1]
    assert len(sets) == 5
    assert np.abs(sets / 3000 - 0.2).max() < 4 * np.sqrt(0.2 * 0.8 / 3000)


def test_identical_images_give_the_identity():
    points = np.random.default_rng(5).uniform(0, [WIDTH, HEIGHT], (50, 2))
    keypoints, matches = _keypoints(points), _matches(np.arange(50))
    for estimate in (
        estimate_homography(keypoints, keypoints, matches),
        ransac_homography(jax.random.key(0), keypoints, keypoints, matches),
    ):
        assert bool(estimate.found)
        assert bool(np.asarray(estimate.inliers).all())
        np.testing.assert_allclose(estimate.matrix, np.eye(3), atol=1e-4)


def _all_estimates(keypoints, matches):
    return {
        "homography": estimate_homography(keypoints, keypoints, matches),
        "ransac": ransac_homography(jax.random.key(0), keypoints, keypoints, matches),
        "fundamental": estimate_fundamental(keypoints, keypoints, matches),
        "essential": estimate_essential(keypoints, keypoints, matches, camera_a=CAMERA),
    }


def _assert_nothing(estimate):
    assert not bool(estimate.found)
    assert not np.asarray(estimate.inliers).any()
    assert not np.asarray(estimate.matrix).any()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_matches_give_nothing(count):
    keypoints = _keypoints(np.random.default_rng(6).uniform(0, 100, (count, 2)))
    for estimate in _all_estimates(keypoints, _matches(np.arange(count))).values():
        _assert_nothing(estimate)


def test_one_and_the_same_point_is_no_homography():
    keypoints, matches = _keypoints(np.full((20, 2), 7.0)), _matches(np.arange(20))
    estimates = _all_estimates(keypoints, matches)
    _assert_nothing(estimates["homography"])
    _assert_nothing(estimates["ransac"])


def test_points_on_a_line_are_no_homography():
    points = np.linspace([10, 20], [300, 200], 30)
    _assert_nothing(ransac_homography(jax.random.key(0), _keypoints(points), _keypoints(points), _matches(range(30))))


def test_no_matches_at_all_give_nothing():
    keypoints = _keypoints(np.random.default_rng(7).uniform(0, 100, (30, 2)))
    matches = _matches(np.full(30, -1))
    assert not estimate_homography(keypoints, keypoints, matches).found
    assert not ransac_homography(jax.random.key(0), keypoints, keypoints, matches).found


def test_a_batch_of_pairs_is_each_alone():
    rng = np.random.default_rng(8)
    pairs = [_pair(_problem(rng, count=60)) for _ in range(2)]
    a, b, matches = (jax.tree.map(lambda *leaves: jnp.stack(leaves), *side) for side in zip(*pairs, strict=True))
    together = estimate_homography(a, b, matches)
    assert len(together) == 2
    for i, pair in enumerate(pairs):
        np.testing.assert_array_equal(together[i].matrix, estimate_homography(*pair).matrix)
        np.testing.assert_array_equal(together[i].inliers, estimate_homography(*pair).inliers)
    one_against_all = estimate_homography(a[:1], b, matches)
    np.testing.assert_array_equal(one_against_all[0].matrix, together[0].matrix)


def _two_views(rng, count=150):
    """Points in space seen by two cameras: (points_a, points_b, rotation, translation of length 1)."""
    angle = 0.2
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    translation = np.array([-0.8, 0.1, 0.3])
    space = rng.uniform([-2, -1.5, 4], [2, 1.5, 9], (count, 3))
    points_a, points_b = space @ CAMERA.T, (space @ rotation.T + translation) @ CAMERA.T
    points_b = points_b[:, :2] / points_b[:, 2:]
    return points_a[:, :2] / points_a[:, 2:], points_b, rotation, translation / np.linalg.norm(translation)


def test_fundamental_and_essential_matrix_and_the_pose_come_back():
    rng = np.random.default_rng(9)
    points_a, points_b, rotation, translation = _two_views(rng)
    points_b[:50] = rng.uniform(0, [WIDTH, HEIGHT], (50, 2))
    a, b, matches = _keypoints(points_a), _keypoints(points_b), _matches(np.arange(150))

    fundamental = estimate_fundamental(a, b, matches)
    lines = np.concatenate([points_a, np.ones((150, 1))], axis=1) @ fundamental.matrix.T
    distances = np.abs(np.sum(lines * np.concatenate([points_b, np.ones((150, 1))], axis=1), axis=1))
    distances /= np.linalg.norm(lines[:, :2], axis=1)
    assert fundamental.inliers[50:].all()
    assert distances[50:].max() < 0.1

    essential = estimate_essential(a, b, matches, camera_a=CAMERA)
    assert essential.inliers[50:].mean() > 0.95
    found_rotation, found_translation, in_front = relative_pose(a, b, matches, essential, camera_a=CAMERA)
    np.testing.assert_allclose(found_rotation, rotation, atol=0.01)
    np.testing.assert_allclose(found_translation, translation, atol=0.02)
    assert not in_front[~essential.inliers].any()
    assert in_front[50:].mean() > 0.95


def test_a_wrong_call_says_what_is_wrong():
    keypoints, matches = _keypoints(np.zeros((5, 2))), _matches(np.arange(5))
    with pytest.raises(ValueError, match="must have the rows of a"):
        estimate_homography(keypoints, keypoints, _matches(np.arange(4)))
    with pytest.raises(ValueError, match=r"matches.mask \(1, 5\): either all must be of one pair"):
        estimate_homography(keypoints, keypoints, jax.tree.map(lambda x: x[None], matches))
    with pytest.raises(ValueError, match=r"one pair is needed: jax.vmap"):
        ransac_homography(jax.random.key(0), keypoints, keypoints, jax.tree.map(lambda x: x[None], matches))
    with pytest.raises(ValueError, match=r"camera_a is .* is needed"):
        estimate_essential(keypoints, keypoints, matches, camera_a=np.zeros((3, 3)))
    nothing = estimate_essential(keypoints, keypoints, _matches(np.full(5, -1)), camera_a=CAMERA)
    with pytest.raises(ValueError, match="no essential matrix was found"):
        relative_pose(keypoints, keypoints, matches, nothing, camera_a=CAMERA)
