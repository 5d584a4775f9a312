"""Training of the refinement head: the loss, mirrored views, and a run that finds places that are known."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import superpoint_jax as sp
from superpoint_jax.cli import main
from superpoint_jax.training.parts import Scenery, lit_views, read_parts
from superpoint_jax.training.refinement.head import with_head, without_head
from superpoint_jax.training.refinement.losses import mirrored, remaining_errors, reprojection_loss
from superpoint_jax.training.refinement.pairs import SharedKeypoints, _seen, make_shared_keypoints
from superpoint_jax.training.refinement.run import RefinementTrainConfig, new_head, train_refinement
from superpoint_jax.training.refinement.validation import head_validator
from superpoint_jax.weights import save_pretrained
from tests.test_refinement import brightest

SMALL = RefinementTrainConfig(steps=120, batch=64, warmup=10, ema_decay=0.9)


def blobs(count: int, seed: int = 0) -> SharedKeypoints:
    """Blobs that both views show at known fractions of a pixel from the middle of the patch; b is turned by 90 degrees.

    A point (x, y) of a lies at (-y, x) in b.
    """
    rng = np.random.default_rng(seed)
    centers = rng.uniform(-1.5, 1.5, size=(count, 2, 2))
    steps = np.arange(-6, 7)
    x, y = steps[None, None, None, :], steps[None, None, :, None]
    squared = (x - centers[..., 0, None, None]) ** 2 + (y - centers[..., 1, None, None]) ** 2
    grays = np.round(40 + 180 * np.exp(-squared / 8)).astype(np.uint8)
    turn = np.array([[0, -1], [1, 0]], np.float32)
    # The blob of a lies at that of b: turn @ center_a + error = center_b.
    errors = centers[:, 1] - centers[:, 0] @ turn.T
    arrays: dict[str, Any] = dict(
        grays=grays,
        logs=np.zeros(grays.shape, np.float16),
        errors_xy=errors.astype(np.float32),
        slopes=np.broadcast_to(turn, (count, 2, 2)).copy(),
        flat=np.arange(count) % 2 == 0,
    )
    return SharedKeypoints(**arrays)


def test_the_loss_by_hand():
    errors = jnp.array([[3.0, 4.0], [0.0, 1.0]])
    # The first view is as fine as the second; the second pair is seen at half the size in b, so its error counts twice.
    slopes = jnp.stack([jnp.eye(2), jnp.eye(2) / 2])
    expected = (math.log(1 + 25) + math.log(1 + 4)) / 2
    np.testing.assert_allclose(reprojection_loss(errors, slopes), expected, rtol=1e-6)
    # A finer view b is the one whose pixels count.
    np.testing.assert_allclose(reprojection_loss(errors, slopes * 4), (math.log(26) + math.log(2)) / 2, rtol=1e-6)


def test_the_remaining_error_by_hand():
    """The head moves a's keypoint by (1, 0) and b's by (0, -2); a's offset is (0, 1) in b, which is turned."""
    grays = np.zeros((1, 2, 13, 13), np.uint8)
    grays[0, 0, 6, 7] = grays[0, 1, 4, 6] = 255
    pair = SharedKeypoints(
        grays=jnp.asarray(grays),
        logs=jnp.zeros(grays.shape, jnp.float16),
        errors_xy=jnp.array([[0.5, 0.25]]),
        slopes=jnp.array([[[0.0, -1.0], [1.0, 0.0]]]),
        flat=jnp.array([True]),
    )
    np.testing.assert_allclose(remaining_errors(brightest(), pair), [[0.5, 3.25]], atol=1e-2)


def test_mirrors_change_no_distance():
    """The head that finds the brightest pixel finds it in mirrored views too."""
    pairs = jax.tree.map(jnp.asarray, blobs(12))
    before = jnp.linalg.norm(remaining_errors(brightest(), pairs), axis=-1)
    grays = set()
    for seed in range(8):
        changed = mirrored(jax.random.key(seed), pairs)
        grays.add(np.asarray(changed.grays).tobytes())
        after = jnp.linalg.norm(remaining_errors(brightest(), changed), axis=-1)
        np.testing.assert_allclose(after, before, atol=1e-4)
    assert len(grays) > 4


def test_a_run_finds_known_places_and_continues_with_the_same_result(tmp_path):
    pairs = blobs(600)
    validate = head_validator(blobs(100, seed=1))
    whole = train_refinement(new_head(0), pairs, tmp_path / "whole", config=SMALL, validate=validate)
    found = validate(whole)
    assert found["peaks_homography_0.5px"] < 0.3
    assert found["homography_0.5px"] > 0.9
    assert found["parallax_0.5px"] > 0.9
    options: Any = dict(config=SMALL, checkpoint_every=50)
    train_refinement(new_head(0), pairs, tmp_path / "parts", stop_after=70, **options)
    parts = train_refinement(new_head(0), pairs, tmp_path / "parts", **options)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="another configuration"):
        train_refinement(new_head(0), pairs, tmp_path / "parts", config=RefinementTrainConfig(steps=7))


def test_the_network_keeps_its_weights(random_model):
    model, head = random_model(0), new_head(3)
    whole = with_head(model, head)
    assert (whole.config.refinement, whole.config.refinement_head) == ("learned", True)
    own = dict(nnx.to_flat_state(nnx.state(whole)))
    for path, leaf in nnx.to_flat_state(nnx.state(model)):
        np.testing.assert_array_equal(own[path][...], leaf[...])
    np.testing.assert_array_equal(own["refinement_head", "conv_a", "kernel"][...], head.conv_a.kernel[...])
    back = without_head(whole)
    assert back.config == model.config.replace(refinement="soft_argmax")
    for one, other in zip(jax.tree.leaves(back), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(one, other)
    assert without_head(model) is model


def test_a_number_of_steps_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="steps=0"):
        RefinementTrainConfig(steps=0)


