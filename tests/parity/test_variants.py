"""Each published variant against its rules in plain numpy and torch (references.py), stage by stage on real photos."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import superpoint_jax
from superpoint_jax import SuperPoint, SuperPointConfig, extract
from superpoint_jax.detection import score_map
from superpoint_jax.extraction import decode
from tests.parity import references
from tests.parity.comparison import Rules, assert_as_near_to_float64, assert_same_keypoints, found, of_image
from tests.random_weights import State, model_of, random_state, state_of

torch = pytest.importorskip("torch")

PHOTOS = ("camera", "coffee", "astronaut", "chelsea", "coins", "page")
SIZE = (135, 179)
"""No multiple of 8: the rules for the right and the bottom border differ."""
WEIGHTS = [
    "seed 0",
    pytest.param("seed 1", marks=pytest.mark.slow),
    pytest.param("seed 2", marks=pytest.mark.slow),
    "shipped",
]
NETWORKS = [False, True]


@cache
def state(weights: str, batch_norm: bool) -> State:
    """The weights by name; rpautrat's network has batch norms, which the shipped weights lack."""
    if weights == "shipped":
        return state_of(superpoint_jax.from_pretrained())
    return random_state(int(weights.removeprefix("seed ")), SuperPointConfig(batch_norm=batch_norm))


def model_and_state(weights: str, preset: str) -> tuple[SuperPoint, State]:
    changes = dict(batch_norm=False) if weights == "shipped" else {}
    config = SuperPointConfig.preset(preset, **changes)
    return model_of(state(weights, config.batch_norm), config), state(weights, config.batch_norm)


def crops(gray_photos: dict[str, np.ndarray]) -> np.ndarray:
    """The middle of each photo, [B,H,W]."""
    middles = []
    for name in PHOTOS:
        top, left = ((whole - part) // 2 for whole, part in zip(gray_photos[name].shape, SIZE, strict=True))
        middles.append(gray_photos[name][top : top + SIZE[0], left : left + SIZE[1]])
    return np.stack(middles)


@jax.jit
def dense_stages(model: SuperPoint, images: jax.Array) -> dict[str, jax.Array]:
    dense = model(images, output_hidden_states=True)
    assert dense.hidden_states is not None
    blocks = {f"block_{i}": block for i, block in enumerate(dense.hidden_states)}
    return blocks | dict(logits=dense.logits, descriptors=dense.descriptors)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("preset", ["superglue", "rpautrat"])
def test_every_stage_of_the_network_is_within_1e_5_of_its_range(weights, preset, gray_photos):
    model, weights_by_name = model_and_state(weights, preset)
    images = crops(gray_photos)
    ours = dense_stages(model, jnp.asarray(images[..., None]))
    for i, image in enumerate(images):
        for name, theirs in references.network(weights_by_name, image).items():
            np.testing.assert_allclose(ours[name][i], theirs, rtol=0, atol=1e-5 * np.ptp(theirs), err_msg=name)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("preset", ["superglue", "magicleap", "rpautrat"])
def test_scores_are_as_near_to_float64_as_torchs(weights, preset, gray_photos):
    model, weights_by_name = model_and_state(weights, preset)
    images = crops(gray_photos)
    logits = dense_stages(model, jnp.asarray(images[..., None]))["logits"]
    ours = np.asarray(score_map(logits, rule=model.config.score_rule))
    shifted = references.VARIANTS[preset].shifted
    theirs, exact = (
        np.stack(
            [
                references.score_map(references.network(weights_by_name, image, dtype=dtype)["logits"], shifted=shifted)
                for image in images
            ]
        )
        for dtype in ("float32", "float64")
    )
    # All crops together: one alone has too few of its worst thousandth for a ratio to be steady.
    assert_as_near_to_float64(ours, theirs, exact)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("max_keypoints", [-1, 100])
@pytest.mark.parametrize("preset", references.VARIANTS)
def test_keypoints_and_descriptors_are_those_of_the_variants_rules(weights, preset, max_keypoints, gray_photos):
    model, weights_by_name = model_and_state(weights, preset)
    variant = references.VARIANTS[preset]
    images = crops(gray_photos)
    out = extract(model, jnp.asarray(images[..., None]), max_keypoints=max_keypoints)
    assert max_keypoints != -1 or np.array_equal(out.num_detected, np.sum(out.mask, axis=1))
    logits = dense_stages(model, jnp.asarray(images[..., None]))["logits"]
    our_maps = np.asarray(score_map(logits, rule=model.config.score_rule))

    def passes(scores: np.ndarray) -> list[np.ndarray]:
        if not variant.greedy:
            return references.three_passes(scores, 4)
        above = scores >= np.float32(variant.threshold)
        return [above, references.greedy(scores, above, 4)]

    rules = Rules(passes, variant.threshold, radius=4, threshold_first=variant.greedy, cut=max_keypoints != -1)
    total = 0
    for i, image in enumerate(images):
        stages = references.network(weights_by_name, image)
        theirs = references.decode(stages["logits"], stages["descriptors"], SIZE, variant, max_keypoints=max_keypoints)
        their_map = references.score_map(stages["logits"], shifted=variant.shifted)
        total += len(theirs.xy)
        assert_same_keypoints(
            of_image(out, i, our_maps[i]),
            found(np.array(theirs.xy), theirs.scores, theirs.descriptors, their_map),
            rules,
        )
    assert total >= 100  # Enough to mean something, in smooth crops and at the demo's high threshold, too.


@pytest.mark.parametrize("preset", references.VARIANTS)
def test_the_order_is_that_of_the_reference_on_the_same_scores(preset, gray_photos):
    """From our own logits, the reference's rules give the same rows in the same order, bit for bit."""
    model, _ = model_and_state("seed 0", preset)
    images = jnp.asarray(crops(gray_photos)[:2, ..., None])
    # Decoded apart from the network: in one program the compiler may round the logits in another way.
    dense = model(images)
    sizes = jnp.broadcast_to(jnp.array([SIZE], jnp.int32), (2, 2))
    out = decode(dense, sizes, config=model.config.replace(max_keypoints=200))
    for i, entry in enumerate(out.to_list()):
        logits, descriptors = np.asarray(dense.logits[i]), np.asarray(dense.descriptors[i])
        theirs = references.decode(logits, descriptors, SIZE, references.VARIANTS[preset], max_keypoints=200)
        np.testing.assert_array_equal(entry["keypoints"], theirs.xy)
