"""Against transformers' SuperPointForKeypointDetection, float32 on CPU, stage by stage on real photos."""

from __future__ import annotations

import copy
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import superpoint_jax
from superpoint_jax import SuperPointConfig, extract
from superpoint_jax.detection import score_map
from tests.parity import references
from tests.parity.comparison import Found, Rules, assert_as_near_to_float64, assert_same_keypoints, found, of_image
from tests.random_weights import State, model_of, random_state, state_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PHOTOS = ("camera", "coffee", "astronaut", "chelsea", "coins", "motorcycle")
CAPACITIES = (-1, 500)
CONFIG = SuperPointConfig.preset("huggingface")
WEIGHTS = [
    "seed 0",
    pytest.param("seed 1", marks=pytest.mark.slow),
    pytest.param("seed 2", marks=pytest.mark.slow),
    "shipped",
]
pytestmark = pytest.mark.parametrize("weights", WEIGHTS)


@cache
def state(weights: str) -> State:
    """The weights by name, in Hugging Face's layout."""
    if weights == "shipped":
        return state_of(superpoint_jax.from_pretrained())
    return random_state(int(weights.removeprefix("seed ")), CONFIG)


@cache
def our_model(weights: str) -> superpoint_jax.SuperPoint:
    return model_of(state(weights), CONFIG)


@cache
def their_model(weights: str) -> transformers.SuperPointForKeypointDetection:
    model = transformers.SuperPointForKeypointDetection(transformers.SuperPointConfig())
    model.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in state(weights).items()})
    return model.eval()


def to_torch(gray: np.ndarray) -> torch.Tensor:
    """[B,H,W] -> [B,3,H,W], three equal channels, as transformers' processor makes them."""
    return torch.from_numpy(np.repeat(gray[:, None], 3, axis=1))


def their_score_maps(model: transformers.SuperPointForKeypointDetection, gray: np.ndarray) -> np.ndarray:
    """transformers' scores of every pixel, before suppression, in the model's own precision."""
    decoder = copy.copy(model.keypoint_decoder)
    decoder.nms_radius = 0  # suppression within nothing: the maximum of one pixel
    with torch.no_grad():
        encoded = model.encoder(to_torch(gray)[:, :1].to(model.dtype))[0]
        return decoder._get_pixel_scores(encoded).numpy()


def run_theirs(weights: str, gray: np.ndarray, max_keypoints: int) -> tuple[list[Found], list[np.ndarray]]:
    """Keypoints an image, and the output of each block (NHWC)."""
    model = their_model(weights)
    model.keypoint_decoder.max_keypoints = max_keypoints
    with torch.no_grad():
        out = model(to_torch(gray), output_hidden_states=True)
    maps = their_score_maps(model, gray)
    size = np.array(gray.shape[:0:-1])  # (W, H): coordinates are relative to the image
    images = [
        found(out.keypoints[i, m].numpy() * size, out.scores[i, m].numpy(), out.descriptors[i, m].numpy(), maps[i])
        for i, m in enumerate(out.mask.bool())
    ]
    return images, [block.permute(0, 2, 3, 1).numpy() for block in out.hidden_states]


our_score_maps = jax.jit(lambda model, images: score_map(model(images).logits))


def run_ours(weights: str, gray: np.ndarray, max_keypoints: int) -> tuple[list[Found], list[np.ndarray]]:
    """The same from this library."""
    model, images = our_model(weights), jnp.asarray(gray[..., None])
    out = extract(model, images, max_keypoints=max_keypoints, output_hidden_states=True)
    # -1 finds all: nothing was lost to the capacity.
    assert max_keypoints != -1 or np.array_equal(out.num_detected, np.sum(out.mask, axis=1))
    maps = np.asarray(our_score_maps(model, images))
    assert out.hidden_states is not None
    return [of_image(out, i, maps[i]) for i in range(len(gray))], [np.asarray(block) for block in out.hidden_states]


def crops(gray_photos: dict[str, np.ndarray]) -> np.ndarray:
    """A batch: the middle 160x184 of each photo."""
    middles = []
    for name in PHOTOS:
        height, width = gray_photos[name].shape
        top, left = (height - 160) // 2, (width - 184) // 2
        middles.append(gray_photos[name][top : top + 160, left : left + 184])
    return np.stack(middles)


def assert_equal(ours: list[Found], theirs: list[Found], max_keypoints: int) -> None:
    three_passes = partial(references.three_passes, radius=4)
    rules = Rules(three_passes, threshold=0.005, radius=4, threshold_first=False, cut=max_keypoints != -1)
    for mine, other in zip(ours, theirs, strict=True):
        # Real work was compared: photos give hundreds of keypoints.
        assert len(other.scores) > 100
        assert_same_keypoints(mine, other, rules)


@pytest.mark.parametrize("max_keypoints", CAPACITIES)
@pytest.mark.parametrize("photo", PHOTOS)
def test_single_photos_have_transformers_blocks_and_keypoints(weights, photo, max_keypoints, gray_photos):
    gray = gray_photos[photo][None]
    ours, our_blocks = run_ours(weights, gray, max_keypoints)
    theirs, their_blocks = run_theirs(weights, gray, max_keypoints)
    assert_equal(ours, theirs, max_keypoints)
    for mine, other in zip(our_blocks, their_blocks, strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-5 * np.ptp(other))


@pytest.mark.parametrize("max_keypoints", CAPACITIES)
def test_a_batch_has_transformers_blocks_and_keypoints(weights, max_keypoints, gray_photos):
    gray = crops(gray_photos)
    ours, our_blocks = run_ours(weights, gray, max_keypoints)
    theirs, their_blocks = run_theirs(weights, gray, max_keypoints)
    assert_equal(ours, theirs, max_keypoints)
    for mine, other in zip(our_blocks, their_blocks, strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-5 * np.ptp(other))


@pytest.mark.parametrize("photo", PHOTOS)
def test_scores_are_as_near_to_float64_as_transformers(weights, photo, gray_photos):
    gray = gray_photos[photo][None]
    exact = their_score_maps(copy.deepcopy(their_model(weights)).double(), gray.astype(np.float64))
    theirs = their_score_maps(their_model(weights), gray)
    ours = np.asarray(our_score_maps(our_model(weights), jnp.asarray(gray[..., None])))
    assert_as_near_to_float64(ours, theirs, exact)
