"""SuperPointImageProcessor with Hugging Face's options against transformers' Pillow processor."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import superpoint_jax as sp

torch = pytest.importorskip("torch")
AutoImageProcessor = pytest.importorskip("transformers").AutoImageProcessor
SuperPointImageProcessorPil = pytest.importorskip(
    "transformers.models.superpoint.image_processing_pil_superpoint"
).SuperPointImageProcessorPil

NAMES = ("camera", "coffee", "astronaut", "chelsea", "page", "motorcycle")


def theirs(image, **options) -> np.ndarray:
    """[H,W,C] from their [1,C,H,W]."""
    values = SuperPointImageProcessorPil(**options)(image, return_tensors="np")["pixel_values"]
    return np.moveaxis(np.asarray(values)[0], 0, -1)


def ours(image, **options) -> np.ndarray:
    inputs = sp.SuperPointImageProcessor.huggingface(**options)(image)
    assert inputs["pixel_values"].shape[1:3] == tuple(np.asarray(inputs["image_sizes"])[0])
    return np.asarray(inputs["pixel_values"])[0]


@pytest.mark.parametrize("do_grayscale", [False, True])
@pytest.mark.parametrize("do_rescale", [False, True])
@pytest.mark.parametrize("size", [None, (480, 640), (97, 131)])
@pytest.mark.parametrize("name", NAMES)
def test_pixel_values_equal_those_of_transformers(photos, name, size, do_rescale, do_grayscale):
    options = dict(do_resize=size is not None, do_rescale=do_rescale, do_grayscale=do_grayscale)
    if size is not None:
        options["size"] = {"height": size[0], "width": size[1]}
    image = Image.fromarray(photos[name])
    expected, actual = theirs(image, **options), ours(image, **options)
    assert actual.shape == expected.shape
    assert actual.max() > (0.5 if do_rescale else 127)
    if do_grayscale and photos[name].ndim == 3 and not do_rescale:
        # Theirs are floats from 0 to 255, in which no network sees anything: ours stay bytes.
        assert actual.dtype == np.uint8
        np.testing.assert_allclose(actual, expected, rtol=0, atol=0.5 + 1e-4)
    elif do_grayscale and photos[name].ndim == 3:
        # The same products and sums; theirs are rounded to float32 or float64 as numpy has it: an ulp of the result.
        np.testing.assert_allclose(actual, expected, rtol=2e-7)
    else:
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("resample", [0, 1, 2, 3, 4, 5])
def test_every_filter_equals_that_of_transformers(photos, resample):
    options = dict(size={"height": 111, "width": 222}, resample=resample)
    np.testing.assert_array_equal(ours(photos["coffee"], **options), theirs(photos["coffee"], **options))


def test_the_defaults_equal_those_of_transformers(photos):
    images = [Image.fromarray(photos[name]) for name in ("coffee", "astronaut")]
    expected = SuperPointImageProcessorPil()(images, return_tensors="np")["pixel_values"]
    inputs = sp.SuperPointImageProcessor.huggingface()(images)
    np.testing.assert_array_equal(inputs["pixel_values"], np.moveaxis(expected, 1, -1))
    np.testing.assert_array_equal(inputs["image_sizes"], [[480, 640]] * 2)


def test_gray_photos_with_three_channels_are_left_alone_by_both(photos):
    gray = np.repeat(photos["camera"][..., None], 3, axis=2)
    options = dict(do_resize=False, do_grayscale=True)
    np.testing.assert_array_equal(ours(gray, **options), theirs(gray, **options))
    np.testing.assert_array_equal(ours(gray, **options), gray / np.float32(255))


def test_transformers_opens_the_folder_and_does_the_same(tmp_path, photos):
    processor = sp.SuperPointImageProcessor.huggingface(size={"height": 120, "width": 88}, do_grayscale=True)
    processor.save_pretrained(tmp_path)
    opened = AutoImageProcessor.from_pretrained(tmp_path, use_fast=False)
    expected = np.asarray(opened(photos["coffee"], return_tensors="np")["pixel_values"])
    actual = processor(photos["coffee"])["pixel_values"]
    np.testing.assert_allclose(actual, np.moveaxis(expected, 1, -1), rtol=2e-7)


def test_transformers_keeps_the_aspect_of_our_defaults(tmp_path, photos):
    """It has no "shrink"; it enlarges to the same box, and truncates where we round."""
    sp.SuperPointImageProcessor(size={"height": 150, "width": 200}).save_pretrained(tmp_path)
    opened = AutoImageProcessor.from_pretrained(tmp_path, use_fast=False)
    for name in ("astronaut", "coffee"):
        shape = opened(photos[name], return_tensors="np")["pixel_values"].shape
        size = sp.SuperPointImageProcessor(size={"height": 150, "width": 200}).target_size(*photos[name].shape[:2])
        assert np.abs(np.array(shape[2:]) - size).max() <= 1


def test_their_saved_options_are_read(tmp_path, photos):
    SuperPointImageProcessorPil(size={"height": 90, "width": 70}, do_rescale=False).save_pretrained(tmp_path)
    processor = sp.SuperPointImageProcessor.from_pretrained(tmp_path)
    assert processor == sp.SuperPointImageProcessor.huggingface(size={"height": 90, "width": 70}, do_rescale=False)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_post_processed_keypoints_equal_those_of_transformers(as_tensor):
    """500 keypoints an image, all over an array of 480x640; bit for bit."""
    rng = np.random.default_rng(0)
    height, width, count = 480, 640, 500
    keypoints = np.stack([rng.integers(0, width, (3, count)), rng.integers(0, height, (3, count))], -1)
    keypoints = keypoints.astype(np.float32)
    mask = np.arange(count) < np.array([[count], [17], [0]])
    keypoints[~mask] = 0
    scores, descriptors = rng.random((3, count), np.float32), rng.random((3, count, 4), np.float32)
    targets = [(1080, 1920), (333, 517), (480, 640)]
    expected = SuperPointImageProcessorPil().post_process_keypoint_detection(
        SimpleNamespace(
            # As their model returns them: the last line of its forward pass.
            keypoints=torch.from_numpy(keypoints) / torch.tensor([width, height]),
            scores=torch.from_numpy(scores),
            descriptors=torch.from_numpy(descriptors),
            mask=torch.from_numpy(mask).int(),
        ),
        torch.tensor(targets) if as_tensor else targets,
    )
    outputs = sp.Keypoints(
        keypoints=jnp.asarray(keypoints),
        scores=jnp.asarray(scores),
        descriptors=jnp.asarray(descriptors),
        mask=jnp.asarray(mask),
        num_detected=jnp.asarray(mask.sum(-1)),
        image_sizes=jnp.full((3, 2), jnp.array([height, width])),
    )
    actual = sp.SuperPointImageProcessor().post_process_keypoint_detection(
        outputs, np.array(targets) if as_tensor else targets, rule="huggingface"
    )
    for mine, other in zip(actual, expected, strict=True):
        assert set(mine) == set(other)
        for name in mine:
            np.testing.assert_array_equal(mine[name], other[name].numpy())
            assert mine[name].dtype == other[name].numpy().dtype


@pytest.mark.parametrize("targets", [[(4, 4)], np.ones((3, 3), np.int32)])
def test_both_refuse_the_same_target_sizes(targets):
    fields = dict(
        keypoints=np.zeros((3, 2, 2), np.float32),
        scores=np.zeros((3, 2), np.float32),
        descriptors=np.zeros((3, 2, 4), np.float32),
        mask=np.zeros((3, 2), bool),
    )
    with pytest.raises(ValueError, match="target"):
        SuperPointImageProcessorPil().post_process_keypoint_detection(
            SimpleNamespace(**{name: torch.from_numpy(array) for name, array in fields.items()}), targets
        )
    outputs = sp.Keypoints(
        **{name: jnp.asarray(array) for name, array in fields.items()},
        num_detected=jnp.zeros(3, jnp.int32),
        image_sizes=jnp.full((3, 2), 8),
    )
    with pytest.raises(ValueError, match="target_sizes"):
        sp.SuperPointImageProcessor().post_process_keypoint_detection(outputs, targets)
