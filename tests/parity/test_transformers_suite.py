"""transformers' own tests of SuperPoint, written anew, on our classes and on theirs side by side.

`THEIRS` names each of their tests, with the test here that stands for it or the reason why there is none. Theirs are in
tests/models/superpoint and in the common files that apply to every model and processor.
"""

import copy
import functools
import inspect
import json
import types

import jax
import numpy as np
import pytest
from PIL import Image

import superpoint_jax.huggingface as hf
from superpoint_jax.weights.save import save_network
from tests.parity.torchvision_way import processor_class
from tests.random_weights import model_of, random_state

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
Pil = pytest.importorskip("transformers.models.superpoint.image_processing_pil_superpoint").SuperPointImageProcessorPil

NO_TRAINING = "neither this class nor theirs trains; superpoint_jax.training does"
NO_EMBEDDINGS = "there are no embeddings, and theirs skips it"
THEIRS = {
    # The model, tests/models/superpoint/test_modeling_superpoint.py
    "test_config": "test_a_configuration_is_saved_read_and_shown_alike",
    "test_keypoint_detection": "test_shapes_of_what_is_found",
    "test_forward_signature": "test_the_first_argument_is_pixel_values",
    "test_hidden_states_output": "test_hidden_states_have_their_count_order_and_layout",
    "test_forward_labels_should_be_none": "test_labels_are_refused",
    "test_model_from_pretrained": "test_published_weights_give_published_values",
    "test_inference": "test_published_weights_give_published_values",
    "test_batching_equivalence": "test_an_image_alone_is_the_image_in_a_batch",
    "test_inputs_embeds": NO_EMBEDDINGS,
    "test_model_get_set_embeddings": NO_EMBEDDINGS,
    "test_feed_forward_chunking": "a transformer's; theirs skips it",
    "test_training": NO_TRAINING,
    "test_training_gradient_checkpointing": NO_TRAINING,
    "test_training_gradient_checkpointing_use_reentrant": NO_TRAINING,
    "test_training_gradient_checkpointing_use_reentrant_false": NO_TRAINING,
    "test_retain_grad_hidden_states_attentions": NO_TRAINING,
    # The model, tests/test_modeling_common.py
    "test_save_load": "test_a_model_is_saved_and_read_by_both",
    "test_can_use_safetensors": "test_a_model_is_saved_and_read_by_both",
    "test_torch_save_load": "test_a_pickled_state_is_read",
    "test_from_pretrained_no_checkpoint": "test_a_model_of_a_configuration_takes_a_state",
    "test_load_with_mismatched_shapes": "test_missing_and_misshapen_weights_are_named",
    "test_correct_missing_keys": "test_missing_and_misshapen_weights_are_named",
    "test_determinism": "test_the_same_twice",
    "test_model_outputs_equivalence": "test_a_tuple_holds_what_the_dictionary_holds",
    "test_model_main_input_name": "test_the_first_argument_is_pixel_values",
    "test_initialization": "random weights are drawn by He's rule here, since with theirs every score is 1/65",
    # The processors, tests/models/superpoint/test_image_processing_superpoint.py
    "test_image_processing": "test_options_are_attributes",
    "test_input_image_properly_converted_to_grayscale": "test_gray_is_three_equal_channels",
    "test_post_processing_keypoint_detection": "test_post_processed_keypoints_equal_theirs",
    "test_call_numpy_4_channels": "test_four_channels",
    # The processors, tests/test_image_processing_common.py
    "test_backends_equivalence": "test_the_two_processors_nearly_agree",
    "test_backends_equivalence_batched": "test_the_two_processors_nearly_agree",
    "test_fast_is_faster_than_slow": "a matter of benchmarks, not of tests: the first call of a shape compiles",
    "test_can_compile_torchvision_backend": "test_the_fast_processor_is_jitted",
    "test_image_processor_to_json_string": "test_options_are_saved_read_and_shown_alike",
    "test_image_processor_to_json_file": "test_options_are_saved_read_and_shown_alike",
    "test_image_processor_from_and_save_pretrained": "test_options_are_saved_read_and_shown_alike",
    "test_image_processor_save_load_with_autoimageprocessor": "test_options_are_saved_read_and_shown_alike",
    "test_save_load_backends": "test_options_of_one_processor_are_read_by_the_other_and_by_theirs",
    "test_save_load_backends_auto": "test_options_of_one_processor_are_read_by_the_other_and_by_theirs",
    "test_image_processor_from_dict_with_kwargs": "test_options_are_changed_while_reading",
    "test_init_without_params": "test_defaults_are_theirs",
    "test_cast_dtype_device": "test_a_batch_is_cast_and_moved",
    "test_call_pil": "test_pixel_values_equal_theirs",
    "test_call_numpy": "test_pixel_values_equal_theirs",
    "test_call_pytorch": "test_pixel_values_equal_theirs",
    "test_image_processor_preprocess_arguments": "test_what_they_refuse_is_refused",
    "test_override_instance_attributes_does_not_affect_other_instances": "test_instances_share_nothing",
}

