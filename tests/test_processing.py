"""Files and arrays in, a padded batch out, and coordinates back."""

import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import superpoint_jax as sp
from superpoint_jax.processing import (
    ImageError,
    load_image,
    post_process_keypoint_detection,
    preprocess_on_device,
    relative_keypoints,
    rescale_keypoints,
)

COLORS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [0, 0, 0], [255, 255, 255]]], np.uint8)
GRAY = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40


def saved(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


# Files


@pytest.mark.parametrize("as_type", [str, Path, lambda path: path.open("rb")], ids=["str", "Path", "file"])
def test_rgb_and_gray_files_keep_their_bytes(tmp_path, as_type):
    color = saved(Image.fromarray(COLORS), tmp_path / "color.png")
    gray = saved(Image.fromarray(GRAY), tmp_path / "gray.png")
    for path, expected in ((color, COLORS), (gray, GRAY)):
        source = as_type(path)
        np.testing.assert_array_equal(load_image(source), expected)
        if hasattr(source, "close"):
            source.close()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(tmp_path, orientation):
    """The stored pixels are what a camera held that way would store; loading gives the scene back."""
    upright = np.arange(24 * 40, dtype=np.uint16).reshape(24, 40) % 251
    upright = upright.astype(np.uint8)
    # From the EXIF standard: which way the stored rows and columns run, seen from the scene.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(Image.fromarray(np.ascontiguousarray(stored)), tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(load_image(path), upright)


def test_sixteen_bits_are_scaled_over_their_whole_range(tmp_path):
    deep = np.array([[0, 257, 32896], [65535, 65000, 128]], np.uint16)
    expected = [[0, 1, 128], [255, 253, 0]]
    for name in ("deep.png", "deep.tiff"):
        np.testing.assert_array_equal(load_image(saved(Image.fromarray(deep), tmp_path / name)), expected)
    wide = Image.fromarray(deep.astype(np.int32))
    np.testing.assert_array_equal(load_image(saved(wide, tmp_path / "wide.tiff")), expected)


def test_float_files_hold_zero_to_one(tmp_path):
    good = saved(Image.fromarray(np.array([[0, 0.5, 1]], np.float32)), tmp_path / "good.tiff")
    np.testing.assert_array_equal(load_image(good), [[0, 128, 255]])
    bad = saved(Image.fromarray(np.array([[0, 300]], np.float32)), tmp_path / "bad.tiff")
    with pytest.raises(ImageError, match="from 0 to 300"):
        load_image(bad)


def test_palettes_one_bit_and_cmyk_become_rgb_or_gray(tmp_path):
    palette = Image.fromarray(COLORS).quantize(6)
    np.testing.assert_array_equal(load_image(saved(palette, tmp_path / "palette.png")), COLORS)
    bits = Image.fromarray(np.array([[True, False, True]]))
    np.testing.assert_array_equal(load_image(saved(bits, tmp_path / "bits.png")), [[255, 0, 255]])
    cmyk = Image.new("CMYK", (3, 2), (0, 255, 255, 0))
    np.testing.assert_array_equal(load_image(saved(cmyk, tmp_path / "cmyk.tiff")), np.full((2, 3, 3), (255, 0, 0)))


def test_transparency_is_composited_on_white(tmp_path):
    clear, half = (0, 0, 0, 0), (0, 0, 0, 128)
    rgba = np.array([[clear, half, (9, 8, 7, 255)]], np.uint8)
    expected = [[[255] * 3, [127] * 3, [9, 8, 7]]]
    np.testing.assert_array_equal(load_image(saved(Image.fromarray(rgba), tmp_path / "rgba.png")), expected)
    gray_alpha = Image.fromarray(rgba).convert("LA")
    np.testing.assert_array_equal(load_image(saved(gray_alpha, tmp_path / "la.png")), [[255, 127, 8]])
    palette = Image.fromarray(COLORS).quantize(6)
    red = palette.getpixel((0, 0))
    loaded = load_image(saved(palette, tmp_path / "palette.png", transparency=red))
    np.testing.assert_array_equal(loaded[0, :2], [[255, 255, 255], [0, 255, 0]])


def test_an_animation_gives_its_first_image(tmp_path):
    frames = [Image.new("RGB", (4, 3), color) for color in ("red", "blue", "lime")]
    path = saved(frames[0], tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(load_image(path), np.full((3, 4, 3), (255, 0, 0)))


def test_huge_images_load_and_the_limit_is_configurable(tmp_path):
    """95 million pixels: above Pillow's limit, which warns (and warnings are errors here)."""
    path = saved(Image.new("1", (10_000, 9_500)), tmp_path / "huge.png")
    limit = Image.MAX_IMAGE_PIXELS
    assert load_image(path).shape == (9_500, 10_000)
    assert limit == Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match=r"10000x9500 is 95 million pixels, above the limit of 50 million"):
        load_image(path, max_pixels=50_000_000)
    with pytest.raises(ImageError, match="limit"):
        sp.SuperPointImageProcessor()(path, max_pixels=50_000_000)


def test_what_is_no_image_is_one_line_that_names_the_file(tmp_path):
    good = saved(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), tmp_path / "a.png")
    jpeg = saved(Image.open(good), tmp_path / "a.jpg")
    cases = {"no such file": tmp_path / "missing.png", "directory": tmp_path}
    for reason, name, content in (
        ("empty", "empty.png", b""),
        ("not an image", "text.png", b"Dear reader,\nthis is no image.\n" * 9),
        ("truncated", "cut.png", good.read_bytes()[:3000]),
        ("truncated", "cut.jpg", jpeg.read_bytes()[:1000]),
        ("Truncated File Read", "header.png", good.read_bytes()[:20]),
    ):
        (tmp_path / name).write_bytes(content)
        cases[f"{reason}{name}"] = tmp_path / name
        with pytest.raises(ImageError, match=reason):
            load_image(tmp_path / name)
    for path in cases.values():
        with pytest.raises(ImageError) as caught:
            load_image(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert issubclass(ImageError, ValueError)
    with pytest.raises(ImageError, match="not an image"):
        load_image(io.BytesIO(b"nothing"))


@given(st.binary(max_size=200), st.integers(0, 600))
def test_damaged_bytes_give_an_image_or_an_image_error(noise, at):
    buffer = io.BytesIO()
    Image.fromarray(np.tile(COLORS, (20, 9, 1))).save(buffer, "png")
    content = bytearray(buffer.getvalue())
    content[at : at + len(noise)] = noise
    try:
        pixels = load_image(io.BytesIO(bytes(content)))
    except ImageError:
        return
    assert pixels.dtype == np.uint8


def test_damaged_exif_leaves_the_pixels_readable(tmp_path):
    image = Image.fromarray(GRAY)
    path = saved(image, tmp_path / "exif.png", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f garbage")
    np.testing.assert_array_equal(load_image(path), GRAY)


# The processor's batches


def test_our_defaults_keep_size_and_pad_to_multiples_of_eight(photos):
    inputs = sp.SuperPointImageProcessor()([photos["astronaut"], photos["coins"]])
    assert inputs["pixel_values"].shape == (2, 304, 384, 1)
    assert inputs["pixel_values"].dtype == jnp.float32
    np.testing.assert_array_equal(inputs["image_sizes"], [[255, 196], [303, 384]])
    assert inputs["image_sizes"].dtype == jnp.int32
    gray = np.asarray(Image.fromarray(photos["astronaut"]).convert("L"))
    np.testing.assert_array_equal(inputs["pixel_values"][0, :255, :196, 0], gray / np.float32(255))
    np.testing.assert_array_equal(inputs["pixel_values"][0, 255:, 195, 0], inputs["pixel_values"][0, 254, 195, 0])
    np.testing.assert_array_equal(inputs["pixel_values"][1, :303, :, 0], photos["coins"] / np.float32(255))


@pytest.mark.parametrize(
    ("mode", "before", "after"),
    [
        ("shrink", (100, 50), (100, 50)),
        ("shrink", (480, 320), (240, 160)),
        ("shrink", (240, 960), (80, 320)),
        ("shrink", (8, 4096), (8, 320)),
        ("shrink", (5, 4096), (5, 320)),
        ("fit", (60, 50), (240, 200)),
        ("fit", (480, 320), (240, 160)),
        ("exact", (60, 50), (240, 320)),
    ],
)
def test_resize_modes(mode, before, after):
    processor = sp.SuperPointImageProcessor(size={"height": 240, "width": 320}, resize_mode=mode)
    assert processor.target_size(*before) == after
    inputs = processor(np.zeros(before, np.uint8))
    np.testing.assert_array_equal(inputs["image_sizes"], [after])
    assert inputs["pixel_values"].shape[1:3] == tuple(-(-side // 8) * 8 for side in after)


def test_the_same_image_in_every_form_gives_the_same_batch(tmp_path, photos):
    photo = photos["coffee"]
    path = saved(Image.fromarray(photo), tmp_path / "photo.png")
    processor = sp.SuperPointImageProcessor(size={"height": 128, "width": 128})
    expected = processor(photo)
    deep = photo.astype(np.uint16) * 257
    opaque = np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)])
    for form in (path, str(path), Image.fromarray(photo), [photo], photo[None], jnp.asarray(photo), deep, opaque):
        inputs = processor(form)
        np.testing.assert_array_equal(inputs["pixel_values"], expected["pixel_values"])
        np.testing.assert_array_equal(inputs["image_sizes"], expected["image_sizes"])
    with path.open("rb") as file:
        np.testing.assert_array_equal(processor(file)["pixel_values"], expected["pixel_values"])
    # Pillow rounds uint8 in both passes of its filter and floats in none: one gray level.
    floats = processor((photo / 255).astype(np.float32))
    np.testing.assert_allclose(floats["pixel_values"], expected["pixel_values"], atol=1 / 255)


def test_pillow_images_are_taken_as_they_stand_and_files_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(Image.fromarray(np.zeros((16, 24), np.uint8)), tmp_path / "turned.png", exif=exif)
    processor = sp.SuperPointImageProcessor()
    np.testing.assert_array_equal(processor(path)["image_sizes"], [[24, 16]])
    with Image.open(path) as image:
        np.testing.assert_array_equal(processor(image)["image_sizes"], [[image.height, image.width]])


def test_gray_and_color_in_one_batch_have_three_channels(photos):
    inputs = sp.SuperPointImageProcessor(do_grayscale=False)([photos["camera"], photos["coffee"]])
    assert inputs["pixel_values"].shape == (2, 240, 320, 3)
    for channel in range(3):
        np.testing.assert_array_equal(inputs["pixel_values"][0, ..., channel], photos["camera"] / np.float32(255))


def test_without_rescaling_bytes_stay_bytes(photos, model):
    processor = sp.SuperPointImageProcessor(do_grayscale=False)
    raw, scaled = (processor(photos["rocket"], do_rescale=flag) for flag in (False, True))
    assert raw["pixel_values"].dtype == jnp.uint8
    np.testing.assert_array_equal(raw["pixel_values"][0, :213], photos["rocket"])
    gray = processor(photos["rocket"], do_rescale=False, do_grayscale=True)["pixel_values"]
    assert gray.dtype == jnp.uint8
    np.testing.assert_array_equal(gray[0, :213, :, 0], np.asarray(Image.fromarray(photos["rocket"]).convert("L")))
    assert scaled["pixel_values"].dtype == jnp.float32
    # The luma of bytes is the same bytes, whether the host makes it or the device.
    ours, theirs = (model(values).logits for values in (raw["pixel_values"], gray))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    with pytest.raises(ValueError, match="leave do_rescale on"):
        processor([np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.float32)], do_rescale=False)


