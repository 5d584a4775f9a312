"""The Hugging Face door without torch: what comes out in which layout, under jit, and what is refused.

Against transformers itself: tests/parity/test_transformers_suite.py. The page's snippets: docs/from_huggingface.md.
"""

import copy
import pickle
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import superpoint_jax as sp
import superpoint_jax.huggingface as hf
from superpoint_jax.huggingface.options import target_size
from tests.conftest import SMALL


@pytest.fixture(scope="module")
def folder(tmp_path_factory, random_model) -> Path:
    """A small network and the options of a processor, saved as transformers saves them."""
    folder = tmp_path_factory.mktemp("folder")
    sp.save_pretrained(random_model(0, border_rule="top_left", channel_rule="first"), folder)
    hf.SuperPointImageProcessor(size={"height": 72, "width": 104}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def facade(folder) -> hf.SuperPointForKeypointDetection:
    return hf.SuperPointForKeypointDetection.from_pretrained(folder)


@pytest.fixture(scope="module")
def pixels(folder, photos) -> jax.Array:
    """Two photos as the processor has them, [2,3,72,104]."""
    images = [Image.fromarray(photos[name]) for name in ("astronaut", "coffee")]
    return hf.AutoImageProcessor.from_pretrained(folder)(images).pixel_values


@pytest.fixture(scope="module")
def outputs(facade, pixels) -> hf.SuperPointKeypointDescriptionOutput:
    return facade(pixels)


def test_the_shelf_has_the_same_model():
    assert sp.SuperPointForKeypointDetection is hf.SuperPointForKeypointDetection


def test_rows_are_as_many_as_the_fullest_image_has(outputs):
    counts = np.asarray(outputs.mask).sum(axis=1)
    assert counts.min() > 10
    assert outputs.keypoints.shape == (2, counts.max(), 2)
    assert outputs.descriptors.shape == (2, counts.max(), SMALL["descriptor_decoder_dim"])
    assert outputs.mask.dtype == jnp.int32
    padding = np.asarray(outputs.mask) == 0
    for values in outputs.to_tuple()[:3]:
        assert not np.asarray(values)[padding].any()


def test_keypoints_are_those_of_extract_relative_to_the_image(facade, pixels, outputs):
    found = sp.extract(facade.model, jnp.moveaxis(pixels, 1, -1), keypoint_threshold=facade.config.keypoint_threshold)
    for i, entry in enumerate(found.to_list()):
        kept = np.asarray(outputs.mask[i]) == 1
        raster = np.lexsort(entry["keypoints"].T)
        np.testing.assert_allclose(
            np.asarray(outputs.keypoints[i])[kept] * [104, 72], entry["keypoints"][raster], atol=1e-4
        )
        np.testing.assert_array_equal(outputs.scores[i][kept], entry["scores"][raster])
        np.testing.assert_array_equal(outputs.descriptors[i][kept], entry["descriptors"][raster])


def test_rows_are_in_raster_order_but_by_score_where_some_were_cut(facade, pixels, outputs):
    for i in range(2):
        kept = np.asarray(outputs.keypoints[i])[np.asarray(outputs.mask[i]) == 1]
        np.testing.assert_array_equal(kept, kept[np.lexsort(kept.T)])
    cut = facade(pixels, max_keypoints=7)
    assert cut.scores.shape == (2, 7)
    np.testing.assert_array_equal(cut.scores, -np.sort(-np.asarray(outputs.scores), axis=1)[:, :7])


def test_a_batch_without_keypoints_has_no_rows(facade, pixels):
    nothing = facade(pixels, keypoint_threshold=0.999)
    assert [values.shape[1] for values in nothing.to_tuple()] == [0, 0, 0, 0]
    processed = hf.SuperPointImageProcessor().post_process_keypoint_detection(nothing, [(10, 20)] * 2)
    assert processed[1]["keypoints"].shape == (0, 2)


def test_an_output_is_attributes_keys_and_a_tuple(outputs):
    assert list(outputs) == ["keypoints", "scores", "descriptors", "mask"]
    for i, name in enumerate(outputs):
        assert outputs[i] is outputs[name] is getattr(outputs, name) is outputs.to_tuple()[i]
    assert len(outputs) == len(outputs[:]) == 4
    assert outputs.loss is None
    assert outputs.hidden_states is None
    with pytest.raises(KeyError):
        outputs["loss"]
    with pytest.raises(AttributeError, match="no entry 'boxes'"):
        _ = outputs.boxes
    with pytest.raises(TypeError, match="keeps its entries"):
        outputs.pop("scores")
    with pytest.raises(AttributeError, match="the entries are loss"):
        outputs.boxes = 1


def test_an_output_is_a_pytree_and_can_be_pickled(outputs):
    doubled = jax.tree.map(lambda values: 2 * values, outputs)
    np.testing.assert_array_equal(doubled.scores, 2 * outputs.scores)
    again = pickle.loads(pickle.dumps(outputs))
    np.testing.assert_array_equal(again.scores, outputs.scores)
    np.testing.assert_array_equal(again.image_sizes, [[72, 104]] * 2)


def test_return_dict_false_is_a_tuple(facade, pixels, outputs):
    plain = facade(pixels, return_dict=False)
    assert type(plain) is tuple
    for mine, other in zip(plain, outputs.to_tuple(), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert len(facade(pixels, None, True, False)) == 5


def test_hidden_states_are_channels_first_and_asked_for_by_call_or_configuration(folder, pixels):
    facade = hf.SuperPointForKeypointDetection.from_pretrained(folder, output_hidden_states=True)
    shapes = [block.shape for block in facade(pixels).hidden_states]
    assert shapes == [(2, 8, 36, 52), (2, 8, 18, 26), (2, 16, 9, 13), (2, 16, 9, 13)]
    assert facade(pixels, output_hidden_states=False).hidden_states is None


def test_channels_last_bytes_and_one_channel_are_the_same_images(facade, pixels, outputs):
    in_bytes = np.round(np.asarray(pixels) * 255).astype(np.uint8)
    for same in (jnp.moveaxis(pixels, 1, -1), np.asarray(pixels), pixels[:, :1], in_bytes, np.float64(pixels)):
        np.testing.assert_allclose(facade(same).keypoints, outputs.keypoints)


def test_inside_jit_the_number_of_rows_is_fixed(facade, pixels, outputs):
    as_argument = jax.jit(lambda facade, pixels: facade(pixels))(facade, pixels)
    closed_over = jax.jit(lambda pixels: facade(pixels, max_keypoints=40))(pixels)
    assert closed_over.keypoints.shape == (2, 40, 2)
    rows = outputs.mask.shape[1]
    assert as_argument.mask.shape[1] > rows
    assert not np.asarray(as_argument.mask[:, rows:]).any()
    for name in outputs:
        np.testing.assert_allclose(as_argument[name][:, :rows], outputs[name], rtol=1e-5, atol=1e-6)


def test_a_gradient_flows_through_the_scores(facade, pixels):
    gradient = jax.grad(lambda pixels: facade(pixels, max_keypoints=5).scores.sum())(pixels)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_options_are_read_at_every_call_but_for_those_that_the_weights_fix(folder, pixels):
    facade = hf.SuperPointForKeypointDetection.from_pretrained(folder, max_keypoints=7)
    assert facade(pixels).keypoints.shape[1] == 7
    facade.config.max_keypoints = 5
    assert facade(pixels).keypoints.shape[1] == 5
    with pytest.raises(TypeError, match="unknown option nms"):
        facade(pixels, nms=3)
    facade.config.descriptor_decoder_dim = 32
    with pytest.raises(ValueError, match="descriptor_decoder_dim=32 can't be set here"):
        facade(pixels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(labels=np.zeros(3)), "labels are not taken"),
        (dict(pixel_values=np.zeros((2, 7, 72, 104), np.float32)), r"\[B,3,H,W\] is needed"),
        (dict(pixel_values=[np.zeros((3, 72, 104))]), "pixel_values is a list"),
        (dict(pixel_values=np.full((1, 3, 72, 104), 255.0, np.float32)), "values from 255 to 255"),
        (dict(pixel_values=jnp.full((1, 3, 72, 104), 255.0)), "values from 255 to 255"),
        (dict(pixel_values=np.zeros((1, 3, 5, 104), np.float32)), "height 5"),
    ],
)
def test_what_the_model_refuses(facade, pixels, change, message):
    with pytest.raises(ValueError, match=message):
        facade(**{"pixel_values": pixels, **change})


