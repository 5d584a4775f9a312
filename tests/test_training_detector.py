"""Training of the detector's head: which pixels are chosen, what repeats, what is made of photos, and a run."""

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import superpoint_jax as sp
from superpoint_jax.cli import main
from superpoint_jax.training.detector.losses import NEAR_PX, change, chosen, expected_repeats
from superpoint_jax.training.detector.run import DetectorTrainConfig, train_detector
from superpoint_jax.training.detector.views import (
    HIDDEN,
    STEPS_PER_PX,
    SharedViews,
    descriptor_margins,
    make_shared_views,
)
from superpoint_jax.training.parts import Scenery, read_parts

ROWS, COLUMNS = 5, 6
HEIGHT, WIDTH = 8 * ROWS, 8 * COLUMNS


def moved_views(count: int, shift_xy: tuple[float, float] = (0, 0), *, channels: int = 3, seed: int = 0) -> SharedViews:
    """Pairs whose second view is the first moved by a vector; all of it is shared that lies within the other view."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    own = np.stack([x, y], axis=-1)
    places = np.stack([own + shift_xy, own - np.array(shift_xy)])
    inside = ((places >= 0) & (places <= [WIDTH - 1, HEIGHT - 1])).all(-1)
    every: dict[str, Any] = dict(
        encoded=rng.normal(size=(count, 2, ROWS, COLUMNS, channels)).astype(np.float16),
        places=np.repeat(np.round(places * STEPS_PER_PX).astype(np.int16)[None], count, axis=0),
        shared=np.repeat(inside[None], count, axis=0),
        whole=np.ones((count, 2, ROWS, COLUMNS), bool),
        margins=np.full((count, 2, ROWS, COLUMNS), 2, np.float16),
    )
    return SharedViews(**every)


def one(views: SharedViews) -> SharedViews:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), views)


def repeats_of_one(logits: jax.Array, views: SharedViews, count: float, *, distinct: float) -> jax.Array:
    batch = jax.tree.map(lambda leaf: leaf[None], (logits, views))
    return expected_repeats(*batch, jnp.array([count]), distinct=distinct)[0]


def peak(x: int, y: int) -> np.ndarray:
    """Logits of a view with one certain keypoint."""
    logits = np.full((ROWS, COLUMNS, 65), -30.0, np.float32)
    logits[..., -1] = 30
    logits[y // 8, x // 8, -1] = -30
    logits[y // 8, x // 8, y % 8 * 8 + x % 8] = 30
    return logits


def test_the_expected_number_is_what_is_asked_for_and_only_the_order_counts():
    logits = jax.random.normal(jax.random.key(0), (ROWS, COLUMNS, 65)) * 3
    whole = jnp.ones((ROWS, COLUMNS), bool).at[0].set(False)
    for count in (2.0, 10.0, 18.0):
        found = chosen(logits, whole, count)
        assert found.shape == (HEIGHT, WIDTH)
        np.testing.assert_allclose(jnp.sum(found), count, rtol=1e-4)
        assert np.all(np.asarray(found[:8]) == 0)
    # Ten times fewer keypoints everywhere: the same are chosen.
    rarer = logits.at[..., -1].set(jax.nn.logsumexp(logits, axis=-1) + math.log(10))
    rarest = rarer.at[..., -1].add(3)
    np.testing.assert_allclose(chosen(rarest, whole, 10.0), chosen(rarer, whole, 10.0), atol=5e-3)
    # More than there are: every cell has one, except those whose best pixel is suppressed.
    assert 18 < float(jnp.sum(chosen(logits, whole, 500.0))) <= 24


def test_the_best_pixel_of_the_best_cell_is_chosen():
    logits = jnp.zeros((ROWS, COLUMNS, 65)).at[2, 3, 8 * 5 + 6].set(8)
    found = chosen(logits, jnp.ones((ROWS, COLUMNS), bool), 1.0)
    assert np.unravel_index(int(jnp.argmax(found)), found.shape) == (2 * 8 + 5, 3 * 8 + 6)
    assert float(jnp.max(found)) > 0.5


def test_a_keypoint_that_a_better_one_suppresses_is_not_chosen():
    """The keypoints of two cells are 3 px apart, so extraction keeps the better one; a third is far away."""
    logits = np.maximum(peak(15, 12), peak(18, 12))
    logits = np.maximum(logits, peak(40, 28))
    logits[1, 1, -1], logits[1, 2, -1], logits[3, 5, -1] = 26, 27, 28
    found = np.asarray(chosen(jnp.asarray(logits), jnp.ones((ROWS, COLUMNS), bool), 1.9))
    assert found[12, 15] > 0.9
    assert found[28, 40] > 0.9
    assert found[12, 18] == 0


def test_the_derivative_knows_that_the_number_is_kept():
    # The best pixel of each cell is in its middle, so that none suppresses another.
    logits = jax.random.normal(jax.random.key(1), (ROWS, COLUMNS, 65)).at[..., 36].add(7)
    direction = jax.random.normal(jax.random.key(2), logits.shape)
    values = jax.random.uniform(jax.random.key(3), (HEIGHT, WIDTH))

    def value(step: float) -> jax.Array:
        return jnp.sum(chosen(logits + step * direction, jnp.ones((ROWS, COLUMNS), bool), 8.0) * values)

    # So small that no other pixel becomes the best of its cell, and so large that float32 is exact enough.
    difference = (value(4e-3) - value(-4e-3)) / 8e-3
    np.testing.assert_allclose(jax.grad(value)(0.0), difference, rtol=1e-2)
    total = jax.grad(lambda logits: jnp.sum(chosen(logits, jnp.ones((ROWS, COLUMNS), bool), 8.0)))(logits)
    np.testing.assert_allclose(total, 0, atol=1e-5)


@pytest.mark.parametrize("distance", [0, 1, 2])
def test_a_keypoint_that_is_found_again_counts_by_its_distance(distance):
    views = one(moved_views(1, (5, 2)))
    logits = jnp.asarray(np.stack([peak(20, 13), peak(25 + distance, 15)]))
    expected = sum(math.exp(-(distance**2) / (2 * sigma**2)) for sigma in NEAR_PX) / 2
    np.testing.assert_allclose(repeats_of_one(logits, views, 1.0, distinct=0.0), expected, atol=2e-3)


def test_a_keypoint_that_is_not_found_again_or_cannot_be_told_from_others_counts_nothing():
    views = one(moved_views(1))
    apart = jnp.asarray(np.stack([peak(20, 13), peak(36, 29)]))
    assert float(repeats_of_one(apart, views, 1.0, distinct=0.0)) < 1e-3
    same = jnp.asarray(np.stack([peak(20, 13), peak(20, 13)]))
    np.testing.assert_allclose(repeats_of_one(same, views, 1.0, distinct=1.0), 1, atol=2e-3)
    alike = replace(views, margins=jnp.full_like(views.margins, -1))
    assert float(repeats_of_one(same, alike, 1.0, distinct=1.0)) < 1e-3
    np.testing.assert_allclose(repeats_of_one(same, alike, 1.0, distinct=0.25), 0.75, atol=2e-3)


def test_keypoints_that_only_one_view_shows_do_not_count():
    views = one(moved_views(1, (16, 0)))
    # 44 + 16 is beyond the border of the second view, and 12 - 16 beyond that of the first; 20 is seen again at 36.
    logits = jnp.asarray(np.stack([np.maximum(peak(44, 20), peak(20, 29)), np.maximum(peak(12, 20), peak(36, 29))]))
    logits = logits.at[0, 2, 5, -1].set(-30).at[0, 3, 2, -1].set(-30).at[1, 2, 1, -1].set(-30).at[1, 3, 4, -1].set(-30)
    np.testing.assert_allclose(repeats_of_one(logits, views, 2.0, distinct=0.0), 1, atol=2e-3)
    hidden = replace(views, shared=jnp.zeros_like(views.shared))
    assert float(repeats_of_one(logits, hidden, 2.0, distinct=0.0)) == 0
    assert np.isfinite(jax.grad(lambda logits: repeats_of_one(logits, hidden, 2.0, distinct=0.0))(logits)).all()


def test_a_keypoint_that_lies_in_a_cell_of_the_other_view_that_is_not_whole_is_not_repeated():
    views = one(moved_views(1))
    same = jnp.asarray(np.stack([peak(20, 13), peak(20, 13)]))
    broken = replace(views, whole=views.whole.at[1, 1, 2].set(False))
    assert float(repeats_of_one(same, broken, 1.0, distinct=0.0)) < 1e-3


def test_change_is_the_divergence_over_whole_cells():
    before = jax.random.normal(jax.random.key(0), (1, 2, 1, 65))
    after = jax.random.normal(jax.random.key(1), (1, 2, 1, 65))
    old, new = np.asarray(jax.nn.softmax(before)), np.asarray(jax.nn.softmax(after))
    p, q = old[0, 1, 0], new[0, 1, 0]
    p_place, q_place = p[:-1] / p[:-1].sum(), q[:-1] / q[:-1].sum()
    expected = np.sum(p * np.log(p / q)) + np.sum(p_place * np.log(p_place / q_place))
    whole = jnp.array([[[False], [True]]])
    np.testing.assert_allclose(change(after, before, whole), expected, rtol=1e-4)
    assert float(change(before, before, whole)) == 0
    assert float(change(after, before, jnp.zeros_like(whole))) == 0


@pytest.fixture
def folder(tmp_path, gray_photos):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("coffee", "camera"):
        Image.fromarray((gray_photos[name] * 255).astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def test_what_is_made_of_photos(tmp_path, folder):
    scenery = Scenery(pairs=4, shape=(76, 100), flat=1.0, strength=0.0, extractor_dtype="float32")
    options: Any = dict(scenery=scenery, extractor="ours")
    views = make_shared_views(folder, tmp_path / "views", **options)
    assert len(views) == 4
    assert views.places.shape == (4, 2, 72, 96, 2)
    assert views.encoded.shape[:4] == (4, 2, 9, 12) == views.whole.shape
    assert 0.2 < views.shared.mean() < 1
    # There and back again, where both places are known.
    places = views.places.astype(np.float64) / STEPS_PER_PX
    errors = []
    for pair in range(4):
        y, x = np.nonzero(views.shared[pair, 0])
        there = np.rint(places[pair, 0, y, x]).astype(int)
        kept = views.shared[pair, 1, there[:, 1], there[:, 0]]
        back = places[pair, 1, there[:, 1], there[:, 0]]
        errors.append(np.abs(back - np.stack([x, y], axis=-1))[kept].max(-1))
    # Rounding to a pixel in one view is at most a few pixels in the other.
    assert np.median(np.concatenate(errors)) < 1
    shown = views.margins[views.margins != HIDDEN]
    assert 0 < len(shown) < views.margins.size
    # With trained descriptors, the right place is often more similar than all others.
    assert np.mean(shown > 0) > 0.3
    again = read_parts(SharedViews, tmp_path / "views")
    np.testing.assert_array_equal(again.places, views.places)
    with pytest.raises(ValueError, match="made in another way"):
        make_shared_views(folder, tmp_path / "views", **options | {"seed": 1})
    with pytest.raises(ValueError, match="views of up to 1024 pixels"):
        make_shared_views(folder, tmp_path / "large", **options | {"scenery": replace(scenery, shape=(800, 1200))})


def test_margins_by_hand():
    """The descriptors of cells are unit vectors of their own, so each is right by 1, except for two equal ones.

    The second view is the first moved by one cell.
    """
    views = moved_views(1, (8, 0))
    own = np.eye(ROWS * COLUMNS, dtype=np.float32).reshape(ROWS, COLUMNS, -1)
    own[4, 4] = own[0, 0]
    descriptors = jnp.asarray(np.stack([own, np.roll(own, 1, axis=1)])[None])
    places = jnp.asarray(views.places[:1], jnp.float32) / STEPS_PER_PX
    shared = jnp.asarray(views.shared).at[0, 0, :8, 8:16].set(False)
    margins = np.asarray(descriptor_margins(descriptors, places, shared))
    expected = np.ones((1, 2, ROWS, COLUMNS))
    expected[0, 0, 4, 4] = expected[0, 0, 0, 0] = expected[0, 1, 4, 5] = expected[0, 1, 0, 1] = 0
    expected[0, 0, :, -1] = expected[0, 1, :, 0] = expected[0, 0, 0, 1] = HIDDEN
    np.testing.assert_allclose(margins, expected, atol=1e-5)


TINY = DetectorTrainConfig(steps=60, batch=2, keypoints=(4, 8), anchor=0.0, learning_rate=3e-3, ema_decay=0.9)


def repeated_and_not(model: sp.SuperPoint, count: int) -> SharedViews:
    """Views that differ in every other row of cells, where keypoints can therefore not be repeated."""
    channels = model.config.encoder_hidden_sizes[-1]
    views = moved_views(count, channels=channels)
    views.encoded[:, 1, ::2] = views.encoded[:, 0, ::2]
    views.encoded[:, :, ::2, :, 0] += 3
    return views


def test_a_run_learns_what_repeats_and_continues_with_the_same_result(tmp_path, random_model):
    model = random_model(0)
    views = repeated_and_not(model, 8)

    def repeats(model: sp.SuperPoint) -> float:
        given = jax.tree.map(jnp.asarray, views)
        logits = model.keypoint_decoder(given.encoded.astype(jnp.float32).reshape(16, ROWS, COLUMNS, -1))
        logits = logits.reshape(8, 2, ROWS, COLUMNS, 65)
        return float(jnp.mean(expected_repeats(logits, given, jnp.full(8, 6.0), distinct=0.0)))

    whole = train_detector(model, views, tmp_path / "whole", config=TINY, validate=lambda m: {"repeats": repeats(m)})
    assert repeats(whole) > 2 * repeats(model)
    assert "validation_repeats" in (tmp_path / "whole" / "metrics.csv").read_text()
    options: Any = dict(config=TINY, checkpoint_every=25)
    train_detector(model, views, tmp_path / "parts", stop_after=30, **options)
    parts = train_detector(model, views, tmp_path / "parts", **options)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_array_equal(a, b)
    # Nothing but the detector's head has changed.
    before = dict(nnx.to_flat_state(nnx.state(model)))
    for path, leaf in nnx.to_flat_state(nnx.state(whole)):
        same = np.array_equal(leaf[...], before[path][...])
        assert same == (path[0] != "keypoint_decoder"), path


def test_an_anchor_keeps_the_network_as_it_was(tmp_path, random_model):
    model = random_model(0)
    views = repeated_and_not(model, 8)

    def change_of(anchor: float) -> float:
        config = replace(TINY, anchor=anchor, steps=30)
        trained = train_detector(model, views, tmp_path / str(anchor), config=config)
        encoded = jnp.asarray(views.encoded, jnp.float32).reshape(16, ROWS, COLUMNS, -1)
        old, new = model.keypoint_decoder(encoded), trained.keypoint_decoder(encoded)
        return float(change(new, old, jnp.ones((16, ROWS, COLUMNS), bool)))

    assert change_of(100.0) < 0.2 * change_of(0.0)


def test_the_devices_change_nothing(tmp_path, random_model):
    model = random_model(0)
    views = repeated_and_not(model, 8)
    config = replace(TINY, steps=3, batch=8)
    one, eight = (
        train_detector(model, views, tmp_path / name, config=config, devices=devices)
        for name, devices in (("one", jax.devices()[:1]), ("eight", None))
    )
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_the_refinement_head_stays(tmp_path):
    model = sp.from_pretrained()
    views = moved_views(4, channels=model.config.encoder_hidden_sizes[-1])
    trained = train_detector(model, views, tmp_path, config=replace(TINY, steps=1))
    assert trained.config == model.config
    for a, b in zip(jax.tree.leaves(trained.refinement_head), jax.tree.leaves(model.refinement_head), strict=True):
        np.testing.assert_array_equal(a, b)


def test_views_of_another_network_are_refused(tmp_path, random_model):
    with pytest.raises(ValueError, match="the views have 3 channels"):
        train_detector(random_model(0), moved_views(4), tmp_path, config=TINY)


def test_numbers_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="batch=0"):
        DetectorTrainConfig(batch=0)
    with pytest.raises(ValueError, match="the smaller one first"):
        DetectorTrainConfig(keypoints=(300, 200))


@pytest.mark.slow
def test_the_command_makes_views_trains_and_saves(tmp_path, folder):
    command = ["train", "detector", "--data", folder, "-o", tmp_path / "run", "--pairs", "4", "--shape", "120", "160",
               "--steps", "2", "--batch", "2"]  # fmt: skip
    assert main([str(word) for word in command]) in (0, None)
    trained, before = sp.from_pretrained(tmp_path / "run" / "weights"), sp.from_pretrained()
    kernels = [m.keypoint_decoder.conv_score_a.kernel[...] for m in (trained, before)]
    assert not np.array_equal(*kernels)
    assert trained.refinement_head is not None