def test_numpy_arrays_on_request(photos):
    inputs = sp.SuperPointImageProcessor()(photos["camera"], return_tensors="np")
    assert type(inputs["pixel_values"]) is np.ndarray
    assert type(inputs["image_sizes"]) is np.ndarray
    assert isinstance(sp.SuperPointImageProcessor()(photos["camera"])["pixel_values"], jax.Array)


@pytest.mark.slow
def test_extraction_from_a_padded_batch_equals_that_of_each_image(photos, model):
    """The processor's two arrays are what `extract` takes."""
    processor = sp.SuperPointImageProcessor(size={"height": 160, "width": 160})
    names = ("astronaut", "coins")
    together = processor([photos[name] for name in names])
    batch = sp.extract(model, together["pixel_values"], image_sizes=together["image_sizes"], max_keypoints=50)
    for i, name in enumerate(names):
        alone = processor(photos[name])
        single = sp.extract(model, alone["pixel_values"], image_sizes=alone["image_sizes"], max_keypoints=50)
        assert single.mask.sum() > 10
        np.testing.assert_array_equal(batch.mask[i], single.mask[0])
        np.testing.assert_allclose(batch.keypoints[i], single.keypoints[0], atol=1e-3)
        np.testing.assert_allclose(batch.scores[i], single.scores[0], atol=1e-5)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 20, 30), np.uint8), "move the channels last"),
        (np.zeros((20, 30, 2), np.uint8), r"\[H,W,3\]"),
        (np.zeros(20, np.uint8), r"\[H,W\]"),
        (np.zeros((0, 20), np.uint8), "shape"),
        (np.zeros((20, 30), np.int64), "int64"),
        (np.full((20, 30), 255.0), "divide by 255"),
        (np.full((20, 30), np.nan, np.float32), "nan"),
        ([], "no image"),
        ("nowhere.png", "no such file"),
    ],
)
def test_what_is_no_image_array_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        sp.SuperPointImageProcessor()(image)