def test_a_padded_batch_of_the_librarys_own_processor(facade, photos):
    processor = sp.SuperPointImageProcessor(size={"height": 96, "width": 96})
    images = [photos["astronaut"], photos["coffee"]]
    inputs = processor(images)
    outputs = facade(**inputs)
    sizes = [photo.shape[:2] for photo in images]
    found = sp.extract(facade.model, inputs.pixel_values, image_sizes=inputs.image_sizes)
    exact = processor.post_process_keypoint_detection(outputs, sizes)
    for mine, other in zip(exact, processor.post_process_keypoint_detection(found, sizes), strict=True):
        raster = np.lexsort(other["keypoints"].T)
        np.testing.assert_allclose(mine["keypoints"], other["keypoints"][raster], atol=1e-3)
    by_hand = hf.SuperPointKeypointDescriptionOutput(**outputs)
    with pytest.raises(ValueError, match="size of the images is not known"):
        processor.post_process_keypoint_detection(by_hand, sizes)


def test_devices_and_types(folder, pixels):
    facade = hf.SuperPointForKeypointDetection.from_pretrained(folder, device_map="cpu:1", dtype=jnp.bfloat16)
    assert facade.device == jax.devices("cpu")[1]
    assert facade.dtype == np.float32
    assert facade.config.to_superpoint_jax().dtype == "bfloat16"
    assert facade(pixels).keypoints.devices() == {facade.device}
    assert facade.to("cpu").to(dtype="float32").device == jax.devices("cpu")[0]
    assert facade.to(jnp.float16).config.to_superpoint_jax().dtype == "float16"
    assert facade.eval() is facade.train(False) is facade
    with pytest.raises(ValueError, match=r"jax has no device 'cuda:0' here; .* install the jax"):
        facade.to("cuda:0")
    with pytest.raises(ValueError, match="jax has no device 'cuda:0'"):
        hf.SuperPointForKeypointDetection.from_pretrained(folder, device_map="cuda:0")
    with pytest.raises(ValueError, match=r"superpoint_jax\.training"):
        facade.train()
    with pytest.raises(ValueError, match="dtype='int8' is not known"):
        facade.to(dtype=jnp.int8)


