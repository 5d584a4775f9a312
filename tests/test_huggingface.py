"""The names of Hugging Face's documentation; its snippets as files are in examples/, run by test_examples.py."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import superpoint_jax as sp
from superpoint_jax.huggingface import AutoImageProcessor, SuperPointForKeypointDetection


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model) -> Path:
    """A small network and the options of a processor, saved as transformers saves them."""
    folder = tmp_path_factory.mktemp("folder")
    sp.save_pretrained(model, folder)
    sp.SuperPointImageProcessor.huggingface(size={"height": 72, "width": 104}).save_pretrained(folder)
    return folder


def test_the_snippet_for_one_image_runs(folder, photos):
    image = Image.fromarray(photos["astronaut"])
    processor = AutoImageProcessor.from_pretrained(folder)
    model = SuperPointForKeypointDetection.from_pretrained(folder, device_map="auto")

    inputs = processor(image).to(model.device)
    outputs = model(**inputs)
    image_size = (image.height, image.width)
    (processed,) = processor.post_process_keypoint_detection(outputs, [image_size])

    count = int(outputs.mask.sum())
    assert count > 10
    assert processed["keypoints"].shape == (count, 2)
    assert processed["descriptors"].shape == (count, model.config.descriptor_decoder_dim)
    # Far corners are reached, and none is outside: these are pixels of the original.
    assert np.all(processed["keypoints"] < [image.width, image.height])
    assert np.all(processed["keypoints"].max(axis=0) > np.array([image.width, image.height]) / 2)
    np.testing.assert_array_equal(processed["scores"], np.sort(processed["scores"])[::-1])


def test_the_snippets_for_images_of_different_sizes_agree_by_mask_and_by_post_processing(folder, photos):
    images = [Image.fromarray(photos[name]) for name in ("astronaut", "coffee")]
    processor = AutoImageProcessor.from_pretrained(folder)
    model = SuperPointForKeypointDetection.from_pretrained(folder)
    inputs = processor(images)
    outputs = model(**inputs)

    image_sizes = [(image.height, image.width) for image in images]
    processed = processor.post_process_keypoint_detection(outputs, image_sizes)
    for i in range(len(images)):
        image_mask = outputs.mask[i]
        image_indices = jnp.nonzero(image_mask)[0]
        image_keypoints = outputs.keypoints[i][image_indices]
        assert len(image_keypoints) > 10
        height, width = image_sizes[i]
        expected = (image_keypoints + 0.5) * jnp.array([[width / 104, height / 72]]) - 0.5
        np.testing.assert_allclose(processed[i]["keypoints"], expected, rtol=1e-5)
        np.testing.assert_array_equal(processed[i]["scores"], outputs.scores[i][image_indices])
        np.testing.assert_array_equal(processed[i]["descriptors"], outputs.descriptors[i][image_indices])


def test_the_facade_returns_what_extract_returns(folder, model, images):
    facade = SuperPointForKeypointDetection(model)
    sizes = jnp.array([[60, 90], [72, 104]])
    ours = sp.extract(model, images, image_sizes=sizes, max_keypoints=20, output_hidden_states=True)
    theirs = facade(images, sizes, True, max_keypoints=20)
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert theirs.hidden_states is not None
    assert len(theirs.hidden_states) == 4
    assert facade.config == model.config
    assert facade.model is model


def test_options_of_from_pretrained_reach_the_configuration(folder):
    facade = SuperPointForKeypointDetection.from_pretrained(folder, max_keypoints=7, nms_radius=2)
    assert (facade.config.max_keypoints, facade.config.nms_radius) == (7, 2)


def test_other_device_maps_are_refused(folder):
    with pytest.raises(ValueError, match="device_map='cuda:0'"):
        SuperPointForKeypointDetection.from_pretrained(folder, device_map="cuda:0")


def test_channels_first_is_refused_with_a_hint(model, images):
    with pytest.raises(ValueError, match="move the channels last"):
        SuperPointForKeypointDetection(model)(jnp.moveaxis(images, -1, 1))
