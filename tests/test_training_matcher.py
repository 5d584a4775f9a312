"""Training of LightGlue: what is true about pairs, the loss, the start of a run, and the run."""

import dataclasses
import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from superpoint_jax import LightGlue
from superpoint_jax.cli import main
from superpoint_jax.training.matcher.losses import every_layer_loss, matching_loss, truth_of
from superpoint_jax.training.matcher.pairs import MatchingPairs, make_pairs
from superpoint_jax.training.matcher.run import (
    MatcherTrainConfig,
    Start,
    make_optimizer,
    start_from,
    train_matcher,
    train_step,
)
from superpoint_jax.training.matcher.validation import pair_metrics
from superpoint_jax.training.parts import Scenery, read_parts
from superpoint_jax.training.runs import initial_state
from tests.lightglue_features import random_matcher

TINY = MatcherTrainConfig(steps=4, batch=2, max_keypoints=12, dtype="float32", new_steps=2)


def made_pairs(count: int = 6, rows: int = 16, dim: int = 16, seed: int = 0) -> MatchingPairs:
    """Pairs whose second view is the first moved by (20, 10), with half of the points in both, and padding."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(10, 90, (count, 2, rows, 2))
    descriptors = rng.normal(size=(count, 2, rows, dim))
    shared = rows // 2
    points[:, 1, :shared] = points[:, 0, :shared] + [20, 10]
    descriptors[:, 1, :shared] = descriptors[:, 0, :shared] + 0.3 * rng.normal(size=(count, shared, dim))
    descriptors /= np.linalg.norm(descriptors, axis=-1, keepdims=True)
    mask = np.ones((count, 2, rows), bool)
    mask[:, :, -2:] = False
    positions = points + np.array([[20, 10], [-20, -10]])[:, None]
    return MatchingPairs(
        keypoints=jnp.asarray(points, jnp.float32),
        scores=jnp.ones((count, 2, rows)),
        descriptors=jnp.asarray(descriptors, jnp.float16),
        mask=jnp.asarray(mask),
        image_sizes=jnp.full((count, 2, 2), 128, jnp.int32),
        positions=jnp.asarray(positions, jnp.float32),
        known=jnp.asarray(mask),
        flat=jnp.arange(count) % 2 == 0,
    )


def test_truth_of_points_that_match_that_are_alone_and_of_which_nothing_is_known():
    a = [[10, 10], [30, 10], [50, 10], [70, 10], [90, 10]]
    b = [[30.0, 11], [50, 14], [10, 10], [11, 10], [70, 10]]
    positions_b = [[30, 11], [50, 14], [10, 10], [11, 10], [70, 10]]
    pairs = dataclasses.replace(
        made_pairs(1, 5),
        keypoints=jnp.array([[a, b]], jnp.float32),
        positions=jnp.array([[a, positions_b]], jnp.float32),
        mask=jnp.ones((1, 2, 5), bool),
        known=jnp.array([[[True, True, True, False, True], [True, True, True, True, True]]]),
    )
    truth = truth_of(pairs, match_px=3.0, no_match_px=5.0)
    # Row 0 has the nearer of two, row 2 has one at 4 px, about row 3 nothing is known, and row 4 has none.
    np.testing.assert_array_equal(truth.partners, [[2, 0, -1, -1, -1]])
    np.testing.assert_array_equal(truth.alone_a, [[False, False, False, False, True]])
    np.testing.assert_array_equal(truth.alone_b, [[False] * 5])


def test_the_loss_is_that_of_the_formula():
    pairs, model = made_pairs(3), random_matcher(1)
    truth = truth_of(pairs)
    found = jax.jit(LightGlue.__call__)(model, *pairs.features())
    expected = []
    for i in range(3):
        partners = [float(found.log_scores[i, k, j]) for k, j in enumerate(truth.partners[i]) if j >= 0]
        alone = [
            np.mean(np.asarray(log)[np.asarray(known)])
            for log, known in (
                (found.log_unmatched_a[i], truth.alone_a[i]),
                (found.log_unmatched_b[i], truth.alone_b[i]),
            )
        ]
        assert partners
        assert np.isfinite(alone).all()
        expected.append(-np.mean(partners) - np.mean(alone))
    np.testing.assert_allclose(matching_loss(found, truth), np.mean(expected), rtol=1e-5)
    _, parts = jax.jit(every_layer_loss)(model, pairs, truth)
    np.testing.assert_allclose(parts["last_layer"], np.mean(expected), rtol=1e-5)


def test_the_loss_ignores_padding_and_sides_are_alike():
    pairs, model = made_pairs(2), random_matcher(1)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=1, allow_int=True)
    def loss(pairs: MatchingPairs, model: LightGlue) -> jax.Array:
        return every_layer_loss(model, pairs, truth_of(pairs))[0]

    garbage = jnp.where(pairs.mask[..., None], pairs.keypoints, jnp.nan)
    spoiled = dataclasses.replace(
        pairs, keypoints=garbage, positions=jnp.where(pairs.mask[..., None], pairs.positions, 50)
    )
    swapped = jax.tree.map(lambda leaf: leaf if leaf.ndim == 1 else leaf[:, ::-1], pairs)
    expected, _ = loss(pairs, model)
    np.testing.assert_allclose(loss(swapped, model)[0], expected, rtol=1e-5)
    value, gradient = loss(spoiled, model)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(nnx.state(gradient, nnx.Param)))


def test_the_confidence_trains_nothing_but_itself():
    pairs, model = made_pairs(2), random_matcher(1)
    truth = truth_of(pairs)
    confidence = jax.grad(lambda model: every_layer_loss(model, pairs, truth)[1]["confidence"], allow_int=True)
    gradient = jax.jit(confidence)(model)
    moved = {path[0] for path, leaf in nnx.to_flat_state(nnx.state(gradient, nnx.Param)) if np.any(leaf[...] != 0)}
    assert moved == {"token_confidence"}


def test_a_start_keeps_the_first_layers_and_projects_other_descriptors(tmp_path):
    old = random_matcher(3)
    source = old.save_pretrained(tmp_path / "old")
    same, new_projection = start_from(source, descriptor_length=16, layers=3)
    assert not new_projection
    for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(old), strict=True):
        np.testing.assert_array_equal(a, b)

    model, new_projection = start_from(source, descriptor_length=24, layers=2, seed=5)
    assert new_projection
    assert model.rules.num_hidden_layers == 2
    assert model.rules.input_dim == 24
    head, own = (network.match_assignment_layers.final_projection.kernel[...] for network in (model, old))
    np.testing.assert_array_equal(head, own[:2])
    directions = jax.random.normal(jax.random.key(0), (500, 24))
    directions /= jnp.linalg.norm(directions, axis=-1, keepdims=True)
    before = jax.random.normal(jax.random.key(0), (500, 16))
    before /= jnp.linalg.norm(before, axis=-1, keepdims=True)
    lengths = []
    for network, x in ((model, directions), (old, before)):
        assert network.input_projection is not None
        lengths.append(float(jnp.mean(jnp.linalg.norm(network.input_projection(x), axis=-1))))
    np.testing.assert_allclose(*lengths, rtol=0.05)
    with pytest.raises(ValueError, match="layers=4"):
        start_from(source, descriptor_length=16, layers=4)


def test_a_new_projection_is_trained_first():
    model, pairs = random_matcher(1), made_pairs()
    state = initial_state(nnx.state(model, nnx.Param), make_optimizer(TINY, new_projection=True))
    before = nnx.to_flat_state(jax.tree.map(jnp.copy, state.params))
    moved = []
    for _ in range(3):
        state, _ = train_step(state, model, pairs, config=TINY, new_projection=True)
        pairs_of = zip(before, nnx.to_flat_state(state.params), strict=True)
        moved.append({path[0] for (path, a), (_, b) in pairs_of if np.any(a[...] != b[...])})
    assert moved[0] == moved[1] == {"input_projection"}
    assert "transformer_layers" in moved[2]


@pytest.mark.slow
def test_training_learns_and_its_devices_change_nothing(tmp_path):
    pairs, start = made_pairs(8), Start(random_matcher(1, filter_threshold=0.2, num_hidden_layers=2), False)
    config = replace(TINY, steps=60, batch=8, learning_rate=3e-3, new_steps=5, max_keypoints=16, ema_decay=0.8)
    assert len(jax.devices()) == 8
    networks = [
        train_matcher(start, pairs, tmp_path / name, config=config, devices=devices, checkpoint_every=100)
        for name, devices in (("one", jax.devices()[:1]), ("eight", None))
    ]
    before, after, again = (pair_metrics(network, pairs) for network in (start.model, *networks))
    assert after["parallax_recall"] > max(0.95, before["parallax_recall"] + 0.1)
    assert after["homography_precision"] > 0.95
    assert after == pytest.approx(again, abs=0.05)


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    pairs, start = made_pairs(), Start(random_matcher(1), True)
    whole = train_matcher(start, pairs, tmp_path / "whole", config=TINY)
    train_matcher(start, pairs, tmp_path / "cut", config=TINY, stop_after=3)
    resumed = train_matcher(start, pairs, tmp_path / "cut", config=TINY)
    for a, b in zip(jax.tree.leaves(nnx.state(whole)), jax.tree.leaves(nnx.state(resumed)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_pairs_of_another_extractor_are_refused(tmp_path):
    with pytest.raises(ValueError, match="descriptors of length 24"):
        train_matcher(Start(random_matcher(1), False), made_pairs(dim=24), tmp_path, config=TINY)


@pytest.mark.slow
def test_the_command_makes_pairs_trains_and_saves_and_goes_on(tmp_path, gray_photos):
    (tmp_path / "photos").mkdir()
    for name in ("coffee", "camera"):
        Image.fromarray((gray_photos[name] * 255).astype(np.uint8)).save(tmp_path / "photos" / f"{name}.png")
    random_matcher(2).save_pretrained(tmp_path / "start")
    options = ["--pairs", "8", "--shape", "120", "160", "--steps", "2", "--batch", "2", "--max-keypoints", "64",
               "--keypoints-per-view", "64"]  # fmt: skip
    command = ["train", "lightglue", "--data", tmp_path / "photos", "-o", tmp_path / "run", "--from",
               tmp_path / "start", "--layers", "2", *options]  # fmt: skip
    assert main([str(word) for word in command]) in (0, None)
    pairs = read_parts(MatchingPairs, tmp_path / "run" / "pairs")
    assert len(pairs) == 8
    assert pairs.descriptors.shape == (8, 2, 64, 256)
    assert truth_of(jax.tree.map(jnp.asarray, pairs)).partners.max() >= 0
    trained = LightGlue.from_pretrained(tmp_path / "run" / "weights")
    assert trained.rules.num_hidden_layers == 2
    assert trained.rules.input_dim == 256
    with pytest.raises(ValueError, match="made in another way"):
        make_pairs(tmp_path / "photos", tmp_path / "run" / "pairs", scenery=Scenery(pairs=4), extractor="ours")


def test_a_number_of_pairs_that_cannot_be_made_is_refused():
    with pytest.raises(ValueError, match="pairs=6"):
        Scenery(pairs=6)
    with pytest.raises(ValueError, match="steps=0"):
        MatcherTrainConfig(steps=0)


@pytest.mark.parametrize("name", ["flat", "calm", "degraded"])
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_a_fraction_of_pairs_outside_0_to_1_is_refused(name, value):
    fraction: Any = {name: value}
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Scenery(**fraction)
