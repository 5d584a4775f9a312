"""What Hugging Face's page computes, by transformers and by the door: the same snippets, the same numbers.

Random weights of the published size, photos of several aspects, both processors, both gray rules (colours left alone,
of which the model sees the red, and gray).
"""

import functools

import numpy as np
import pytest
from PIL import Image

import superpoint_jax.huggingface as hf
from superpoint_jax.detection import score_map
from tests.parity import references
from tests.parity.comparison import Rules, assert_same_keypoints, found
from tests.parity.test_transformers import their_score_maps
from tests.parity.torchvision_way import processor_class
from tests.random_weights import model_of, random_state

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
Pil = pytest.importorskip("transformers.models.superpoint.image_processing_pil_superpoint").SuperPointImageProcessorPil

PHOTOS = ("camera", "coffee", "astronaut", "chelsea", "page", "motorcycle")
SIZE = {"height": 240, "width": 320}


@functools.cache
def models():
    """Ours and theirs."""
    config = hf.SuperPointConfig()
    state = random_state(0, config.to_superpoint_jax())
    theirs = transformers.SuperPointForKeypointDetection(transformers.SuperPointConfig())
    theirs.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in state.items()})
    return hf.SuperPointForKeypointDetection(model_of(state, config.to_superpoint_jax())), theirs.eval()


def processors(name, **options):
    """Ours and theirs."""
    pairs = {
        "torchvision": (hf.SuperPointImageProcessor, processor_class()),
        "pil": (hf.SuperPointImageProcessorPil, Pil),
    }
    return tuple(cls(**options) for cls in pairs[name])


def snippet(processor, model, images):
    """The page's code, to the letter but for its imports; and what the model was given."""
    inputs = processor(images, return_tensors="pt").to(model.device)
    with torch.no_grad():
        outputs = model(**inputs)
    image_sizes = [(image.height, image.width) for image in images]
    return outputs, processor.post_process_keypoint_detection(outputs, image_sizes), inputs.pixel_values


def assert_same(mine, other):
    """Outputs and post-processed outputs; rows are in the same order."""
    (outputs, processed, pixels), (their_outputs, their_processed, their_pixels) = mine, other
    assert list(outputs) == list(their_outputs)
    assert [values.dtype for values in outputs.to_tuple()] == [values.dtype for values in their_outputs.to_tuple()]
    assert outputs.mask.sum(1).min() > 100
    torch.testing.assert_close(pixels, their_pixels, rtol=2e-7, atol=0)
    if not torch.equal(outputs.keypoints, their_outputs.keypoints):
        assert_rounding_decided(outputs, their_outputs, pixels)
        return
    assert [values.shape for values in outputs.to_tuple()] == [values.shape for values in their_outputs.to_tuple()]
    assert torch.equal(outputs.mask, their_outputs.mask)
    for name in ("scores", "descriptors"):
        torch.testing.assert_close(outputs[name], their_outputs[name], rtol=0, atol=1e-5)
    for entry, expected in zip(processed, their_processed, strict=True):
        assert list(entry) == list(expected)
        assert torch.equal(entry["keypoints"], expected["keypoints"])
        assert entry["keypoints"].dtype == expected["keypoints"].dtype


def assert_rounding_decided(outputs, their_outputs, pixels):
    """Each keypoint that only one of them has is a near tie of scores, and there are few."""
    gray = pixels[:, 0].numpy()
    ours, theirs = models()
    maps = np.asarray(score_map(ours.model(gray[..., None]).logits)), their_score_maps(theirs, gray)
    rules = Rules(functools.partial(references.three_passes, radius=4), 0.005, 4, threshold_first=False, cut=False)
    size = np.array(gray.shape[:0:-1])
    for i in range(len(gray)):
        sides = []
        for result, scores in zip((outputs, their_outputs), maps, strict=True):
            rows = result.mask[i].bool()
            points = (result.keypoints[i, rows].numpy() * size, result.scores[i, rows], result.descriptors[i, rows])
            sides.append(found(points[0], points[1].numpy(), points[2].numpy(), scores[i]))
        assert_same_keypoints(*sides, rules)
        assert len(sides[0].scores.keys() ^ sides[1].scores.keys()) <= 4


@pytest.mark.parametrize("do_grayscale", [False, True])
@pytest.mark.parametrize("name", ["torchvision", "pil"])
@pytest.mark.parametrize("photo", PHOTOS)
def test_one_photo(photo, name, do_grayscale, photos):
    images = [Image.fromarray(photos[photo])]
    ours, theirs = processors(name, size=SIZE, do_grayscale=do_grayscale)
    assert_same(snippet(ours, models()[0], images), snippet(theirs, models()[1], images))


@pytest.mark.parametrize("do_grayscale", [False, True])
@pytest.mark.parametrize("name", ["torchvision", "pil"])
def test_photos_of_several_aspects_in_one_batch(name, do_grayscale, photos):
    images = [Image.fromarray(photos[photo]).convert("RGB") for photo in PHOTOS[1:4]]
    ours, theirs = processors(name, size=SIZE, do_grayscale=do_grayscale)
    assert_same(snippet(ours, models()[0], images), snippet(theirs, models()[1], images))


def test_the_default_size(photos):
    images = [Image.fromarray(photos["motorcycle"])]
    ours, theirs = processors("pil")
    assert_same(snippet(ours, models()[0], images), snippet(theirs, models()[1], images))


def test_the_loop_over_masks(photos):
    images = [Image.fromarray(photos[photo]) for photo in ("coffee", "astronaut")]
    processor = hf.SuperPointImageProcessor(size=SIZE)
    outputs, processed, _ = snippet(processor, models()[0], images)
    for i in range(len(images)):
        image_indices = torch.nonzero(outputs.mask[i]).squeeze(1)
        assert torch.equal(outputs.scores[i][image_indices], processed[i]["scores"])
        assert torch.equal(outputs.descriptors[i][image_indices], processed[i]["descriptors"])


def test_a_cut_keeps_the_best_in_their_order(photos):
    images = [Image.fromarray(photos["coffee"])]
    mine, other = models()
    inputs = processors("pil", size=SIZE)[0](images, return_tensors="pt")
    with torch.no_grad():
        other.keypoint_decoder.max_keypoints = 50
        expected = other(**inputs)
        other.keypoint_decoder.max_keypoints = -1
    found = mine(**inputs, max_keypoints=50)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-5)
    same = (found.keypoints == expected.keypoints).all(-1).float().mean()
    # Two scores closer than rounding may change places.
    assert same > 0.9
    assert np.array_equal(found.mask, expected.mask)
