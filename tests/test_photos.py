"""From photos of any kind to keypoints in their own pixels: `extract_images`, and who stands on it."""

import json

import h5py
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import superpoint_jax as sp
from superpoint_jax.cli import main
from superpoint_jax.matching import nearest
from superpoint_jax.model import to_gray
from superpoint_jax.processing import load_image


@pytest.fixture(scope="module")
def model():
    return sp.from_pretrained()


@pytest.fixture
def files(tmp_path, photos):
    """Photos of three sizes as files: RGB, gray, and one that is larger than what the network is given."""
    large = np.tile(photos["motorcycle"], (3, 2, 1))[:1100, :900]
    pixels = {"b.png": photos["coffee"], "a.png": photos["camera"][:120, :168], "c.jpg": large}
    (tmp_path / "photos").mkdir()
    for name, values in pixels.items():
        Image.fromarray(values).save(tmp_path / "photos" / name)
    return [tmp_path / "photos" / name for name in pixels]


def same(a, b):
    """Equal keypoints; scores and descriptors up to the order of sums in arrays of another shape."""
    np.testing.assert_allclose(a.keypoints, b.keypoints, atol=1e-3)
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)
    np.testing.assert_allclose(a.descriptors, b.descriptors, atol=1e-5)
    assert a.image_sizes.tolist() == b.image_sizes.tolist()
    assert a.num_detected == b.num_detected


def test_a_photo_in_a_list_is_what_it_is_alone(model, files):
    together = sp.extract_images(model, files, max_keypoints=200)
    for path, found in zip(files, together, strict=True):
        same(found, sp.extract_images(model, path, max_keypoints=200)[0])
    for options in (dict(batch=3), dict(pad_multiple=8), dict(batch=2, max_shapes=1)):
        for a, b in zip(together, sp.extract_images(model, files, max_keypoints=200, **options), strict=True):
            same(a, b)


def test_results_are_unpadded_and_in_pixels_of_the_photo(model, files):
    sizes = [load_image(path).shape[:2] for path in files]
    results = sp.extract_images(model, files, max_keypoints=3000)
    for found, size in zip(results, sizes, strict=True):
        count = len(found.scores)
        assert 50 < count <= 3000
        assert (found.keypoints.shape, found.descriptors.shape) == ((count, 2), (count, 256))
        assert found.mask.all()
        assert tuple(found.image_sizes) == size
        assert (found.keypoints >= -0.5).all()
        assert (found.keypoints <= np.array(size[::-1]) - 0.5).all()
    # The last photo is larger than the network is given: its keypoints reach beyond that.
    assert results[2].keypoints[:, 1].max() > 1024


def test_without_resizing_it_is_extract(model, photos):
    photo = photos["coffee"][:201, :299]
    (found,) = sp.extract_images(model, [photo], max_keypoints=100)
    expected = sp.extract(model, jnp.asarray(photo[None]), max_keypoints=100).to_list()[0]
    np.testing.assert_allclose(found.keypoints, expected["keypoints"], atol=1e-3)
    np.testing.assert_allclose(found.descriptors, expected["descriptors"], atol=1e-5)


def test_every_kind_of_image_is_taken(model, files, photos):
    photo = photos["coffee"][:200, :300]
    (expected,) = sp.extract_images(model, [photo], max_keypoints=100)
    with files[0].open("rb") as file:
        kinds = [files[0], str(files[0]), Image.fromarray(photo), jnp.asarray(photo), file]
        for found in sp.extract_images(model, kinds, max_keypoints=100):
            np.testing.assert_array_equal(found.keypoints, expected.keypoints)
    # Floats are not rounded to bytes when they are made gray.
    (floats,) = sp.extract_images(model, [photo.astype(np.float32) / 255], max_keypoints=100)
    assert len(floats.scores) == 100
    assert len(sp.extract_images(model, np.stack([photo, photo]), max_keypoints=100)) == 2


def test_resize_reduces_and_never_enlarges(model, photos):
    photo = photos["motorcycle"]
    reduced, small, whole = (
        sp.extract_images(model, [image], resize=resize, max_keypoints=50)[0]
        for image, resize in ((photo, 160), (photo[:64, :96], 160), (photo, 0))
    )
    assert tuple(reduced.image_sizes) == photo.shape[:2]
    assert reduced.keypoints[:, 0].max() > 500
    assert tuple(small.image_sizes) == (64, 96)
    assert not np.array_equal(reduced.keypoints, whole.keypoints)


