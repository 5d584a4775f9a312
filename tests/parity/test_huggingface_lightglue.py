"""transformers' LightGlue and the Hugging Face door's: the code of its page, the same matches and scores."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from PIL import Image

import superpoint_jax as sp
import superpoint_jax.huggingface as hf
from tests.parity.test_lightglue import SCORE_TOLERANCE, SEEDS
from tests.parity.torchvision_way import processor_class
from tests.random_weights import random_state

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
Pil = pytest.importorskip("transformers.models.lightglue.image_processing_pil_lightglue").LightGlueImageProcessorPil

SIZE = {"height": 96, "width": 128}
DETECTOR = dict(
    encoder_hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=16, descriptor_decoder_dim=32, max_keypoints=120
)
SMALL = dict(descriptor_dim=32, num_hidden_layers=4, num_attention_heads=2)
EVERY_LAYER = dict(depth_confidence=-1.0, width_confidence=-1.0, filter_threshold=0.01)


@functools.cache
def models(folder, seed, **options):
    """Ours and theirs, from one folder that transformers wrote; random weights that spread the probabilities."""
    detector = transformers.SuperPointConfig(**DETECTOR)
    config = transformers.LightGlueConfig(keypoint_detector_config=detector, **{**SMALL, **options})
    torch.manual_seed(seed)
    theirs = transformers.LightGlueForKeypointMatching(config).eval()
    state = random_state(seed, hf.SuperPointConfig(**DETECTOR).to_superpoint_jax())
    theirs.keypoint_detector.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in state.items()})
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if not name.startswith("keypoint_detector"):
                if name.endswith("weight") and value.ndim == 2:
                    torch.nn.init.orthogonal_(value, gain=0.3)
                elif name.endswith("bias"):
                    value.normal_(std=0.05)
        for head in theirs.match_assignment_layers:
            head.final_projection.weight *= 60
            head.matchability.bias.fill_(1 if config.depth_confidence > 0 else 3)
            head.matchability.weight *= 20 if config.depth_confidence > 0 else 1  # So that some drop out.
        for layer in theirs.token_confidence:
            layer.token.weight *= 10
            layer.token.bias.fill_(2.5)
    theirs.save_pretrained(folder)
    Pil(size=SIZE).save_pretrained(folder)
    return hf.LightGlueForKeypointMatching.from_pretrained(folder), theirs


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    root = tmp_path_factory.mktemp("lightglue")
    return lambda seed, **options: models(root / "-".join(map(str, (seed, *options.values()))), seed, **options)


@pytest.fixture(scope="module")
def images(photos):
    """Two overlapping views, two cells apart so that random weights find many matches; and a photo of another size."""
    coffee = Image.fromarray(photos["coffee"])
    return coffee.crop((64, 64, 192, 160)), coffee.crop((80, 72, 208, 168)), Image.fromarray(photos["chelsea"])


def snippet(processor, model, images, threshold=0.0):
    """The code of the page, to the letter but for its imports."""
    inputs = processor(images, return_tensors="pt").to(model.device)
    with torch.no_grad():
        outputs = model(**inputs)
    image_sizes = [[(image.height, image.width) for image in images]]
    processed = processor.post_process_keypoint_matching(outputs, image_sizes, threshold=threshold)
    return outputs, processed, processor.visualize_keypoint_matching(images, processed)


def assert_same_outputs(ours, theirs):
    """The same fields, types and values; rows of padding have no meaning in transformers."""
    assert list(ours) == list(theirs)
    mask = theirs.mask.bool()
    for name in ours:
        assert ours[name].shape == theirs[name].shape, name
        assert ours[name].dtype == theirs[name].dtype, name
        tolerance = SCORE_TOLERANCE if name == "matching_scores" else 0
        torch.testing.assert_close(ours[name][mask], theirs[name][mask], rtol=0, atol=tolerance, msg=name)


def with_pairs(match):
    """The method of transformers, with matches and scores [B,2,K]."""

    def run(keypoints, *given, **options):
        matches, scores, *others = match(keypoints, *given, **options)
        return matches.reshape(keypoints.shape[:3]), scores.reshape(keypoints.shape[:3]), *others

    return run


@pytest.mark.parametrize("seed", [SEEDS[0], *(pytest.param(seed, marks=pytest.mark.slow) for seed in SEEDS[1:])])
def test_the_page_gives_transformers_matches_and_pictures(build, images, seed, monkeypatch):
    mine, other = build(seed, **EVERY_LAYER)
    outputs, processed, (picture,) = snippet(hf.LightGlueImageProcessorPil(size=SIZE), mine, list(images[:2]))
    # Where every layer runs, transformers leaves out the axis over the images of a pair, which its processor needs.
    monkeypatch.setattr(other, "_match_image_pair", with_pairs(other._match_image_pair))
    expected, their_processed, (their_picture,) = snippet(Pil(size=SIZE), other, list(images[:2]))
    assert (expected.matches > -1).sum() >= 20
    assert np.ptp(expected.matching_scores[expected.matches > -1].numpy()) > 0.1
    assert_same_outputs(outputs, expected)
    for name, values in their_processed[0].items():
        assert processed[0][name].dtype == values.dtype
        torch.testing.assert_close(processed[0][name], values, rtol=0, atol=SCORE_TOLERANCE)
    # A score that is rounded to another level is a colour that differs by one.
    difference = np.asarray(picture, int) - np.asarray(their_picture, int)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
    ("seed", "depth"),
    [(0, 0.99), pytest.param(1, 0.99, marks=pytest.mark.slow), pytest.param(2, 0.95, marks=pytest.mark.slow)],
)
def test_keypoints_drop_out_and_pairs_stop_where_they_do_in_transformers(build, images, seed, depth):
    mine, other = build(seed, depth_confidence=depth, width_confidence=0.5)
    pixels = Pil(size=SIZE)(list(images[:2]), return_tensors="pt")
    with torch.no_grad():
        expected = other(**pixels)
    assert len(expected.prune[expected.mask.bool()].unique()) > 1
    assert_same_outputs(mine(**pixels), expected)


def test_pairs_in_a_batch_are_what_they_are_alone(build, images):
    mine, _ = build(1, depth_confidence=0.99, width_confidence=0.5)
    processor = hf.LightGlueImageProcessorPil(size=SIZE)
    pairs = [[images[0], images[1]], [images[2], images[0]]]
    together = mine(**processor(pairs, return_tensors="np"))
    assert isinstance(together.matches, jax.Array)
    sizes = [[(image.height, image.width) for image in pair] for pair in pairs]
    found = processor.post_process_keypoint_matching(together, sizes)
    for pair, size, entry in zip(pairs, sizes, found, strict=True):
        alone = mine(**processor(pair, return_tensors="np"))
        (expected,) = processor.post_process_keypoint_matching(alone, [size])
        assert len(expected["matching_scores"])
        np.testing.assert_array_equal(entry["keypoints0"], expected["keypoints0"])
        np.testing.assert_allclose(entry["matching_scores"], expected["matching_scores"], atol=1e-5)


def test_pairs_that_stop_after_different_layers_keep_their_places(build, images):
    mine, other = build(1, depth_confidence=0.85, width_confidence=0.5)
    pairs = [Pil(size=SIZE)(pair, return_tensors="pt").pixel_values for pair in (list(images[:2]), [images[0]] * 2)]
    with torch.no_grad():
        alone, theirs = [other(pixels) for pixels in pairs], other(torch.cat(pairs))
    assert alone[0].prune.max() > alone[1].prune.max()
    together = mine(torch.cat(pairs))
    for i, expected in enumerate(alone):
        rows = expected.matches.shape[-1]
        assert torch.equal(together.matches[i, :, :rows], expected.matches[0])
        assert not torch.equal(theirs.matches[i, :, :rows], expected.matches[0])


def test_thresholds_are_read_at_every_call_and_saved(build, images, tmp_path):
    mine, _ = build(0, **EVERY_LAYER)
    pixels = hf.LightGlueImageProcessorPil(size=SIZE)(list(images[:2]))
    before = mine(**pixels)
    mine.config.filter_threshold = 0.25
    try:
        strict = mine(**pixels)
        mine.save_pretrained(tmp_path)
    finally:
        mine.config.filter_threshold = 0.01
    assert 0 < (strict.matches > -1).sum() < (before.matches > -1).sum()
    assert float(strict.matching_scores[strict.matches > -1].min()) > 0.25
    # transformers and this library open what was saved, and the Auto classes know what it is.
    theirs = transformers.AutoModel.from_pretrained(tmp_path)
    assert isinstance(theirs, transformers.LightGlueForKeypointMatching)
    assert theirs.config.filter_threshold == 0.25
    again = hf.AutoModel.from_pretrained(tmp_path)
    assert isinstance(again, hf.LightGlueForKeypointMatching)
    assert again.config.filter_threshold == 0.25
    np.testing.assert_array_equal(again(**pixels).matches, strict.matches)
    assert sp.LightGlue.from_pretrained(tmp_path).config.filter_threshold == 0.25
    for name, value in theirs.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], value.numpy())
    assert type(hf.AutoImageProcessor.from_pretrained(tmp_path)) is hf.LightGlueImageProcessor
    assert type(hf.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")) is hf.LightGlueImageProcessorPil


def test_the_processors_give_transformers_pixels(images):
    pairs = [[images[0], images[2]], [images[2], images[1]]]
    for ours, theirs, tolerance in (
        (hf.LightGlueImageProcessorPil, Pil, 1e-7),
        (hf.LightGlueImageProcessor, processor_class("LightGlue"), 1e-5),
    ):
        for options in ({}, {"do_grayscale": False}):
            mine = ours(size=SIZE, **options)(pairs, return_tensors="pt").pixel_values
            other = theirs(size=SIZE, **options)(pairs, return_tensors="pt").pixel_values
            assert mine.shape == other.shape == (2, 2, 3, 96, 128)
            torch.testing.assert_close(mine, other, rtol=0, atol=tolerance)
    assert ours().to_dict()["image_processor_type"] == theirs().to_dict()["image_processor_type"]


def test_it_is_a_pytree_and_says_what_it_refuses(build, images):
    mine, _ = build(0, **EVERY_LAYER)
    processor = hf.LightGlueImageProcessorPil(size=SIZE)
    pixels = processor(list(images[:2]))["pixel_values"]
    eager = mine(pixels)
    jitted = jax.jit(lambda model, pixels: model(pixels))(mine, pixels)
    count = eager.matches.shape[-1]
    np.testing.assert_array_equal(jitted.matches[..., :count], eager.matches)
    assert mine(pixels, return_dict=False)[0].shape == eager.matches.shape
    gray = [image.convert("L") for image in images[:2]]
    (found,) = processor.post_process_keypoint_matching(mine(**processor(gray)), [[(96, 128)] * 2])
    (picture,) = processor.visualize_keypoint_matching(gray, [found])
    assert picture.size == (256, 96)
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 256  # Coloured lines on gray.
    for wrong, message in (
        (lambda: mine(pixels[0]), r"\[B,2,3,H,W\] is needed"),
        (lambda: mine(pixels, labels=1), "labels are not taken"),
        (lambda: mine(pixels, output_attentions=True), "output_attentions=True is not possible"),
        (lambda: processor(images[0]), "must be a pair"),
        (lambda: processor(list(images)), "must be a pair"),
        (lambda: processor([[images[0], images[1]], [images[2]]]), "must be a pair"),
        (lambda: processor.post_process_keypoint_matching(eager, [(96, 128)]), "1 pairs of"),
        (lambda: hf.LightGlueConfig(hidden_act="relu"), "hidden_act"),
        (lambda: hf.LightGlueForKeypointMatching(mine.model), "needs the keypoint_detector"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