@pytest.fixture
def given(gray_photos) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A key, a photo in a larger array, and its size."""
    photo = jnp.asarray(gray_photos["coffee"] * 255, jnp.uint8)
    height, width = photo.shape
    images = jnp.zeros((1, width, width), jnp.uint8).at[0, :height].set(photo)
    return jax.random.key(0), images, jnp.array([[height, width]])


def test_the_patches_are_those_of_the_views(given):
    # Planes, because pixels of a relief that are hidden depend on how a program is compiled.
    options: Any = dict(flat=1.0, keypoints_per_view=40, keypoint_threshold=0.0, extractor_dtype="float32")
    scenery = Scenery(pairs=4, shape=(96, 128), **options)
    seen = _seen(*given, sp.from_pretrained(), scenery=scenery)
    _, views = jax.jit(lit_views, static_argnums=3)(*given, scenery)
    views = np.asarray(views).reshape(4, 2, 96, 128)
    compared = 0
    for place in np.ndindex(4, 2, 40):
        x, y = np.asarray(seen.keypoints_xy[place]).astype(int)
        if 6 <= x < 122 and 6 <= y < 90:
            patch = views[place[:2]][y - 6 : y + 7, x - 6 : x + 7]
            np.testing.assert_allclose(seen.grays[place], patch * 255, atol=0.51)
            compared += 1
    assert compared > 100


def test_views_are_degraded_as_the_scenery_says(given):
    plain, degraded = (
        jax.jit(lit_views, static_argnums=3)(*given, Scenery(shape=(96, 128), strength=0.0, degraded=degraded))[1]
        for degraded in (0.0, 1.0)
    )
    differences = np.abs(np.asarray(degraded - plain)).max(axis=(1, 2, 3))
    assert (differences > 0.02).all()


def test_views_have_sensors_of_their_own_where_the_scenery_says_so(given):
    """The photo is gray, so every sensor sees it alike, and only their noise differs."""
    key, images, sizes = given
    colours = jnp.broadcast_to(images[..., None], (*images.shape, 3))
    grays, seen, quiet = (
        jax.jit(lit_views, static_argnums=3)(key, photos, sizes, Scenery(shape=(96, 128), flat=1.0, **options))[1]
        for photos, options in (
            (images, dict(strength=0.5)),
            (colours, dict(strength=0.5, sensors=True)),
            (colours, dict(strength=0.0, sensors=True)),
        )
    )
    differences = np.abs(np.asarray(seen - grays))
    assert 1e-3 < differences.mean() < 0.05
    scenes = jax.jit(lit_views, static_argnums=3)(key, images, sizes, Scenery(shape=(96, 128), flat=1.0))[0]
    # Programs that are compiled apart see the photo at slightly different places.
    assert np.mean(np.abs(quiet - scenes.views.reshape(quiet.shape))) < 5e-4


@pytest.mark.slow
def test_keypoints_of_a_view_are_far_apart_whatever_the_radius_of_the_model(tmp_path, gray_photos):
    (tmp_path / "photos").mkdir()
    Image.fromarray((gray_photos["coffee"] * 255).astype(np.uint8)).save(tmp_path / "photos" / "coffee.png")
    found = []
    for radius in (0, 6):
        extractor = tmp_path / f"radius_{radius}"
        save_pretrained(sp.from_pretrained(nms_radius=radius), extractor)
        scenery = Scenery(pairs=4, shape=(120, 160), keypoints_per_view=100, extractor_dtype="float32")
        given: dict[str, Any] = dict(scenery=scenery, extractor=str(extractor))
        found.append(make_shared_keypoints(tmp_path / "photos", tmp_path / f"pairs_{radius}", **given))
    assert len(found[0]) > 50
    for name, values in vars(found[0]).items():
        np.testing.assert_array_equal(values, getattr(found[1], name), err_msg=name)


@pytest.mark.slow
def test_the_command_makes_keypoints_trains_and_saves(tmp_path, gray_photos):
    (tmp_path / "photos").mkdir()
    for name in ("coffee", "camera"):
        Image.fromarray((gray_photos[name] * 255).astype(np.uint8)).save(tmp_path / "photos" / f"{name}.png")
    command = ["train", "refinement", "--data", tmp_path / "photos", "-o", tmp_path / "run", "--pairs", "8",
               "--shape", "120", "160", "--steps", "2", "--batch", "8"]  # fmt: skip
    assert main([str(word) for word in command]) in (0, None)
    pairs = read_parts(SharedKeypoints, tmp_path / "run" / "keypoints")
    assert len(pairs) > 50
    assert pairs.grays.shape[1:] == (2, 13, 13)
    # Most keypoints are nearer to their partners than half of the largest distance.
    assert np.median(np.linalg.norm(pairs.errors_xy, axis=-1)) < 2
    assert sp.from_pretrained(tmp_path / "run" / "weights").config.refinement == "learned"
    with pytest.raises(ValueError, match="made in another way"):
        make_shared_keypoints(
            tmp_path / "photos", tmp_path / "run" / "keypoints", scenery=Scenery(pairs=4), extractor="ours"
        )
