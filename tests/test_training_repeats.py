"""Training by what repeats: which pixels are chosen, what repeats and matches, what is made of photos, and a run."""

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
from superpoint_jax.description import sample_descriptors
from superpoint_jax.training.parts import Scenery, make_parts, read_parts
from superpoint_jax.training.repeats.losses import (
    INVERSE_TEMPERATURE,
    NEAR_PX,
    change,
    chosen,
    expected_repeats,
    matching,
    turn,
)
from superpoint_jax.training.repeats.run import RepeatsTrainConfig, second_half, train_repeats
from superpoint_jax.training.repeats.views import (
    FIRST_BLOCKS,
    STEPS_PER_PX,
    SharedViews,
    in_whole_cells,
    make_shared_views,
)

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
        features=rng.normal(size=(count, 2, 2 * ROWS, 2 * COLUMNS, channels)).astype(np.float16),
        places=np.repeat(np.round(places * STEPS_PER_PX).astype(np.int16)[None], count, axis=0),
        shared=np.repeat(inside[None], count, axis=0),
        whole=np.ones((count, 2, ROWS, COLUMNS), bool),
    )
    return SharedViews(**every)


def one(views: SharedViews) -> SharedViews:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), views)


def repeats_of_one(
    logits: jax.Array, views: SharedViews, count: float, *, distinct: float, margin: float = 2.0
) -> jax.Array:
    logits, views = jax.tree.map(lambda leaf: leaf[None], (logits, views))
    margins = jnp.full((1, 2, ROWS, COLUMNS), margin, jnp.float32)
    return expected_repeats(logits, margins, views, jnp.array([count]), distinct=distinct)[0][0]