def test_the_processor_of_the_weights_is_used(random_model, photos):
    """Hugging Face's rules resize to 480x640 whatever the aspect, and the network reads the red channel."""
    model = random_model(0, keypoint_threshold=0.0, channel_rule="first")
    photo = photos["motorcycle"][:240, :200]
    processor = sp.SuperPointImageProcessor.huggingface()
    inputs = processor(photo)
    (expected,) = processor.post_process_keypoint_detection(
        sp.extract(model, inputs.pixel_values, max_keypoints=40), [photo.shape[:2]]
    )
    (found,) = sp.extract_images(model, [photo], max_keypoints=40)
    np.testing.assert_allclose(found.keypoints, expected["keypoints"], atol=1e-3)


def test_a_wrong_call_says_what_is_wrong(model, tmp_path, files, photos):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(sp.ImageError, match=r"broken\.png: not an image"):
        sp.extract_images(model, [files[0], tmp_path / "broken.png"])
    with pytest.raises(sp.ImageError, match=r"missing\.png: no such file"):
        sp.extract_images(model, [tmp_path / "missing.png"])
    with pytest.raises(sp.ImageError, match="image 1: 4x240 pixels; at least 8 are needed"):
        sp.extract_images(model, [photos["camera"], photos["camera"][:, :4]])
    with pytest.raises(ValueError, match="no image was given"):
        sp.extract_images(model, [])
    with pytest.raises(ValueError, match="move the channels last"):
        sp.extract_images(model, [np.zeros((3, 64, 64), np.uint8)])
    with pytest.raises(ValueError, match="resize=7; at least 8 pixels are needed, or 0"):
        sp.extract_images(model, files, resize=7)
    with pytest.raises(ValueError, match="batch=0; at least 1 is needed"):
        sp.extract_images(model, files, batch=0)
    with pytest.raises(TypeError, match="max_keypoint"):
        sp.extract_images(model, files, max_keypoint=3)


def test_matches_of_lists_do_not_compile_for_every_number_of_keypoints(model, photos):
    crops = [photos["coffee"][:160, x : x + 200] for x in (0, 40, 80)]
    options = dict(keypoint_threshold=0.1, max_keypoints=512)
    a, b, c = sp.extract_images(model, crops, **options)
    counts = [len(found.scores) for found in (a, b, c)]
    assert len(set(counts)) == 3
    padded = sp.extract(model, jnp.asarray(np.stack(crops)), **options)
    np.testing.assert_array_equal(sp.match(a, b).indices, sp.match(padded[0], padded[1]).indices[: counts[0]])
    compiled = nearest._match._cache_size()
    assert sp.match(b, c).mask.shape == (counts[1],)
    assert sp.match(c, a).mask.shape == (counts[2],)
    assert nearest._match._cache_size() == compiled


def test_detect_and_extract_agree_to_the_bit(files, tmp_path, capsys):
    """On one photo, coloured and resized too, whatever its neighbours in the folder are."""
    options = ["--max-keypoints", "200", "--engine", "xla"]
    table, store = tmp_path / "keypoints.json", tmp_path / "features.h5"
    assert main(["detect", *map(str, files), "--json", str(table), "--descriptors", *options]) == 0
    command = ["extract", str(files[0].parent), "-o", str(store), "--descriptors", "float32", "--workers", "0"]
    assert main([*command, *options]) == 0
    with h5py.File(store) as file:
        for record in json.loads(table.read_text()):
            group = file[record["image"].split("/")[-1]]
            np.testing.assert_array_equal(np.asarray(group["keypoints"], np.float64).round(3), record["keypoints"])
            np.testing.assert_array_equal(group["scores"], np.float32(record["scores"]))
            np.testing.assert_array_equal(np.asarray(group["descriptors"]).T, np.float32(record["descriptors"]))


def test_the_luma_of_bytes_is_pillows(photos):
    """One rule for the processor, for `extract` and for Pillow itself: the same bytes."""
    photo = photos["coffee"]
    pillow = np.asarray(Image.fromarray(photo).convert("L"))
    inputs = sp.SuperPointImageProcessor()(photo, do_rescale=False, pad_multiple=1)
    np.testing.assert_array_equal(inputs.pixel_values[0, ..., 0], pillow)
    np.testing.assert_array_equal(to_gray(photo[None], "luma"), to_gray(pillow[None, ..., None], "luma"))
