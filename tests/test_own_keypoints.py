"""describe(): descriptors at places that the caller chooses, in arrays, of photos, and from files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import superpoint_jax as sp
from superpoint_jax.cli import main
from superpoint_jax.detection import score_map
from superpoint_jax.own_keypoints import check_places
from superpoint_jax.photos import describe_image
from superpoint_jax.records import read_keypoints


@pytest.mark.parametrize("enlarge", [1, 1.5])
def test_what_extract_finds_is_described_as_extract_does_in_any_order(model, images, enlarge):
    found = sp.extract(model, images, max_keypoints=400, enlarge=enlarge)
    assert not found.mask.all()  # Rows of padding are among them.
    order = np.random.default_rng(0).permutation(400)
    given = jax.tree.map(lambda leaf: leaf[:, order], (found.keypoints, found.mask, found.scores, found.descriptors))
    keypoints_xy, mask, scores, descriptors = given
    described = sp.describe(model, images, keypoints_xy, mask, enlarge=enlarge)
    np.testing.assert_allclose(described.keypoints, keypoints_xy, atol=1e-6)
    np.testing.assert_array_equal(described.mask, mask)
    np.testing.assert_allclose(described.scores, scores, atol=1e-6)
    np.testing.assert_allclose(described.descriptors, descriptors, atol=2e-4 if enlarge != 1 else 1e-5)
    assert described.num_detected.tolist() == found.mask.sum(1).tolist()
    assert described.image_sizes.tolist() == [[72, 104]] * 2
    for leaf in (described.keypoints, described.scores, described.descriptors):
        assert not np.asarray(leaf)[~np.asarray(mask)].any()


def test_the_score_is_that_of_the_nearest_pixel_whether_a_keypoint_or_not(model, images):
    places = np.array([[[10.4, 20.6], [50.5, 7.2], [0, 0], [-0.4, 71.4]]] * 2, np.float32)
    described = sp.describe(model, images, places)
    scores = np.asarray(score_map(model(images).logits))
    np.testing.assert_allclose(described.scores, scores[:, [21, 7, 0, 71], [10, 51, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(described.descriptors, axis=-1), 1, atol=1e-5)


def test_places_outside_of_the_image_are_padding(model, images):
    places = np.array([[-0.6, 5], [5, -1], [103.6, 5], [5, 71.6], [np.nan, 5], [5, np.inf], [5, 5]], np.float32)
    described = sp.describe(model, images, np.stack([places] * 2))
    assert described.mask.tolist() == [[False] * 6 + [True]] * 2
    for leaf in (described.keypoints, described.scores, described.descriptors):
        assert not np.asarray(leaf)[:, :6].any()
        assert np.isfinite(leaf).all()


def test_the_last_pixels_of_an_uneven_image_have_a_descriptor_and_no_score(model, images):
    """61x83 holds 7x10 cells of 8x8 pixels."""
    described = sp.describe(model, images[:, :61, :83], np.array([[[82, 60], [79, 55]]] * 2, np.float32))
    assert described.scores[:, 0].tolist() == [0, 0]
    assert (np.asarray(described.scores[:, 1]) > 0).all()
    np.testing.assert_allclose(described.descriptors[:, 0], described.descriptors[:, 1], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(described.descriptors, axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize("enlarge", [1, 2])
def test_in_a_padded_batch_it_is_what_it_is_alone(model, images, enlarge):
    sizes = np.array([[72, 104], [61, 83]], np.int32)
    padded = np.ones((2, 80, 120, 1), np.float32)
    places = np.random.default_rng(0).uniform(0, 100, (2, 30, 2)).astype(np.float32)
    for i, (height, width) in enumerate(sizes):
        padded[i, :height, :width] = images[i, :height, :width]
    together = sp.describe(model, padded, places, image_sizes=sizes, enlarge=enlarge)
    for i, (height, width) in enumerate(sizes):
        alone = sp.describe(model, images[i : i + 1, :height, :width], places[i : i + 1], enlarge=enlarge)
        np.testing.assert_array_equal(together.mask[i], alone.mask[0])
        assert alone.mask.sum() >= 10
        np.testing.assert_allclose(together.scores[i], alone.scores[0], atol=1e-5)
        np.testing.assert_allclose(together.descriptors[i], alone.descriptors[0], atol=1e-4)


def test_it_composes(model, images):
    places = jax.random.uniform(jax.random.key(0), (2, 20, 2), minval=8, maxval=60)
    mask = jnp.arange(20)[None] < jnp.array([[20], [5]])
    expected = sp.describe(model, images, places, mask)

    def call(images, places, mask):
        return sp.describe(model, images[None], places[None], mask[None])[0]

    mapped = jax.jit(jax.vmap(call))(images, places, mask)
    for one, other in zip(jax.tree.leaves(mapped), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)

    def loss(places):
        return sp.describe(model, images, places, mask).descriptors[..., 0].sum()

    # The place of a row that does not count may hold anything.
    gradient = jax.grad(loss)(places.at[1, 7].set(jnp.nan))
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[1, 5:].any()
    step = 1e-2 * jnp.sign(gradient)
    change = (loss(places + step) - loss(places - step)) / 2
    np.testing.assert_allclose(change, jnp.vdot(gradient, step), rtol=0.05)
    by_image = jax.grad(lambda images: sp.describe(model, images, places).descriptors[..., 0].sum())(images)
    assert np.isfinite(by_image).all()


def test_wrong_places_are_told():
    places = np.zeros((2, 5, 2), np.float32)
    for given, mask, message in (
        (places[0], None, r"keypoints_xy have shape \(5, 2\); \(2, K, 2\) is needed \(keypoints_xy\[None\]"),
        (places[..., :1], None, r"shape \(2, 5, 1\)"),
        (places.astype(int), None, "keypoints_xy have type int64; an array of floats"),
        (places, np.ones((2, 4), bool), r"mask has shape \(2, 4\) and type bool; \(2, 5\) and bool"),
        (places, np.ones((2, 5), int), "type int64"),
    ):
        with pytest.raises(ValueError, match=message):
            check_places(given, mask, 2)


# Photos and files


def test_a_photo_of_any_size_is_described_in_its_own_pixels(model, photos):
    photo = photos["motorcycle"]
    (found,) = sp.extract_images(model, [photo], max_keypoints=50, resize=400)
    described = describe_image(model, photo, found.keypoints[::-1], resize=400)
    np.testing.assert_array_equal(described.keypoints, found.keypoints[::-1])
    np.testing.assert_allclose(described.scores, found.scores[::-1], atol=1e-5)
    np.testing.assert_allclose(described.descriptors, found.descriptors[::-1], atol=1e-3)
    assert described.image_sizes.tolist() == [480, 640]
    with pytest.raises(ValueError, match=r"place 2, \(640, 3\), lies outside the image, which has 640x480 pixels"):
        describe_image(model, photo, np.array([[1.0, 2], [640, 3]]))


def test_the_command_describes_what_detect_found_and_what_others_list(model, photos, tmp_path, capsys):
    sp.save_pretrained(model, tmp_path / "weights")
    Image.fromarray(photos["camera"]).save(tmp_path / "a.png")
    shared = ["--weights", str(tmp_path / "weights"), "--engine", "xla"]
    photo, keypoints, out = (str(tmp_path / name) for name in ("a.png", "k.json", "d.json"))
    assert main(["detect", photo, *shared, "--json", keypoints, "--descriptors", "--max-keypoints", "40"]) == 0
    assert main(["describe", photo, "--keypoints", keypoints, "-o", out, *shared]) == 0
    assert f"{photo}: 40 keypoints described -> {out}" in capsys.readouterr().out
    (expected,) = json.loads((tmp_path / "k.json").read_text())
    found = json.loads((tmp_path / "d.json").read_text())
    assert found["keypoints"] == expected["keypoints"]
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-6)
    np.testing.assert_allclose(found["descriptors"], expected["descriptors"], atol=1e-4)

    (tmp_path / "k.txt").write_text("# x y\n30.5 20\n\n7,9.25\n")
    assert main(["describe", photo, "--keypoints", str(tmp_path / "k.txt"), "-o", out, *shared]) == 0
    found = json.loads((tmp_path / "d.json").read_text())
    assert found["keypoints"] == [[30.5, 20], [7, 9.25]]
    places = np.array([[[30.5, 20], [7, 9.25]]], np.float32)
    described = sp.describe(model, photos["camera"][None, ..., None], places)
    np.testing.assert_allclose(found["descriptors"], described.descriptors[0], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("k.txt", "1 2\n3\n", "keypoint 2 is [3.0]; two finite numbers"),
        ("k.txt", "1 2\n3 x\n", "line 2: '3 x' is not x and y"),
        ("k.txt", "# nothing\n", "no keypoints"),
        ("k.txt", "1 2\n999 3\n", "place 2, (999, 3), lies outside"),
        ("k.json", "[[1, 2], [3, NaN]]", "keypoint 2 is [3, nan]"),
        ("k.json", "{", "k.json: Expecting property name"),
        ("k.json", '[{"keypoints": []}, {"keypoints": []}]', "keypoints of 2 photos; those of one are needed"),
        ("k.json", '{"points": [[1, 2]]}', "no keypoints; a list"),
        ("gone.txt", None, "No such file"),
    ],
)
def test_keypoints_that_can_not_be_read_are_told_in_one_line(name, text, message, model, photos, tmp_path, capsys):
    sp.save_pretrained(model, tmp_path / "weights")
    Image.fromarray(photos["camera"]).save(tmp_path / "a.png")
    if text is not None:
        (tmp_path / name).write_text(text)
    command = ["describe", str(tmp_path / "a.png"), "--keypoints", str(tmp_path / name), "-o", str(tmp_path / "d.json")]
    assert main([*command, "--weights", str(tmp_path / "weights"), "--engine", "xla"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert message in line
    assert not (tmp_path / "d.json").exists()


def test_a_list_of_pairs_is_a_file_of_keypoints(tmp_path):
    (tmp_path / "k.json").write_text("[[1, 2.5], [3, 4]]")
    assert read_keypoints(tmp_path / "k.json").tolist() == [[1, 2.5], [3, 4]]
