"""Images enlarged inside the program: exact places, mixed sizes, and who hands the option on."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import superpoint_jax as sp
from superpoint_jax.cli import main
from superpoint_jax.enlargement import enlarge, enlarged_shape
from superpoint_jax.processing import rescale_keypoints


@pytest.fixture
def gray(photos):
    return jnp.asarray(photos["camera"][None, :61, :83, None], jnp.float32) / 255


@pytest.mark.parametrize("factor", [1.3, 1.5, 2.0, 3.7])
def test_it_is_jax_image_resize(gray, factor):
    images, sizes = enlarge(gray, jnp.array([[61, 83]]), factor)
    shape = enlarged_shape((61, 83), factor)
    assert sizes.tolist() == [list(shape)]
    assert shape == (int(61 * factor + 0.5), int(83 * factor + 0.5))
    # float32: the places between pixels are exact here, and rounded there.
    np.testing.assert_allclose(images, jax.image.resize(gray, (1, *shape, 1), "linear"), atol=2e-5)


def test_by_hand_within_padding():
    image = jnp.array([[0.0, 1.0, 9.0], [9.0, 9.0, 9.0]])[None, :, :, None]
    images, sizes = enlarge(image, jnp.array([[1, 2]]), 2.0)
    assert sizes.tolist() == [[2, 4]]
    row = [0, 0.25, 0.75, 1, 0, 0]
    np.testing.assert_array_equal(images[0, ..., 0], [row, row, [0] * 6, [0] * 6])


@pytest.mark.parametrize("factor", [1.3, 2.0])
def test_the_places_are_exact_in_every_program(factor):
    """Where a ramp is enlarged, its values are the places themselves."""
    ramp = jnp.broadcast_to(jnp.arange(640, dtype=jnp.float32)[None, None, :, None], (1, 8, 640, 1))
    sizes = jnp.array([[8, 640]])
    after = enlarged_shape((8, 640), factor)[1]
    places = np.clip((2 * np.arange(after) + 1) * 640 / (2 * after) - 0.5, 0, 639)
    for run in (enlarge, jax.jit(enlarge, static_argnames="factor")):
        images, _ = run(ramp, sizes, factor=factor)
        np.testing.assert_allclose(images[0, 3, :, 0], places, rtol=2e-7, atol=1e-7)


def test_padding_plays_no_part_whatever_it_holds(gray):
    padded = jnp.full((2, 80, 96, 1), jnp.nan).at[0, :61, :83].set(gray[0]).at[1].set(0.5)
    images, sizes = enlarge(padded, jnp.array([[61, 83], [80, 96]]), 1.5)
    alone, (size,) = enlarge(gray, jnp.array([[61, 83]]), 1.5)
    assert sizes.tolist() == [size.tolist(), [120, 144]]
    np.testing.assert_allclose(images[0, : size[0], : size[1]], alone[0], atol=2e-6)
    np.testing.assert_allclose(images[1], 0.5, atol=1e-6)
    assert (images[0, size[0] :] == 0).all()


def test_what_is_not_finite_spreads_one_pixel_and_no_further(gray):
    images, _ = enlarge(gray.at[0, 30, 40].set(jnp.nan), jnp.array([[61, 83]]), 2.0)
    bad = np.argwhere(~np.isfinite(np.asarray(images[0, ..., 0])))
    assert len(bad) == 16
    assert (np.abs(bad - [60.5, 80.5]) <= 1.5).all()


def test_keypoints_lie_where_they_lie_in_the_enlarged_image(model, gray):
    """`extract` of an image that is enlarged beforehand, mapped back by pixel centres."""
    larger, sizes = enlarge(gray, jnp.array([[61, 83]]), 2.0)
    expected = sp.extract(model, larger, max_keypoints=60)
    found = sp.extract(model, gray, max_keypoints=60, enlarge=2)
    assert found.mask.all()
    assert found.image_sizes.tolist() == [[61, 83]]
    np.testing.assert_allclose(found.keypoints, rescale_keypoints(expected.keypoints, sizes, [61, 83]), atol=1e-4)
    # Compiled together or apart, the enlarged images differ by rounding, which random weights amplify.
    np.testing.assert_allclose(found.descriptors, expected.descriptors, atol=1e-4)


def test_mixed_sizes_equal_each_image_alone(model, gray):
    padded = jnp.ones((2, 72, 96, 1)).at[0, :61, :83].set(gray[0]).at[1, :61, :83].set(gray[0, :, ::-1])
    sizes = jnp.array([[61, 83], [72, 96]])
    within = sp.extract(model, padded, image_sizes=sizes, max_keypoints=40, enlarge=1.5)
    alone = sp.extract(model, gray, max_keypoints=40, enlarge=1.5)
    np.testing.assert_allclose(within.keypoints[0], alone.keypoints[0], atol=1e-3)
    np.testing.assert_allclose(within.descriptors[0], alone.descriptors[0], atol=1e-4)


def test_padding_rows_stay_zero(model, gray):
    found = sp.extract(model, gray * 0 + 0.5, max_keypoints=20, enlarge=2, keypoint_threshold=0.99)
    assert not found.mask.any()
    assert (found.keypoints == 0).all()


def test_it_composes(model, gray):
    def total(images):
        return sp.extract(model, images, max_keypoints=20, enlarge=2).scores.sum()

    gradient = jax.jit(jax.grad(total))(gray)
    assert np.isfinite(gradient).all()
    assert np.any(gradient)
    _, tangent = jax.jvp(total, (gray,), (jnp.ones_like(gray) * 0.01,))
    assert np.isfinite(tangent)
    mapped = jax.vmap(lambda image: sp.extract(model, image[None], max_keypoints=20, enlarge=2)[0])(gray)
    np.testing.assert_array_equal(mapped.keypoints, sp.extract(model, gray, max_keypoints=20, enlarge=2).keypoints)


@pytest.mark.parametrize("factor", [0.5, 9, float("nan")])
def test_a_factor_out_of_range_says_what_is_needed(model, gray, factor):
    with pytest.raises(ValueError, match="1 to 8 is needed"):
        sp.extract(model, gray, enlarge=factor)


def test_positions_are_finer(photos):
    """A photo moved by a known fraction of a pixel: matches are nearer to it when images are enlarged."""
    model = sp.from_pretrained()
    photo = jnp.asarray(photos["motorcycle"], jnp.float32).mean(-1)[None, ::2, ::2, None] / 255
    shift = jnp.array([0.37, 0.61])  # down and to the right
    moved = jax.image.scale_and_translate(photo[0], (240, 320, 1), (0, 1), jnp.ones(2), shift, "cubic")[None]

    def error_px(factor, refinement):
        options = dict(max_keypoints=300, enlarge=factor, refinement=refinement)
        a, b = (sp.extract(model, image, **options) for image in (photo, moved))
        (pairs,) = sp.match(a, b, max_distance=0.7).to_list()
        i, j = pairs["indices"].T
        offset = np.asarray(b.keypoints)[0, j] - np.asarray(a.keypoints)[0, i] - np.asarray(shift)[::-1]
        return np.median(np.linalg.norm(offset, axis=1))

    assert error_px(2, "soft_argmax") < 0.7 * error_px(1, "soft_argmax")
    # The refinement head has found much of it already.
    assert error_px(2, "learned") < error_px(1, "learned") < error_px(1, "soft_argmax")


def test_the_command_line_hands_it_on(tmp_path, photos, random_model):
    sp.save_pretrained(random_model(0), tmp_path / "weights")
    Image.fromarray(photos["camera"][:80, :96]).save(tmp_path / "photo.png")
    command = ["detect", str(tmp_path / "photo.png"), "--weights", str(tmp_path / "weights")]

    def keypoints(*options):
        assert main([*command, *options, "--json", str(tmp_path / "k.json"), "--max-keypoints", "30"]) == 0
        return np.array(json.loads((tmp_path / "k.json").read_text())[0]["keypoints"])

    plain, finer, upscaled = keypoints(), keypoints("--enlarge", "2"), keypoints("--resize", "192", "--upscale")
    assert len(plain) == len(finer) == len(upscaled) == 30
    assert not np.array_equal(plain, finer)
    for found in (finer, upscaled):
        assert (found % 1 != 0).any()  # half pixels, and still inside the photo
        assert (found >= -0.5).all()
        assert (found <= [95.5, 79.5]).all()
    config = sp.from_pretrained(tmp_path / "weights", enlarge=2.0)
    sp.save_pretrained(config, tmp_path / "finer")
    assert sp.from_pretrained(tmp_path / "finer").config.enlarge == 2