def test_options_that_are_wrong_are_refused():
    processor = sp.SuperPointImageProcessor()
    with pytest.raises(TypeError, match=r"unknown option sise; the options are do_resize"):
        processor(np.zeros((8, 8), np.uint8), sise=3)
    with pytest.raises(ValueError, match="return_tensors='pt'"):
        processor(np.zeros((8, 8), np.uint8), return_tensors="pt")
    for options in ({"size": {"shortest_edge": 5}}, {"size": {"height": 0, "width": 5}}, {"pad_multiple": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            sp.SuperPointImageProcessor(**options)
    with pytest.raises(ValueError, match="resample"):
        sp.SuperPointImageProcessor(resample=9)


def test_a_batch_feature_is_a_dictionary_with_attributes_and_a_pytree():
    inputs = sp.SuperPointImageProcessor()(np.zeros((8, 16), np.uint8))
    assert set(inputs) == {"pixel_values", "image_sizes"}
    assert inputs.pixel_values is inputs["pixel_values"]
    with pytest.raises(AttributeError, match="pixel_values"):
        _ = inputs.input_ids
    doubled = jax.jit(lambda batch: jax.tree.map(lambda leaf: 2 * leaf, batch))(inputs)
    np.testing.assert_array_equal(doubled.image_sizes, [[16, 32]])
    moved = inputs.to(jax.devices()[3])
    assert moved.pixel_values.devices() == {jax.devices()[3]}


# Files of options


def test_saved_options_are_read_back(tmp_path):
    for processor in (
        sp.SuperPointImageProcessor(),
        sp.SuperPointImageProcessor.huggingface(),
        sp.SuperPointImageProcessor(size={"height": 300, "width": 200}, resize_mode="fit", resample=3, pad_multiple=64),
    ):
        processor.save_pretrained(tmp_path / "folder")
        assert sp.SuperPointImageProcessor.from_pretrained(tmp_path / "folder") == processor
    changed = sp.SuperPointImageProcessor.from_pretrained(str(tmp_path / "folder"), pad_multiple=32)
    assert (changed.pad_multiple, changed.resample) == (32, 3)


def test_a_file_of_hugging_face_means_their_defaults(tmp_path):
    file = tmp_path / "preprocessor_config.json"
    file.write_text('{"do_resize": true, "size": {"height": 240, "width": 320}, "image_processor_type": "X"}')
    expected = sp.SuperPointImageProcessor.huggingface(size={"height": 240, "width": 320})
    (tmp_path / "model.safetensors").touch()
    for source in (tmp_path, file, tmp_path / "model.safetensors"):
        assert sp.SuperPointImageProcessor.from_pretrained(source) == expected
    file.write_text(json.dumps({"size": {"max_height": 100, "max_width": 200}}))
    processor = sp.SuperPointImageProcessor.from_pretrained(tmp_path)
    assert (processor.resize_mode, processor.target_size(50, 50)) == ("fit", (100, 100))


def test_without_a_source_or_a_file_of_options_our_defaults_hold(tmp_path):
    (tmp_path / "superpoint_v1.pth").touch()
    for source in (None, tmp_path / "superpoint_v1.pth"):
        assert sp.SuperPointImageProcessor.from_pretrained(source) == sp.SuperPointImageProcessor()


def test_sources_without_options_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no preprocessor_config\.json"):
        sp.SuperPointImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        sp.SuperPointImageProcessor.from_pretrained(tmp_path / "a" / "b")
    for text, message in (("{", "not JSON"), ("[]", "list"), ('{"do_normalize": true}', "do_normalize")):
        (tmp_path / "preprocessor_config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            sp.SuperPointImageProcessor.from_pretrained(tmp_path)


def test_an_id_of_the_hub_is_looked_up_there(tmp_path, monkeypatch):
    """The download itself is tested in test_hub.py."""
    (tmp_path / "preprocessor_config.json").write_text('{"do_grayscale": true}')
    files = {("owner/name", "preprocessor_config.json", "v2"): tmp_path / "preprocessor_config.json"}
    monkeypatch.setattr(
        "superpoint_jax.processing.options_file.fetch_file",
        lambda repository, name, revision=None: files.get((repository, name, revision)),
    )
    processor = sp.SuperPointImageProcessor.from_pretrained("owner/name", revision="v2")
    assert processor == sp.SuperPointImageProcessor.huggingface(do_grayscale=True)
    with pytest.raises(FileNotFoundError, match=r"owner/other has no preprocessor_config\.json"):
        sp.SuperPointImageProcessor.from_pretrained("owner/other")


# On the device


@pytest.mark.parametrize("name", ["coffee", "astronaut", "camera", "page", "motorcycle"])
@pytest.mark.parametrize("size", [(120, 160), (97, 203), (400, 530), (320, 130)])
def test_the_device_is_within_one_gray_level_of_pillow(photos, name, size):
    photo = photos[name]
    expected = np.asarray(Image.fromarray(photo).resize(size[::-1], Image.Resampling.BILINEAR), np.float32)
    images = jnp.asarray(photo if photo.ndim == 3 else photo[..., None])[None]
    resized = preprocess_on_device(images, size=size, do_grayscale=False)
    assert resized.dtype == jnp.float32
    levels = np.round(np.squeeze(np.asarray(resized)) * 255)
    assert np.abs(levels - expected).max() <= 1
    # Most are the same. Those that are not were a tie, which Pillow rounds up, in both of its passes.
    assert np.mean(levels == expected) > 0.8


def test_the_device_agrees_with_the_processor(photos):
    size = {"height": 120, "width": 160}
    host = sp.SuperPointImageProcessor(size=size, resize_mode="exact")(photos["coffee"])["pixel_values"]
    device = preprocess_on_device(jnp.asarray(photos["coffee"])[None], size=(120, 160))
    np.testing.assert_allclose(device, host, atol=1 / 255)
    floats = preprocess_on_device(jnp.asarray(photos["coffee"], jnp.float32)[None] / 255, size=(120, 160))
    # Floats are not rounded to bytes when they are made gray.
    np.testing.assert_allclose(floats, device, atol=0.5 / 255 + 1e-6)


def test_shrinking_without_antialiasing_is_further_from_pillow(photos):
    """A control: the test above can fail."""
    size = (50, 66)
    expected = np.asarray(Image.fromarray(photos["camera"]).resize(size[::-1], Image.Resampling.BILINEAR))
    images = jnp.asarray(photos["camera"])[None, ..., None]
    aliased = preprocess_on_device(images, size=size, antialias=False)
    assert np.abs(np.asarray(aliased)[0, ..., 0] * 255 - expected).max() > 10


def test_the_device_function_composes_under_jit_vmap_and_grad(images):
    def total(batch):
        return preprocess_on_device(batch, size=(40, 56)).sum()

    np.testing.assert_allclose(jax.jit(total)(images), total(images), rtol=1e-6)
    gradient = jax.grad(total)(images)
    # Every pixel's weight, summed: each of the 2 * 40 * 56 results is an average.
    np.testing.assert_allclose(gradient.sum(), 2 * 40 * 56, rtol=1e-5)
    mapped = jax.vmap(lambda image: preprocess_on_device(image[None], size=(40, 56))[0])(images)
    np.testing.assert_allclose(mapped, preprocess_on_device(images, size=(40, 56)), atol=1e-6)
    np.testing.assert_array_equal(preprocess_on_device(images), images)


# Coordinates


def test_rescaling_by_hand():
    corners = np.array([[-0.5, -0.5], [639.5, 479.5], [319.5, 239.5], [0, 0]], np.float32)
    expected = [[-0.5, -0.5], [159.5, 239.5], [79.5, 119.5], [-0.375, -0.25]]
    np.testing.assert_array_equal(rescale_keypoints(corners, (480, 640), (240, 160)), expected)


def test_rescaling_follows_a_blob_through_pillow():
    """Independent of the formula: the centre of mass of a resized blob."""
    y, x = np.mgrid[:96, :128]
    center = np.array([70.0, 41.0])
    blob = np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / 60).astype(np.float32)
    for size in ((48, 64), (150, 200), (60, 170)):
        resized = np.asarray(Image.fromarray(blob).resize(size[::-1], Image.Resampling.BILINEAR))
        rows, columns = np.mgrid[: size[0], : size[1]]
        mass = np.array([(columns * resized).sum(), (rows * resized).sum()]) / resized.sum()
        # A tent filter moves no centre of mass, but for sampling the blob coarsely.
        np.testing.assert_allclose(rescale_keypoints(center[None], (96, 128), size)[0], mass, atol=0.01)


sizes = st.tuples(st.integers(8, 4000), st.integers(8, 4000))


@given(sizes, sizes)
def test_rescaling_back_is_the_inverse(from_size, to_size):
    keypoints = np.random.default_rng(0).uniform(0, 8, (2, 5, 2))
    there = rescale_keypoints(keypoints, from_size, to_size)
    np.testing.assert_allclose(rescale_keypoints(there, to_size, from_size), keypoints, atol=1e-9)


def test_rescaling_takes_a_size_for_each_image_and_jits():
    keypoints = jnp.arange(12, dtype=jnp.float32).reshape(2, 3, 2)
    from_sizes, to_sizes = jnp.array([[48, 64], [100, 50]]), jnp.array([[24, 128], [300, 25]])
    batched = jax.jit(rescale_keypoints)(keypoints, from_sizes, to_sizes)
    assert isinstance(batched, jax.Array)
    for i in range(2):
        single = rescale_keypoints(np.asarray(keypoints[i]), tuple(from_sizes[i]), tuple(to_sizes[i]))
        assert type(single) is np.ndarray
        assert single.dtype == np.float32
        np.testing.assert_allclose(batched[i], single, rtol=1e-6)
    np.testing.assert_array_equal(relative_keypoints(np.array([[32.0, 12.0]]), (48, 64)), [[0.5, 0.25]])


def hand_made() -> sp.Keypoints:
    """Two images, 3 and 0 keypoints, of arrays 48x64 and 40x56."""
    return sp.Keypoints(
        keypoints=jnp.array([[[10.0, 20.0], [63.0, 47.0], [0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0]] * 4]),
        scores=jnp.array([[0.9, 0.5, 0.1, 0.0], [0.0] * 4]),
        descriptors=jnp.ones((2, 4, 6)),
        mask=jnp.array([[True, True, True, False], [False] * 4]),
        num_detected=jnp.array([3, 0]),
        image_sizes=jnp.array([[48, 64], [40, 56]]),
    )


def test_post_processing_by_hand():
    targets = [(96, 160), (400, 560)]
    exact = post_process_keypoint_detection(hand_made(), targets)
    np.testing.assert_array_equal(exact[0]["keypoints"], [[25.75, 40.5], [158.25, 94.5], [0.75, 0.5]])
    theirs = sp.SuperPointImageProcessor().post_process_keypoint_detection(hand_made(), targets, rule="huggingface")
    np.testing.assert_array_equal(theirs[0]["keypoints"], [[25, 40], [157, 94], [0, 0]])
    assert theirs[0]["keypoints"].dtype == np.int32
    for results in (exact, theirs):
        np.testing.assert_array_equal(results[0]["scores"], np.array([0.9, 0.5, 0.1], np.float32))
        assert [result["keypoints"].shape for result in results] == [(3, 2), (0, 2)]
        assert [result["descriptors"].shape for result in results] == [(3, 6), (0, 6)]
        assert set(results[0]) == {"keypoints", "scores", "descriptors"}
    arrays = post_process_keypoint_detection(hand_made(), np.array(targets))
    np.testing.assert_array_equal(arrays[0]["keypoints"], exact[0]["keypoints"])


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([(4, 4)], "1 entries; 2 are needed"),
        ([(4, 4, 3), (4, 4, 3)], "height, width"),
        ([(4, 4), (4,)], "height, width"),
        (np.ones((2, 3)), r"shape \(2, 3\)"),
    ],
)
def test_post_processing_refuses_other_target_sizes(targets, message):
    with pytest.raises(ValueError, match=message):
        post_process_keypoint_detection(hand_made(), targets)
    with pytest.raises(ValueError, match="choose 'exact'"):
        post_process_keypoint_detection(hand_made(), [(4, 4)] * 2, rule="other")


def test_post_processing_undoes_the_resize(photos):
    """The centre of the image stays its centre, whatever happened in between."""
    processor = sp.SuperPointImageProcessor(size={"height": 100, "width": 160})
    inputs = processor(photos["chelsea"])
    size = inputs["image_sizes"][0]
    center = (size[::-1].astype(jnp.float32) - 1) / 2
    outputs = sp.Keypoints(
        keypoints=center[None, None],
        scores=jnp.ones((1, 1)),
        descriptors=jnp.ones((1, 1, 1)),
        mask=jnp.ones((1, 1), bool),
        num_detected=jnp.ones(1, jnp.int32),
        image_sizes=inputs["image_sizes"],
    )
    (result,) = processor.post_process_keypoint_detection(outputs, [photos["chelsea"].shape[:2]])
    np.testing.assert_allclose(result["keypoints"], [[225.0, 149.5]], atol=1e-4)
