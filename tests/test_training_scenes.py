"""Scenes with parallax: what two views show at corresponding points, their cameras, and poses estimated from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from superpoint_jax.estimation.opencv import homography_of_points
from superpoint_jax.evaluation.pose import evaluate_pose, pose_auc, pose_error, pose_table
from superpoint_jax.geometry import sample_bilinear
from superpoint_jax.model import LUMA
from superpoint_jax.training.scenes import Scenes, _on_photo, sample_scenes, transfer

SHAPE = (96, 128)


def points(count: int) -> jnp.ndarray:
    grid = np.stack(np.meshgrid(np.arange(4, 124, 6), np.arange(4, 92, 6)), axis=-1).reshape(-1, 2)
    return jnp.asarray(np.broadcast_to(grid, (count, 2, *grid.shape)), jnp.float32)


@pytest.fixture(scope="module")
def photo(gray_photos) -> tuple[jax.Array, jax.Array]:
    """A smooth photo of 200 x 300 pixels in a larger array, so that half a pixel changes its values little."""
    image = np.full((1, 320, 320), 255, np.uint8)
    image[0, :200, :300] = (gray_photos["coffee"][:200, :300] * 255).astype(np.uint8)
    return jnp.asarray(image), jnp.array([[200, 300]], jnp.int32)


@pytest.fixture(scope="module")
def relief(photo) -> Scenes:
    return sample_scenes(jax.random.key(0), *photo, batch=6, shape=SHAPE, flat=0.0)


@pytest.fixture(scope="module")
def planes(photo) -> Scenes:
    return sample_scenes(jax.random.key(1), *photo, batch=6, shape=SHAPE, flat=1.0)


def seen_by_both(scenes: Scenes) -> tuple[jax.Array, jax.Array, np.ndarray]:
    """Points of the first views, their positions in the second views, and which of them the second views show."""
    here = points(6)
    there, known = transfer(scenes, here)
    inside = jnp.all((there[:, 0] >= 0) & (there[:, 0] <= jnp.array([[[127.0, 95.0]]])), axis=-1)
    return here[:, 0], there[:, 0], np.asarray(known[:, 0] & inside)


@pytest.mark.parametrize("sharpness", [1.0, 1.4])
def test_a_photo_is_hardly_reduced(sharpness):
    """A pixel of the canvas shows `sharpness` pixels of a large photo, and at most one pixel of a small photo."""
    for size, expected in (([1000, 1300], (sharpness, sharpness)), ([100, 130], (0.7, 1.0))):
        steps = np.diff(_on_photo(jax.random.key(0), (100, 130), jnp.array(size), sharpness), axis=1)[..., 0]
        np.testing.assert_allclose(steps, steps[0, 0], atol=1e-3)
        assert expected[0] - 1e-3 <= steps[0, 0] <= expected[1] + 1e-3


@pytest.mark.parametrize("kind", ["relief", "planes"])
def test_both_views_show_the_same_at_corresponding_points(kind, request):
    scenes = request.getfixturevalue(kind)
    here, there, seen = seen_by_both(scenes)
    assert seen.mean() > 0.4
    a, b = (jax.vmap(sample_bilinear)(scenes.views[:, i, ..., None], xy)[..., 0] for i, xy in enumerate((here, there)))
    differences = np.abs(np.asarray(a - b))[seen]
    # The views sample the photo at different places, so single pixels at edges differ.
    assert np.median(differences) < 0.01
    assert np.mean(differences) < 0.02


def test_sensors_weigh_colours_in_proportions_of_their_own(photo, planes):
    gray, sizes = photo
    none = jnp.zeros_like(gray)
    red, green, blue, all_three = (
        sample_scenes(jax.random.key(1), jnp.stack(colours, axis=-1), sizes, batch=6, shape=SHAPE, flat=1.0).views
        for colours in ([gray, none, none], [none, gray, none], [none, none, gray], [gray, gray, gray])
    )
    # A gray photo is gray for every sensor. Programs that are compiled apart see it at slightly different places.
    assert np.mean(np.abs(all_three - planes.views)) < 1e-4
    np.testing.assert_allclose(red + green + blue, all_three, atol=1e-5)
    parts = np.array(
        [
            [np.median((colour / all_three)[place][all_three[place] > 0.1]) for colour in (red, green, blue)]
            for place in np.ndindex(6, 2)
        ]
    )
    # Twelve sensors, each with proportions of its own, around those of luma.
    assert len(np.unique(parts.round(3), axis=0)) == 12
    relative = np.log(parts[:, [0, 2]] / parts[:, 1:2])
    deviation = 0.6 * np.sqrt(2)
    np.testing.assert_allclose(relative.std(axis=0), deviation, rtol=0.6)
    luma = np.log(np.array(LUMA)[[0, 2]] / LUMA[1])
    np.testing.assert_allclose(relative.mean(axis=0), luma, atol=3 * deviation / np.sqrt(12))


def test_cameras_of_calm_pairs_differ_a_quarter_as_much(photo, planes):
    calm = sample_scenes(jax.random.key(1), *photo, batch=6, shape=SHAPE, flat=1.0, calm=1.0)
    np.testing.assert_allclose(calm.cameras[:, 0], planes.cameras[:, 0], rtol=1e-6)
    zooms, wide_zooms = (np.log(s.cameras[:, 1, 0, 0] / s.cameras[:, 0, 0, 0]) for s in (calm, planes))
    np.testing.assert_allclose(zooms, wide_zooms / 4, atol=1e-5)
    turns, wide_turns = (
        np.arccos(np.clip((np.trace(s.rotations, axis1=1, axis2=2) - 1) / 2, -1, 1)) for s in (calm, planes)
    )
    # Angles about three axes do not add up exactly.
    np.testing.assert_allclose(turns, wide_turns / 4, rtol=0.15)
    _, _, seen = seen_by_both(calm)
    assert seen.mean() > 0.6


@pytest.mark.parametrize("kind", ["relief", "planes"])
def test_corresponding_points_fit_the_cameras(kind, request):
    scenes = request.getfixturevalue(kind)
    here, there, seen = seen_by_both(scenes)
    for i in range(len(seen)):
        (camera_a, camera_b), rotation = np.asarray(scenes.cameras[i], np.float64), np.asarray(scenes.rotations[i])
        x, y, z = np.asarray(scenes.translations[i], np.float64)
        essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ rotation
        fundamental = np.linalg.inv(camera_b).T @ essential @ np.linalg.inv(camera_a)
        a, b = (np.column_stack([np.asarray(xy[i])[seen[i]], np.ones(seen[i].sum())]) for xy in (here, there))
        lines = a @ fundamental.T
        assert np.all(np.abs(np.sum(lines * b, axis=1)) / np.linalg.norm(lines[:, :2], axis=1) < 0.01)


def test_views_of_a_plane_are_related_by_a_homography_and_those_of_a_relief_are_not(relief, planes):
    worst = {}
    for name, scenes in (("relief", relief), ("planes", planes)):
        here, there, seen = seen_by_both(scenes)
        errors = []
        for i in range(len(seen)):
            a, b = np.asarray(here[i])[seen[i]], np.asarray(there[i])[seen[i]]
            if len(a) > 20:
                fit = homography_of_points(a, b, threshold_px=1.0)
                assert fit is not None
                mapped = np.column_stack([a, np.ones(len(a))]) @ fit.matrix.T
                errors.append(np.max(np.linalg.norm(mapped[:, :2] / mapped[:, 2:] - b, axis=1)))
        worst[name] = max(errors)
    assert worst["planes"] < 0.1
    assert worst["relief"] > 3
    assert planes.flat.all()
    assert not relief.flat.any()


def test_a_position_goes_there_and_back(relief):
    here, there, seen = seen_by_both(relief)
    back, known = transfer(relief, jnp.stack([there, there], axis=1))
    known = np.asarray(known[:, 1]) & seen
    assert known.sum() > 0.98 * seen.sum()
    np.testing.assert_allclose(np.asarray(back[:, 1])[known], np.asarray(here)[known], atol=1.5)
    assert np.median(np.abs(np.asarray(back[:, 1] - here))[known]) < 0.05


def test_what_stands_in_front_hides_what_is_behind():
    """A strip of the canvas is seen 40 pixels further right by the second camera, in front of what lies there."""
    canvas = np.stack(np.meshgrid(np.arange(200.0), np.arange(100.0)), axis=-1)
    moved = canvas + np.where((canvas[..., :1] >= 60) & (canvas[..., :1] < 90), [40.0, 0.0], [0.0, 0.0])
    canvas_of_b = canvas.copy()
    strip = (canvas[..., 0] >= 100) & (canvas[..., 0] < 130)
    canvas_of_b[strip] -= [40.0, 0.0]
    known = np.ones((2, 100, 200), bool)
    known[1][:, 60:90] = False  # Nothing is seen where the strip was.
    scene = Scenes(
        views=jnp.zeros((1, 2, 100, 200)),
        places=jnp.asarray(np.stack([canvas, moved])[None], jnp.float32),
        canvas_xy=jnp.asarray(np.stack([canvas, canvas_of_b])[None], jnp.float32),
        known=jnp.asarray(known[None]),
        cameras=jnp.broadcast_to(jnp.eye(3), (1, 2, 3, 3)),
        rotations=jnp.eye(3)[None],
        translations=jnp.zeros((1, 3)),
        flat=jnp.zeros(1, bool),
    )
    xs = jnp.array([[30.0, 50.0], [75.0, 50.0], [115.0, 50.0], [160.0, 50.0]])
    positions, found = transfer(scene, jnp.broadcast_to(xs, (1, 2, 4, 2)))
    np.testing.assert_array_equal(found[0, 0], [True, True, False, True])
    np.testing.assert_allclose(positions[0, 0, 1], [115, 50], atol=1e-3)


def test_pose_error_and_its_curve():
    turned = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    x, y = np.array([1.0, 0, 0]), np.array([0, 2.0, 0])
    np.testing.assert_allclose(pose_error(np.eye(3), x, np.eye(3), -3 * x), (0, 0), atol=1e-5)
    np.testing.assert_allclose(pose_error(turned, x, np.eye(3), y), (90, 90))
    # The curve of errors 0, 2.5 and 180 is 1/3 from 0, and 2/3 from 2.5 to 5.
    np.testing.assert_allclose(pose_auc([0.0, 2.5, 180.0], 5.0), (1 / 3 + 2 / 3) / 2)


def test_evaluate_pose_finds_poses_by_sift_and_none_without_keypoints(tmp_path, gray_photos):
    from PIL import Image

    Image.fromarray((gray_photos["coffee"] * 255).astype(np.uint8)).save(tmp_path / "photo.png")

    def blind(image: np.ndarray) -> dict[str, np.ndarray]:
        return {"keypoints": np.zeros((0, 2)), "scores": np.zeros(0), "descriptors": np.zeros((0, 8))}

    from superpoint_jax.evaluation import sift_extractor

    results = evaluate_pose(
        tmp_path, {"blind": blind, "sift": sift_extractor()}, pairs=3, shape=(240, 320), strength=0.0
    )
    none, some = results[::2], results[1::2]
    assert [result.error_deg for result in none] == [180] * 3
    assert [result.matches for result in none] == [0] * 3
    assert min(result.error_deg for result in some) < 5
    assert sum(result.right for result in some) > 0.5 * sum(result.known for result in some)
    assert "blind" in pose_table(results)
    assert "sift" in pose_table(results)