def peak(x: int, y: int) -> np.ndarray:
    """Logits of a view with one certain keypoint."""
    logits = np.full((ROWS, COLUMNS, 65), -30.0, np.float32)
    logits[..., -1] = 30
    logits[y // 8, x // 8, -1] = -30
    logits[y // 8, x // 8, y % 8 * 8 + x % 8] = 30
    return logits


def test_the_expected_number_is_what_is_asked_for_and_a_common_factor_of_scores_changes_nothing():
    logits = jax.random.normal(jax.random.key(0), (ROWS, COLUMNS, 65)) * 3
    whole = jnp.ones((ROWS, COLUMNS), bool).at[0].set(False)
    for count in (2.0, 6.0, 12.0):
        found = chosen(logits, whole, count)
        assert found.shape == (HEIGHT, WIDTH)
        np.testing.assert_allclose(jnp.sum(found), count, rtol=1e-4)
        assert np.all(np.asarray(found[:8]) == 0)
    # Ten times fewer keypoints everywhere: the same are chosen.
    rarer = logits.at[..., -1].set(jax.nn.logsumexp(logits, axis=-1) + math.log(10))
    rarest = rarer.at[..., -1].add(3)
    np.testing.assert_allclose(chosen(rarest, whole, 10.0), chosen(rarer, whole, 10.0), atol=5e-3)
    # More than there are: every whole cell has one, except where its best pixels are suppressed or near the border.
    assert 13 < float(jnp.sum(chosen(logits, whole, 500.0))) <= 24


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
    # Also where pixels of some cells are suppressed or near the border, and of others not.
    partly = jax.random.normal(jax.random.key(4), logits.shape) / 2
    total = jax.grad(lambda logits: jnp.sum(chosen(logits, jnp.ones((ROWS, COLUMNS), bool), 8.0)))(partly)
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
    assert float(repeats_of_one(same, views, 1.0, distinct=1.0, margin=-1)) < 1e-3
    np.testing.assert_allclose(repeats_of_one(same, views, 1.0, distinct=0.25, margin=-1), 0.75, atol=2e-3)


def test_keypoints_that_only_one_view_shows_do_not_count():
    views = one(moved_views(1, (16, 0)))
    # 40 + 16 is beyond the border of the second view, and 12 - 16 beyond that of the first; 20 is seen again at 36.
    logits = jnp.asarray(np.stack([np.maximum(peak(40, 20), peak(20, 29)), np.maximum(peak(12, 20), peak(36, 29))]))
    logits = logits.at[0, 2, 5, -1].set(-30).at[0, 3, 2, -1].set(-30).at[1, 2, 1, -1].set(-30).at[1, 3, 4, -1].set(-30)
    np.testing.assert_allclose(repeats_of_one(logits, views, 2.0, distinct=0.0), 1, atol=2e-3)
    hidden = replace(views, shared=jnp.zeros_like(views.shared))
    assert float(repeats_of_one(logits, hidden, 2.0, distinct=0.0)) == 0
    assert np.isfinite(jax.grad(lambda logits: repeats_of_one(logits, hidden, 2.0, distinct=0.0))(logits)).all()


def test_no_keypoint_is_near_a_border():
    # Extraction removes keypoints within 4 px of the border: so they count neither way, in either view.
    views = one(moved_views(1))
    at_border = jnp.asarray(np.stack([peak(3, 20), peak(3, 20)]))
    assert float(jnp.max(chosen(at_border[0], views.whole[0], 1.0))) < 1e-6
    assert float(repeats_of_one(at_border, views, 1.0, distinct=0.0)) < 1e-6
    inside = jnp.asarray(np.stack([peak(4, 20), peak(4, 20)]))
    np.testing.assert_allclose(repeats_of_one(inside, views, 1.0, distinct=0.0), 1, atol=2e-3)
    # (3, 18) of the first view is where (8, 20) of the second would be, so that one counts neither way.
    second = np.maximum(peak(8, 20), peak(25, 31))
    second[2, 1, -1] = second[3, 3, -1] = -30
    moved = jnp.asarray(np.stack([peak(20, 29), second]))
    np.testing.assert_allclose(repeats_of_one(moved, one(moved_views(1, (5, 2))), 2.0, distinct=0.0), 1, atol=5e-2)


def test_a_place_is_in_a_whole_cell_if_its_nearest_pixel_is():
    whole = jnp.ones((2, 3), bool).at[0, 1].set(False)
    edges = {7.4: True, 7.6: False, 15.4: False, 15.6: True, 23.0: True, 23.1: False, -0.1: False, 0.0: True}
    upper = jnp.array([(x, 7.4) for x in edges])
    np.testing.assert_array_equal(in_whole_cells(upper, whole), list(edges.values()))
    # The lower cells are all whole, so only what is outside is not in one of them.
    lower = jnp.array([(x, 7.6) for x in edges] + [(3.0, 15.0), (3.0, 15.1), (jnp.inf, 9.0)])
    np.testing.assert_array_equal(in_whole_cells(lower, whole), [*(0 <= x <= 23 for x in edges), True, False, False])


def test_the_probability_of_a_cell_is_the_sum_of_those_of_its_pixels():
    views = jax.tree.map(jnp.asarray, moved_views(1))
    logits = jax.random.normal(jax.random.key(4), (1, 2, ROWS, COLUMNS, 65))
    margins = jnp.zeros((1, 2, ROWS, COLUMNS))
    _, cells = expected_repeats(logits, margins, views, jnp.array([7.0]), distinct=0.5)
    for view in (0, 1):
        pixels = np.asarray(chosen(logits[0, view], views.whole[0, view], 7.0))
        expected = pixels.reshape(ROWS, 8, COLUMNS, 8).sum((1, 3))
        np.testing.assert_allclose(cells[0, view], expected, atol=1e-6)


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


def test_turn_is_the_mean_over_whole_cells():
    before = jnp.array([[[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]]])
    after = jnp.array([[[[0.6, 0.8]], [[-1.0, 0.0]], [[0.0, 1.0]]]])
    whole = jnp.array([[[True], [False], [True]]])
    np.testing.assert_allclose(turn(after, before, whole), 0.2, atol=1e-6)
    assert float(turn(after, before, jnp.zeros_like(whole))) == 0


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
    assert views.features.shape == (4, 2, 19, 25, 64)
    assert views.whole.shape == (4, 2, 9, 12)
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
    # Shared pixels of both views are seen again in whole cells of the other one, and not all cells are whole.
    assert 0.2 < views.whole.mean() < 1
    for here in (0, 1):
        pair, y, x = np.nonzero(views.shared[:, here])
        x_there, y_there = np.rint(places[pair, here, y, x]).astype(int).T // 8
        assert views.whole[pair, 1 - here, y_there, x_there].all()
    # The second half makes the same of them as the whole network of the views, up to half precision; so with trained
    # descriptors, the right place is often more similar than all others.
    given = jax.tree.map(jnp.asarray, views)
    features = given.features.astype(jnp.float32).reshape(8, 19, 25, 64)
    logits, descriptors = (x.reshape(4, 2, *x.shape[1:]) for x in second_half(sp.from_pretrained(), features))
    matched = matching(logits, descriptors, given)
    assert 0.1 < np.mean(matched.seen) < 1
    assert np.mean(matched.margins[matched.seen] > 0) > 0.3
    again = read_parts(SharedViews, tmp_path / "views")
    np.testing.assert_array_equal(again.places, views.places)
    with pytest.raises(ValueError, match="made in another way"):
        make_shared_views(folder, tmp_path / "views", **options | {"seed": 1})
    with pytest.raises(ValueError, match="views of up to 1024 pixels"):
        make_shared_views(folder, tmp_path / "large", **options | {"scenery": replace(scenery, shape=(800, 1200))})


def test_matching_by_hand():
    """The descriptors of cells are unit vectors of their own, so each is right by 1, except for two equal ones.

    The second view is the first moved by one cell. The keypoints are in the middle of the cells as far as pixels allow:
    so the descriptor at one is mixed with those of its neighbours, in the same way in both views.
    """
    views = jax.tree.map(jnp.asarray, moved_views(1, (8, 0)))
    logits = jnp.zeros((1, 2, ROWS, COLUMNS, 65)).at[..., 3 * 8 + 3].set(5)
    own = np.eye(ROWS * COLUMNS, dtype=np.float32).reshape(ROWS, COLUMNS, -1)
    own[4, 4] = own[0, 0]
    own[3, 0] = own[1, 0]
    descriptors = jnp.asarray(np.stack([own, np.roll(own, 1, axis=1)])[None])
    # A cell of the second view is not whole, so the first one's keypoint there is not shared either.
    broken = replace(
        views,
        whole=views.whole.at[0, 1, 1, 1].set(False),
        shared=views.shared.at[0, 0, 8:16, 0:8].set(False),
    )
    found = jax.tree.map(np.asarray, matching(logits, descriptors, broken))
    seen = np.ones((2, ROWS, COLUMNS), bool)
    seen[0, :, -1] = seen[1, :, 0] = seen[0, 1, 0] = seen[1, 1, 1] = False
    np.testing.assert_array_equal(found.seen[0], seen)
    alike = np.zeros_like(seen)
    alike[0, 0, 0] = alike[0, 4, 4] = alike[1, 0, 1] = alike[1, 4, 5] = True
    # For (3, 0) of the first view, the equal keypoint is in the cell that is not whole, so it is no rival.
    alike[1, 3, 1] = True
    # A neighbour to the right or below is mixed with this one by a sixteenth each, so the margin is not quite 1.
    assert found.margins[0][seen & ~alike].min() > 0.8
    assert np.abs(found.margins[0][seen & alike]).max() < 0.1
    # The neighbours of the two equal ones differ, so their similarities differ by up to 0.02, times 30.
    np.testing.assert_allclose(found.mismatch[0][seen & alike], math.log(2), atol=0.3)
    assert found.mismatch[0][seen & ~alike].max() < 1e-3


@pytest.mark.parametrize("rule", ["centered", "legacy"])
def test_the_mismatch_is_the_cross_entropy_with_the_other_keypoints(rule):
    """The keypoints and their places lie at the centres of cells as far as pixels allow; all of it is computed anew."""
    views = moved_views(1)
    logits = jax.random.normal(jax.random.key(0), (1, 2, ROWS, COLUMNS, 65))
    descriptors = jax.random.normal(jax.random.key(1), (1, 2, ROWS, COLUMNS, 8))
    descriptors = descriptors / jnp.linalg.norm(descriptors, axis=-1, keepdims=True)
    found = matching(logits, descriptors, jax.tree.map(jnp.asarray, views), rule=rule)
    best = np.asarray(jnp.argmax(logits[0, ..., :-1], axis=-1)).reshape(2, -1)
    y, x = np.divmod(np.arange(ROWS * COLUMNS), COLUMNS)
    keypoints = np.stack([8 * x + best % 8, 8 * y + best // 8], axis=-1).astype(np.float32)

    def sampled(view: int, xy: np.ndarray) -> np.ndarray:
        sizes = jnp.array([[HEIGHT, WIDTH]])
        return np.asarray(
            sample_descriptors(
                descriptors[:, view], jnp.asarray(xy)[None], jnp.ones((1, len(xy)), bool), sizes, rule=rule
            )[0]
        )

    for here in (0, 1):
        there = 1 - here
        mine, right, others = (
            sampled(here, keypoints[here]),
            sampled(there, keypoints[here]),
            sampled(there, keypoints[there]),
        )
        for cell in range(ROWS * COLUMNS):
            distance = np.hypot(*(keypoints[there] - keypoints[here][cell]).T)
            positive = mine[cell] @ right[cell]
            wrong = others @ mine[cell]
            logits_of_match = INVERSE_TEMPERATURE * np.array([positive, *wrong[distance > 6]])
            expected = np.log(np.sum(np.exp(logits_of_match - logits_of_match[0])))
            np.testing.assert_allclose(found.mismatch[0, here].reshape(-1)[cell], expected, rtol=1e-3, atol=1e-3)
            margin = positive - wrong[distance > 12].max()
            np.testing.assert_allclose(found.margins[0, here].reshape(-1)[cell], margin, atol=1e-4)


TINY = RepeatsTrainConfig(steps=60, batch=2, keypoints=(4, 8), anchor=0.0, keep=0.0, learning_rate=3e-3, ema_decay=0.9)


def repeated_and_not(model: sp.SuperPoint, count: int) -> SharedViews:
    """Views that differ in their upper half, where keypoints can therefore not be repeated."""
    views = moved_views(count, channels=model.config.encoder_hidden_sizes[FIRST_BLOCKS - 1])
    views.features[:, 1, ROWS:] = views.features[:, 0, ROWS:]
    views.features[:, :, ROWS:, :, 0] += 3
    return views


def of_cells(model: sp.SuperPoint, views: SharedViews) -> tuple[jax.Array, jax.Array]:
    features = jnp.asarray(views.features, jnp.float32)
    return second_half(model, features.reshape(-1, *features.shape[2:]))


def test_a_run_learns_what_repeats_and_matches_and_continues_with_the_same_result(tmp_path, random_model):
    model = random_model(0)
    views = repeated_and_not(model, 8)

    def measured(model: sp.SuperPoint) -> dict[str, float]:
        given = jax.tree.map(jnp.asarray, views)
        logits, descriptors = (leaf.reshape(8, 2, *leaf.shape[1:]) for leaf in of_cells(model, views))
        matched = matching(logits, descriptors, given)
        repeats, cells = expected_repeats(logits, matched.margins, given, jnp.full(8, 6.0), distinct=0.0)
        mismatch = jnp.sum(cells * matched.mismatch) / jnp.sum(cells)
        return {"repeats": float(jnp.mean(repeats)), "mismatch": float(mismatch)}

    config = replace(TINY, match=0.5)
    whole = train_repeats(model, views, tmp_path / "whole", config=config, validate=measured)
    before, after = measured(model), measured(whole)
    assert after["repeats"] > 2 * before["repeats"]
    assert after["mismatch"] < 0.5 * before["mismatch"]
    assert "validation_repeats" in (tmp_path / "whole" / "metrics.csv").read_text()
    options: Any = dict(config=config, checkpoint_every=25)
    train_repeats(model, views, tmp_path / "parts", stop_after=30, **options)
    parts = train_repeats(model, views, tmp_path / "parts", **options)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_array_equal(a, b)
    # Nothing has changed but the second half.
    first = dict(nnx.to_flat_state(nnx.state(model)))
    for path, leaf in nnx.to_flat_state(nnx.state(whole)):
        is_later = path[0] in ("keypoint_decoder", "descriptor_decoder") or path[:1] + path[2:3] in (
            ("encoder", 2),
            ("encoder", 3),
        )
        assert np.array_equal(leaf[...], first[path][...]) != is_later, path


@pytest.mark.parametrize("name", ["anchor", "keep"])
def test_the_network_can_be_kept_near_what_it_was(tmp_path, random_model, name):
    model = random_model(0)
    views = repeated_and_not(model, 8)

    def difference(weight: float) -> float:
        config = replace(TINY, match=0.5, steps=30, **{name: weight})
        trained = train_repeats(model, views, tmp_path / str(weight), config=config)
        (logits, descriptors), (logits_before, descriptors_before) = of_cells(trained, views), of_cells(model, views)
        whole = jnp.ones((16, ROWS, COLUMNS), bool)
        if name == "anchor":
            return float(change(logits, logits_before, whole))
        return float(turn(descriptors, descriptors_before, whole))

    assert difference(100.0) < 0.2 * difference(0.0)


def test_batch_norms_are_used_as_they_are(tmp_path, random_model):
    model = random_model(0, batch_norm=True)
    dense = model(jnp.ones((1, 40, 48, 1)) / 2, output_hidden_states=True)
    logits, descriptors = second_half(model, dense.hidden_states[FIRST_BLOCKS - 1])
    np.testing.assert_allclose(logits, dense.logits, atol=1e-4)
    np.testing.assert_allclose(descriptors, dense.descriptors, atol=1e-5)
    trained = train_repeats(model, repeated_and_not(model, 2), tmp_path, config=replace(TINY, steps=2))
    for old, new in zip(*(jax.tree.leaves(nnx.state(m, nnx.BatchStat)) for m in (model, trained)), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_devices_change_nothing(tmp_path, random_model):
    model = random_model(0)
    views = repeated_and_not(model, 8)
    config = replace(TINY, steps=3, batch=8)
    one, eight = (
        train_repeats(model, views, tmp_path / name, config=config, devices=devices)
        for name, devices in (("one", jax.devices()[:1]), ("eight", None))
    )
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_the_refinement_head_stays(tmp_path):
    model = sp.from_pretrained()
    views = moved_views(4, channels=model.config.encoder_hidden_sizes[FIRST_BLOCKS - 1])
    trained = train_repeats(model, views, tmp_path, config=replace(TINY, steps=1))
    assert trained.config == model.config
    for a, b in zip(jax.tree.leaves(trained.refinement_head), jax.tree.leaves(model.refinement_head), strict=True):
        np.testing.assert_array_equal(a, b)


def test_views_of_another_network_are_refused(tmp_path, random_model):
    with pytest.raises(ValueError, match="the views have 3 channels"):
        train_repeats(random_model(0), moved_views(4), tmp_path, config=TINY)


def test_numbers_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="batch=0"):
        RepeatsTrainConfig(batch=0)
    with pytest.raises(ValueError, match="the smaller one first"):
        RepeatsTrainConfig(keypoints=(300, 200))
    with pytest.raises(ValueError, match="distinct=2"):
        RepeatsTrainConfig(distinct=2.0)


def test_more_keypoints_than_cells_are_refused(tmp_path, random_model):
    model = random_model(0)
    views = repeated_and_not(model, 2)
    with pytest.raises(ValueError, match="5x6 cells, each with one at most"):
        train_repeats(model, views, tmp_path, config=replace(TINY, keypoints=(4, 31)))


def test_the_command_refuses_them_before_it_makes_views(tmp_path, folder, capsys):
    command = ["train", "repeats", "--data", str(folder), "-o", str(tmp_path / "run"), "--shape", "120", "160"]
    assert main(command) == 2
    assert "15x20 cells, each with one at most" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_views_by_other_weights_of_the_same_name_are_refused(tmp_path, random_model, folder):
    def make(name: str) -> SharedViews:
        options: Any = dict(scenery=Scenery(pairs=4, shape=(HEIGHT, WIDTH)), extractor=name, engine="xla")
        return make_parts(SharedViews, lambda *_: moved_views(4), folder, tmp_path / "views", **options)

    network = str(tmp_path / "network")
    sp.save_pretrained(random_model(0), network)
    make(network)
    make(network)
    sp.save_pretrained(random_model(1), network)
    with pytest.raises(ValueError, match="made in another way"):
        make(network)


@pytest.mark.slow
def test_the_command_makes_views_trains_and_saves(tmp_path, folder):
    command = ["train", "repeats", "--data", folder, "-o", tmp_path / "run", "--pairs", "4", "--shape", "120", "160",
               "--steps", "2", "--batch", "2", "--keypoints", "20", "200"]  # fmt: skip
    assert main([str(word) for word in command]) in (0, None)
    trained, before = sp.from_pretrained(tmp_path / "run" / "weights"), sp.from_pretrained()
    kernels = [m.keypoint_decoder.conv_score_a.kernel[...] for m in (trained, before)]
    assert not np.array_equal(*kernels)
    assert trained.refinement_head is not None