SIZES = dict(encoder_hidden_sizes=[32, 32, 64, 64], decoder_hidden_size=128, descriptor_decoder_dim=128)
OPTIONS = {"size": {"height": 48, "width": 64}, "do_grayscale": True}
PROCESSORS = ("torchvision", "pil")


def ours(name):
    return {"torchvision": hf.SuperPointImageProcessor, "pil": hf.SuperPointImageProcessorPil}[name]


def theirs(name):
    return processor_class() if name == "torchvision" else Pil


def test_every_one_of_their_tests_is_stood_for():
    assert len(THEIRS) >= 38
    standing = {name for name in THEIRS.values() if name.startswith("test_")}
    assert standing <= {name for name, value in globals().items() if isinstance(value, types.FunctionType)}


@functools.cache
def pair():
    """A model of ours and one of theirs with the same random weights."""
    config = hf.SuperPointConfig(**SIZES)
    state = random_state(0, config.to_superpoint_jax())
    model = transformers.SuperPointForKeypointDetection(transformers.SuperPointConfig(**SIZES))
    model.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in state.items()})
    return hf.SuperPointForKeypointDetection(model_of(state, config.to_superpoint_jax())), model.eval()


@functools.cache
def batch():
    return torch.rand((3, 3, 60, 80), generator=torch.Generator().manual_seed(0))


# The configuration


def test_a_configuration_is_saved_read_and_shown_alike(tmp_path):
    options = dict(SIZES, nms_radius=3, note=[1], dtype="float16", architectures=["A"], problem_type="regression")
    mine, other = hf.SuperPointConfig(**options), transformers.SuperPointConfig(**options)
    for name in (*options, "keypoint_threshold", "return_dict", "output_hidden_states", "id2label", "label2id"):
        expected = getattr(other, name)
        assert getattr(mine, name) == (str(expected).removeprefix("torch.") if name == "dtype" else expected)
    version = transformers.__version__
    assert {**mine.to_dict(), "transformers_version": version} == other.to_dict()
    shown = {**json.loads(mine.to_json_string()), "transformers_version": version}
    assert shown == json.loads(other.to_json_string())
    assert {**mine.to_diff_dict(), "transformers_version": version} == other.to_diff_dict()

    mine.to_json_file(tmp_path / "one.json")
    assert hf.SuperPointConfig.from_json_file(tmp_path / "one.json") == mine
    mine.save_pretrained(tmp_path / "folder" / "inner")
    assert hf.SuperPointConfig.from_pretrained(tmp_path / "folder", subfolder="inner").to_dict() == mine.to_dict()
    assert transformers.SuperPointConfig.from_pretrained(tmp_path / "folder" / "inner").note == [1]
    other.save_pretrained(tmp_path / "theirs")
    assert hf.SuperPointConfig.from_pretrained(tmp_path / "theirs").to_diff_dict() == json.loads(other.to_json_string())
    with pytest.raises(OSError, match=r"has no config\.json"):
        hf.SuperPointConfig.from_pretrained(tmp_path / "nowhere")

    labelled = hf.SuperPointConfig(num_labels=5)
    assert (labelled.num_labels, len(labelled.id2label), len(labelled.label2id)) == (5, 5, 5)
    config, unused = hf.SuperPointConfig.from_dict({"nms_radius": 2}, return_unused_kwargs=True, return_dict=False, x=1)
    assert (config.nms_radius, config.return_dict, unused) == (2, False, {"x": 1})
    assert hf.SuperPointConfig().to_diff_dict() == {
        name: value
        for name, value in transformers.SuperPointConfig().to_diff_dict().items()
        if name != "transformers_version"
    }