def test_what_is_set_is_saved_and_the_processor_beside_stays(folder, tmp_path):
    facade = hf.AutoModel.from_pretrained(folder, nms_radius=2)
    facade.config.note = "kept"
    facade.config.keypoint_threshold = 0.25
    hf.SuperPointImageProcessorPil(do_grayscale=True).save_pretrained(tmp_path)
    facade.save_pretrained(tmp_path)
    again = hf.SuperPointForKeypointDetection.from_pretrained(tmp_path)
    assert (again.config.nms_radius, again.config.note, again.config.keypoint_threshold) == (2, "kept", 0.25)
    assert hf.AutoImageProcessor.from_pretrained(tmp_path).do_grayscale is True
    for mine, other in zip(facade.state_dict().values(), again.state_dict().values(), strict=True):
        np.testing.assert_array_equal(mine, other)
    facade.save_pretrained(tmp_path / "alone")
    assert hf.AutoImageProcessor.from_pretrained(tmp_path / "alone").size == {"height": 72, "width": 104}


def test_a_configuration_stands_in_for_the_stored_one(folder, pixels, tmp_path):
    config = hf.SuperPointConfig.from_pretrained(folder, max_keypoints=3, return_dict=False)
    assert hf.SuperPointForKeypointDetection.from_pretrained(folder, config=config)(pixels)[0].shape == (2, 3, 2)
    config.save_pretrained(tmp_path)
    assert hf.SuperPointForKeypointDetection.from_pretrained(folder, config=tmp_path).config.max_keypoints == 3


def test_a_configuration_can_be_copied_and_compared():
    config = hf.SuperPointConfig(nms_radius=3, note={"a": 1})
    for again in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), hf.SuperPointConfig(**config.to_dict())):
        assert again == config
    again.update({"nms_radius": 2})
    assert again != config


def test_a_configuration_says_what_is_wrong():
    with pytest.raises(ValueError, match="keypoint_decoder_dim=64 must be 65"):
        hf.SuperPointConfig(keypoint_decoder_dim=64)
    with pytest.raises(AttributeError, match="no option 'radius'"):
        _ = hf.SuperPointConfig().radius


def test_a_number_of_parameters_is_that_of_the_published_network():
    assert hf.AutoModelForKeypointDetection.from_config(hf.SuperPointConfig()).num_parameters() == 1_300_865


# Processors


def test_gray_without_rescaling_is_refused_or_found_and_never_silent(facade, photos):
    options = dict(size={"height": 72, "width": 104}, do_grayscale=True)
    expected = facade(**hf.SuperPointImageProcessor(**options)(photos["coffee"])).mask.sum()
    in_bytes = hf.SuperPointImageProcessor(**options)(photos["coffee"], do_rescale=False)
    assert facade(**in_bytes).mask.sum() == expected > 10
    in_floats = hf.SuperPointImageProcessorPil(**options)(photos["coffee"], do_rescale=False)
    with pytest.raises(ValueError, match="leave do_rescale on"):
        facade(**in_floats)