# The model


def test_shapes_of_what_is_found():
    for model in pair():
        outputs = model(batch())
        assert (outputs.keypoints.shape[0], outputs.keypoints.shape[-1]) == (3, 2)
        assert outputs.keypoints.shape[1] == outputs.mask.sum(1).max()
        assert model(batch(), output_hidden_states=True).hidden_states[-1].shape == (3, 64, 60 // 8, 80 // 8)


def test_the_first_argument_is_pixel_values():
    for model in pair():
        assert next(iter(inspect.signature(model.forward).parameters)) == model.main_input_name == "pixel_values"


def test_hidden_states_have_their_count_order_and_layout():
    mine, other = pair()
    expected = other(batch(), output_hidden_states=True).hidden_states
    by_config = hf.SuperPointForKeypointDetection(mine.model)
    by_config.config.output_hidden_states = True
    for hidden_states in (mine(batch(), output_hidden_states=True).hidden_states, by_config(batch()).hidden_states):
        for block, theirs_ in zip(hidden_states, expected, strict=True):
            torch.testing.assert_close(block, theirs_.detach(), rtol=1e-4, atol=1e-4)


def test_labels_are_refused():
    for model in pair():
        with pytest.raises(ValueError, match=r"labels are not taken|does not support training"):
            model(batch(), labels=torch.rand((128, 128)))


def test_an_image_alone_is_the_image_in_a_batch():
    together = pair()[0](batch())
    for i in range(3):
        alone = pair()[0](batch()[i : i + 1])
        rows = alone.mask.shape[1]
        torch.testing.assert_close(alone.keypoints[0], together.keypoints[i, :rows], rtol=0, atol=0)
        torch.testing.assert_close(alone.descriptors[0], together.descriptors[i, :rows], rtol=1e-5, atol=1e-5)


def test_the_same_twice():
    first, second = (pair()[0](batch()).to_tuple() for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_tuple_holds_what_the_dictionary_holds():
    for hidden in (False, True):
        results = []
        for model in pair():
            named = model(batch(), output_hidden_states=hidden)
            plain = model(batch(), output_hidden_states=hidden, return_dict=False)
            results.append((list(named), len(plain)))
            for a, b in zip(named.to_tuple()[:4], plain[:4], strict=True):
                assert torch.equal(a, b)
        assert results[0] == results[1]


def test_a_model_is_saved_and_read_by_both(tmp_path):
    mine, other = pair()
    mine.save_pretrained(tmp_path / "ours")
    other.save_pretrained(tmp_path / "theirs")
    expected = mine(batch()).descriptors
    for folder in ("ours", "theirs"):
        assert (tmp_path / folder / "model.safetensors").is_file()
        again = hf.SuperPointForKeypointDetection.from_pretrained(tmp_path / folder)
        assert torch.equal(again(batch()).descriptors, expected)
        opened = transformers.SuperPointForKeypointDetection.from_pretrained(tmp_path / folder)
        torch.testing.assert_close(opened(batch()).descriptors.detach(), expected, rtol=0, atol=1e-5)
    assert again.num_parameters() == other.num_parameters()
    assert set(again.state_dict()) == set(other.state_dict())


def test_a_pickled_state_is_read(tmp_path):
    mine, other = pair()
    other.config.save_pretrained(tmp_path)
    torch.save(other.state_dict(), tmp_path / "pytorch_model.bin")
    again = hf.SuperPointForKeypointDetection.from_pretrained(tmp_path)
    assert torch.equal(again(batch()).descriptors, mine(batch()).descriptors)


def test_a_model_of_a_configuration_takes_a_state(tmp_path):
    mine, _ = pair()
    save_network(mine.model, tmp_path)
    config = hf.SuperPointConfig(**SIZES, max_keypoints=4)
    again = hf.SuperPointForKeypointDetection.from_pretrained(tmp_path, config=config)
    assert again(batch()).keypoints.shape == (3, 4, 2)
    fresh = hf.SuperPointForKeypointDetection(config)
    assert fresh.config is config
    assert fresh.num_parameters() == mine.num_parameters()


def test_missing_and_misshapen_weights_are_named(tmp_path):
    _, other = pair()
    state = {name: values.clone() for name, values in other.state_dict().items()}
    del state["encoder.conv_blocks.0.conv_a.bias"]
    other.config.save_pretrained(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"missing: encoder\.conv_blocks\.0\.conv_a\.bias"):
        hf.SuperPointForKeypointDetection.from_pretrained(tmp_path)
    torch.save(other.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="misshapen: "):
        hf.SuperPointForKeypointDetection.from_pretrained(tmp_path, decoder_hidden_size=64)


@pytest.mark.hub
def test_published_weights_give_published_values():
    """568 and 830 keypoints on the two photos of COCO that their test has, first values as published there."""
    from tests.parity.published import FIRST_KEYPOINTS, FIRST_SCORES, coco_photos

    name = "magic-leap-community/superpoint"
    photos = coco_photos()
    inputs = hf.AutoImageProcessor.from_pretrained(name)(photos, return_tensors="pt")
    outputs = hf.SuperPointForKeypointDetection.from_pretrained(name)(**inputs)
    assert outputs.keypoints.shape == (2, 830, 2)
    assert outputs.mask.sum(1).tolist() == [568, 830]
    np.testing.assert_allclose(outputs.keypoints[0, :3], FIRST_KEYPOINTS, atol=1e-4)
    np.testing.assert_allclose(outputs.scores[0, :9], FIRST_SCORES, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(outputs.descriptors[0, 0, 0], -0.1095, atol=1e-4)


# The processors


@pytest.mark.parametrize("name", PROCESSORS)
def test_options_are_attributes(name):
    for cls in (ours(name), theirs(name)):
        processor = cls(**OPTIONS)
        assert (processor.do_resize, processor.do_rescale, processor.do_grayscale) == (True, True, True)
        assert processor.rescale_factor == 1 / 255
        assert (processor.size["height"], processor.size.width) == (48, 64)
        assert processor.backend == name
        assert processor.model_input_names == ["pixel_values"]


@pytest.mark.parametrize("name", PROCESSORS)
def test_defaults_are_theirs(name):
    expected = theirs(name)().to_dict()
    assert ours(name)().to_dict() == expected
    assert hf.SuperPointImageProcessorFast().to_dict() == expected


@pytest.mark.parametrize("name", PROCESSORS)
def test_instances_share_nothing(name):
    first, second = ours(name)(), ours(name)()
    first.size["height"] = 1
    first.do_resize = False
    assert (second.size["height"], second.do_resize) == (480, True)
    assert ours(name)().size == {"height": 480, "width": 640}


@pytest.mark.parametrize("name", PROCESSORS)
def test_options_are_saved_read_and_shown_alike(name, tmp_path):
    options = {**OPTIONS, "resample": 3, "note": {"a": [1]}, "do_convert_rgb": True}
    mine, other = ours(name)(**options), theirs(name)(**options)
    assert mine.to_dict() == other.to_dict()
    assert json.loads(mine.to_json_string()) == json.loads(other.to_json_string())
    mine.to_json_file(tmp_path / "one.json")
    assert ours(name).from_json_file(tmp_path / "one.json").to_dict() == mine.to_dict()
    (path,) = mine.save_pretrained(tmp_path / "folder")
    assert path == str(tmp_path / "folder" / "preprocessor_config.json")
    for again in (ours(name).from_pretrained(tmp_path / "folder"), ours(name).from_pretrained(path)):
        assert again.to_dict() == mine.to_dict()
    assert hf.AutoImageProcessor.from_pretrained(tmp_path / "folder", backend=name).to_dict() == mine.to_dict()


def test_options_of_one_processor_are_read_by_the_other_and_by_theirs(tmp_path):
    for i, (cls, others) in enumerate([(ours("torchvision"), "pil"), (ours("pil"), "torchvision")]):
        folder = tmp_path / str(i)
        cls(**OPTIONS, note=1).save_pretrained(folder)
        assert ours(others).from_pretrained(folder).to_dict() == cls(**OPTIONS, note=1).to_dict()
        fast = others == "torchvision"
        assert type(hf.AutoImageProcessor.from_pretrained(folder, use_fast=fast)) is ours(others)
        assert theirs(others).from_pretrained(folder).to_dict() == cls(**OPTIONS, note=1).to_dict()


@pytest.mark.parametrize("name", PROCESSORS)
def test_options_are_changed_while_reading(name):
    for cls in (ours(name), theirs(name)):
        assert dict(cls.from_dict(OPTIONS, size={"height": 42, "width": 42}).size) == {"height": 42, "width": 42}
        processor, unused = cls.from_dict(OPTIONS, do_grayscale=False, foo=1, return_unused_kwargs=True)
        assert processor.do_grayscale is False
        assert unused["foo"] == 1


def images_of(kind, photos):
    arrays = [photos[name] for name in ("coffee", "astronaut", "rocket")]
    convert = {
        "pil": Image.fromarray,
        "numpy": lambda array: array.copy(),
        "torch": lambda array: torch.from_numpy(np.moveaxis(array, -1, 0).copy()),
    }
    return [convert[kind](array) for array in arrays]


@pytest.mark.parametrize("do_grayscale", [False, True])
@pytest.mark.parametrize("kind", ["pil", "numpy", "torch"])
@pytest.mark.parametrize("name", PROCESSORS)
def test_pixel_values_equal_theirs(name, kind, do_grayscale, photos):
    images = images_of(kind, photos)
    options = dict(do_grayscale=do_grayscale, size={"height": 97, "width": 131})
    for given in (images[0], images, [images[:2], images[1:]]):
        mine = ours(name)(**options)(given, return_tensors="pt").pixel_values
        other = theirs(name)(**options)(given, return_tensors="pt").pixel_values
        assert mine.shape == other.shape
        # Gray floats are products and sums, rounded as numpy has it: an ulp of the result.
        torch.testing.assert_close(mine, other, rtol=2e-7 if do_grayscale else 0, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        dict(do_rescale=False),
        dict(do_rescale=False, do_grayscale=True),
        dict(do_resize=False),
        dict(do_resize=False, do_rescale=False, do_grayscale=True),
        dict(size=60),
        dict(size=60, default_to_square=True),
        dict(size=(50, 70)),
        dict(size={"shortest_edge": 90, "longest_edge": 100}),
        dict(size={"max_height": 70, "max_width": 80}, resample=3),
        dict(resample=0),
        dict(rescale_factor=0.01),
        dict(do_convert_rgb=True, disable_grouping=True),
        dict(do_normalize=True, image_mean=0.5, image_std=0.5),
        dict(do_center_crop=True, crop_size=30),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", PROCESSORS)
def test_every_option_does_what_theirs_does(name, options, photos):
    for image in (
        photos["coffee"].copy(),
        np.moveaxis(photos["astronaut"], -1, 0).copy(),
        Image.fromarray(photos["camera"]),
    ):
        mine = ours(name)()(image, return_tensors="np", **options).pixel_values
        other = np.asarray(theirs(name)()(image, return_tensors="np", **options).pixel_values)
        assert mine.shape == other.shape
        np.testing.assert_allclose(mine.astype(float), other.astype(float), rtol=3e-7, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        dict(foo=1),
        dict(do_resize="yes"),
        dict(do_rescale=1),
        dict(do_grayscale="yes"),
        dict(do_grayscale=None),
        dict(do_convert_rgb="yes"),
        dict(size="large"),
        dict(size={"a": 1}),
        dict(size={"longest_edge": 50}),
        dict(size={"height": 0, "width": 5}),
        dict(size=None),
        dict(resample=None),
        dict(resample=9),
        dict(rescale_factor="a"),
        dict(rescale_factor=None),
        dict(do_normalize=True),
        dict(do_center_crop=True),
        dict(return_tensors="tf"),
        dict(input_data_format="x"),
    ],
    ids=str,
)
def test_what_they_refuse_is_refused(options, photos):
    with pytest.raises(Exception):  # noqa: B017, PT011  # Theirs have no common base.
        Pil()(photos["coffee"], **{"return_tensors": "np", **options})
    for name in PROCESSORS:
        with pytest.raises((TypeError, ValueError)):
            ours(name)()(photos["coffee"], **options)


@pytest.mark.parametrize("bad", ["nowhere.png", 3, [], np.zeros((40, 50, 2), np.uint8), np.zeros((2,) * 5)], ids=str)
@pytest.mark.parametrize("name", PROCESSORS)
def test_what_is_no_image_is_refused_by_both(name, bad):
    with pytest.raises((TypeError, ValueError)):
        Pil()(bad, return_tensors="np")
    with pytest.raises((TypeError, ValueError)):
        ours(name)()(bad, return_tensors="np")


@pytest.mark.parametrize("name", PROCESSORS)
def test_gray_is_three_equal_channels(name, photos):
    for image in ours(name)(**OPTIONS)(images_of("pil", photos))["pixel_values"]:
        assert image.shape == (3, 48, 64)
        np.testing.assert_array_equal(image[0], image[1])
        np.testing.assert_array_equal(image[1], image[2])


def test_four_channels(photos):
    alpha = np.full_like(photos["coffee"][..., :1], 128)
    image = np.concatenate([photos["coffee"], alpha], axis=-1)
    for options in (dict(), dict(do_convert_rgb=True)):
        mine = hf.SuperPointImageProcessorPil(**options)(image, return_tensors="np").pixel_values
        np.testing.assert_array_equal(mine, Pil(**options)(image, return_tensors="np").pixel_values)
    assert hf.SuperPointImageProcessor()(image).pixel_values.shape == (1, 4, 480, 640)


def test_the_two_processors_nearly_agree(photos):
    images = images_of("pil", photos)
    for given in (images[0], images):
        slow, fast = (ours(name)(**OPTIONS)(given, return_tensors="pt").pixel_values for name in PROCESSORS)
        torch.testing.assert_close(slow, fast, rtol=0, atol=0.1)
        assert (slow - fast).abs().mean() <= 5e-3


def test_the_fast_processor_is_jitted(photos):
    from superpoint_jax.huggingface.steps import on_device

    processor = hf.SuperPointImageProcessorFast(**OPTIONS)
    processor(photos["coffee"])
    before = on_device._cache_size()
    processor(photos["coffee"])
    assert on_device._cache_size() == before


def test_a_batch_is_cast_and_moved(photos):
    for cls in (ours("pil"), theirs("pil")):
        processed = functools.partial(cls(**OPTIONS), images_of("torch", photos), return_tensors="pt")
        assert processed().pixel_values.dtype == torch.float32
        assert processed().to(torch.float16).pixel_values.dtype == torch.float16
        moved = processed().to("cpu", torch.bfloat16)
        assert (moved.pixel_values.device, moved.pixel_values.dtype) == (torch.device("cpu"), torch.bfloat16)
        with pytest.raises(TypeError):
            processed().to(torch.bfloat16, "cpu")
        with_text = processed()
        with_text.update({"input_ids": torch.LongTensor([[1, 2, 3]])})
        assert with_text.to(torch.float16).input_ids.dtype == torch.long
    assert processed().to("cpu").pixel_values.shape == (3, 3, 48, 64)
    ours_ = ours("pil")(**OPTIONS)(images_of("pil", photos), return_tensors="pt")
    assert ours_.to(jax.devices("cpu")[0]).pixel_values.shape == (3, 3, 48, 64)


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("name", PROCESSORS)
def test_post_processed_keypoints_equal_theirs(name, as_tensor):
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(50) < torch.tensor([[50], [17], [0]])).float()
    fields = dict(
        keypoints=torch.rand((3, 50, 2), generator=generator) * mask[..., None],
        scores=torch.rand((3, 50), generator=generator) * mask,
        descriptors=torch.rand((3, 50, 16), generator=generator) * mask[..., None],
        mask=mask,
    )
    sizes = [(333, 517), (1080, 1920), (48, 64)]
    targets = torch.tensor(sizes) if as_tensor else sizes
    from transformers.models.superpoint.modeling_superpoint import SuperPointKeypointDescriptionOutput

    expected = theirs(name)().post_process_keypoint_detection(SuperPointKeypointDescriptionOutput(**fields), targets)
    in_torch = hf.SuperPointKeypointDescriptionOutput(**copy.copy(fields))
    in_numpy = hf.SuperPointKeypointDescriptionOutput(**{key: value.numpy() for key, value in fields.items()})
    for mine, other in zip(ours(name)().post_process_keypoint_detection(in_torch, targets), expected, strict=True):
        assert list(mine) == list(other)
        for key, values in mine.items():
            assert values.dtype == other[key].dtype
            assert torch.equal(values, other[key])
    for mine, other in zip(ours(name)().post_process_keypoint_detection(in_numpy, sizes), expected, strict=True):
        np.testing.assert_array_equal(mine["keypoints"], other["keypoints"])
    for wrong in ([(4, 4)], torch.ones((3, 3))):
        with pytest.raises(ValueError, match="target_sizes"):
            ours(name)().post_process_keypoint_detection(in_torch, wrong)