@pytest.mark.parametrize("cls", [hf.SuperPointImageProcessor, hf.SuperPointImageProcessorPil])
def test_pairs_lists_and_batches_are_lists(cls, photos):
    processor = cls(size={"height": 24, "width": 32})
    a, b = photos["coffee"], photos["astronaut"]
    flat = processor([a, b, b, a], return_tensors="np").pixel_values
    np.testing.assert_array_equal(processor([[a, b], [b, a]], return_tensors="np").pixel_values, flat)
    np.testing.assert_array_equal(processor(np.stack([a, a]), return_tensors="np").pixel_values, flat[[0, 0]])
    np.testing.assert_array_equal(processor(jnp.asarray(a)).pixel_values, flat[:1])
    np.testing.assert_array_equal(processor(Image.fromarray(a)).pixel_values, flat[:1])


@pytest.mark.parametrize("cls", [hf.SuperPointImageProcessor, hf.SuperPointImageProcessorPil])
def test_layouts_in_and_out(cls, photos, tmp_path):
    processor = cls(size={"height": 24, "width": 32})
    expected = processor(photos["coffee"]).pixel_values
    first = np.moveaxis(photos["coffee"], -1, 0)
    np.testing.assert_array_equal(processor(first).pixel_values, expected)
    np.testing.assert_array_equal(processor(first, input_data_format="channels_first").pixel_values, expected)
    last = processor(photos["coffee"], data_format="channels_last").pixel_values
    np.testing.assert_array_equal(last, np.moveaxis(expected, 1, -1))
    Image.fromarray(photos["coffee"]).save(tmp_path / "photo.png")
    np.testing.assert_array_equal(processor(tmp_path / "photo.png").pixel_values, expected)
    gray = processor(photos["camera"]).pixel_values
    assert gray.shape == (1, 1, 24, 32)
    assert processor([photos["camera"], photos["coffee"]]).pixel_values.shape == (2, 3, 24, 32)


@pytest.mark.parametrize("cls", [hf.SuperPointImageProcessor, hf.SuperPointImageProcessorPil])
def test_different_sizes_are_a_list_or_refused(cls, photos):
    images = [photos["coffee"], photos["astronaut"]]
    listed = cls(do_resize=False)(images).pixel_values
    assert [image.shape for image in listed] == [(3, 200, 300), (3, 255, 196)]
    with pytest.raises(ValueError, match="the resized images have 2 sizes"):
        cls(do_resize=False)(images, return_tensors="np")


def test_floats_that_are_divided_again_are_told_of(photos):
    floats = photos["coffee"] / np.float32(255)
    with pytest.warns(UserWarning, match="divided by 255 once more"):
        hf.SuperPointImageProcessorPil()(floats)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = hf.SuperPointImageProcessor()(floats, do_rescale=False).pixel_values
    assert 0.5 < kept.max() <= 1.001


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ({"height": 30, "width": 40}, (30, 40)),
        ({"shortest_edge": 50}, (50, 75)),
        ({"shortest_edge": 50, "longest_edge": 60}, (40, 60)),
        ({"shortest_edge": 50, "longest_edge": 90}, (50, 75)),
        ({"max_height": 31, "max_width": 31}, (20, 31)),
    ],
)
def test_sizes_of_an_image_of_200_by_300(size, expected):
    assert target_size(200, 300, size) == expected
    flipped = {"max_height": 31, "max_width": 31, "height": 40, "width": 30}
    turned = {name: flipped.get(name, value) for name, value in size.items()}
    assert target_size(300, 200, turned) == expected[::-1]


def test_unknown_filters_and_backends_are_refused(folder, photos):
    with pytest.raises(ValueError, match="SuperPointImageProcessorPil has it"):
        hf.SuperPointImageProcessor(resample=4)(photos["coffee"])
    with pytest.raises(ValueError, match="backend='cv2' is not known"):
        hf.AutoImageProcessor.from_pretrained(folder, backend="cv2")
    with pytest.raises(ValueError, match="fetch it first"):
        hf.SuperPointImageProcessorPil()("https://example.org/a.jpg")


def test_a_batch_moves_and_is_a_pytree(folder, photos):
    inputs = hf.SuperPointImageProcessor.from_pretrained(folder)(photos["coffee"])
    moved = inputs.to(jax.devices("cpu")[2], jnp.bfloat16)
    assert moved is inputs
    assert moved.pixel_values.devices() == {jax.devices("cpu")[2]}
    assert moved.pixel_values.dtype == jnp.bfloat16
    assert isinstance(jax.tree.map(lambda leaf: leaf + 1, inputs), hf.BatchFeature)
    with pytest.raises(TypeError, match="a device and then a type"):
        inputs.to(jnp.float32, "cpu")


def test_the_package_weights_need_no_name(photos):
    processor = hf.AutoImageProcessor.from_pretrained()
    assert (processor.do_grayscale, processor.size) == (True, {"height": 480, "width": 640})
    outputs = hf.AutoModel.from_pretrained()(**processor(photos["astronaut"]))
    assert outputs.mask.sum() > 200
