"""Keypoints spread over the image: by hand, against a loop, in batches of mixed sizes, in regions, enlarged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import superpoint_jax as sp
from superpoint_jax import detection
from superpoint_jax.cli import main
from superpoint_jax.spreading import QUOTA, grid_cells, rank_in_cell, spread_over_grid
from tests.conftest import SMALL

select = jax.jit(detection.select_keypoints, static_argnames="config")
spread = jax.jit(spread_over_grid, static_argnames=("width", "count"))
CONFIG = sp.SuperPointConfig(**SMALL, max_keypoints=8, nms_radius=1, border_removal_distance=0, keypoint_threshold=0.01)
GRID = CONFIG.replace(spread="grid")


def test_the_best_of_every_cell_come_first_by_hand():
    # An image of 32x64 has 8 / QUOTA = 2 cells, squares. There are nine good peaks on the left, and three on the right.
    scores = np.zeros((1, 32, 64), np.float32)
    left = [(2 + 10 * (i % 3), 2 + 10 * (i // 3)) for i in range(9)]
    for i, (x, y) in enumerate(left):
        scores[0, y, x] = 0.9 - 0.01 * i
    right = [(40, 5), (50, 15), (60, 25)]
    for i, (x, y) in enumerate(right):
        scores[0, y, x] = 0.1 - 0.01 * i
    sizes = jnp.array([[32, 64]])
    plain, *_ = select(jnp.asarray(scores), sizes, config=CONFIG)
    assert plain[0].tolist() == [list(place) for place in left[:8]]
    places, values, mask, detected = select(jnp.asarray(scores), sizes, config=GRID)
    # Three rounds take three of each side; the other side has no more, so two more of the left fill the count.
    assert places[0].tolist() == [list(place) for place in [*left[:5], *right]]
    np.testing.assert_allclose(values[0], [0.9, 0.89, 0.88, 0.87, 0.86, 0.1, 0.09, 0.08], rtol=1e-6)
    assert mask.all()
    assert detected.tolist() == [12]


def test_cells_are_squares_where_they_can_be():
    rows, columns = (values.reshape(1, -1) for values in jnp.mgrid[:96, :128])
    cells = np.asarray(grid_cells(rows, columns, jnp.array([[96, 128]]), 12 * QUOTA)).reshape(96, 128)
    # 12 cells of 32x32.
    np.testing.assert_array_equal(cells[::32, ::32], np.arange(12).reshape(3, 4))
    np.testing.assert_array_equal(cells, np.kron(cells[::32, ::32], np.ones((32, 32), int)))
    # 100x30 pixels for 3 cells: three below each other, of equal height to a pixel.
    rows, columns = (values.reshape(1, -1) for values in jnp.mgrid[:100, :30])
    cells = np.asarray(grid_cells(rows, columns, jnp.array([[100, 30]]), 3 * QUOTA)).reshape(100, 30)
    assert np.bincount(cells[:, 0]).tolist() == [34, 33, 33]
    assert (cells == cells[:, :1]).all()


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=12).map(lambda v: (v * 12)[:12]))
def test_ranks_equal_those_of_a_loop(rows):
    cells, mask = (np.array(values) for values in zip(*rows, strict=True))
    expected, seen = [], {}
    for cell, there in zip(cells.tolist(), mask.tolist(), strict=True):
        expected.append(seen.get(cell, 0) if there else len(cells))
        seen[cell] = seen.get(cell, 0) + there
    assert rank_in_cell(jnp.asarray(cells)[None], jnp.asarray(mask)[None])[0].tolist() == expected


def chosen_by_a_loop(scores, index, size, width, count):
    """Rounds over the cells, written as one would say it."""
    side = np.float32(np.sqrt(np.float32(size[0]) * np.float32(size[1]) * np.float32(QUOTA / count)))
    down, across = (int(np.round(np.float32(length) / side)) for length in size)
    waiting = {}
    for place, (score, pixel) in enumerate(zip(scores, index, strict=True)):
        if score >= 0:
            y, x = divmod(int(pixel), width)
            waiting.setdefault(y * down // size[0] * across + x * across // size[1], []).append(place)
    taken = []
    while len(taken) < count and any(waiting.values()):
        heads = sorted(cell.pop(0) for cell in waiting.values() if cell)
        taken += heads[: count - len(taken)]
    return sorted(taken)


@pytest.mark.parametrize("seed", range(5))
def test_the_choice_equals_that_of_a_loop(seed):
    chance = np.random.default_rng(seed)
    size, width, count = (61, 83), 96, 40
    pixels = chance.choice(61 * 83, 300, replace=False)
    index = (pixels // 83 * width + pixels % 83).astype(np.int32)
    scores = np.sort(chance.random(300, np.float32) ** 3)[::-1].copy()
    scores[250:] = -1
    values, places = spread(scores[None], index[None], jnp.array([size]), width=width, count=count)
    expected = chosen_by_a_loop(scores, index, size, width, count)
    np.testing.assert_array_equal(places[0], index[expected])
    np.testing.assert_array_equal(values[0], scores[expected])


@pytest.fixture(scope="module")
def bundled():
    return sp.from_pretrained(max_keypoints=48)


@pytest.fixture(scope="module")
def images(photos):
    return jnp.asarray(np.stack([photos["camera"][:96, 100:228], photos["coffee"][:96, :128, 0]])[..., None])


def numbers(found: sp.Keypoints) -> np.ndarray:
    """The numbers of keypoints in cells of 32x32 pixels."""
    x, y = np.asarray(found.keypoints)[np.asarray(found.mask)].T
    return np.histogram2d(y, x, bins=(3, 4), range=((0, 96), (0, 128)))[0]


def in_cells(found: sp.Keypoints) -> float:
    """How unevenly the keypoints lie: the standard deviation of their numbers in cells of 32x32 pixels."""
    return float(numbers(found).std())


@pytest.mark.parametrize("enlarge", [1, 2])
def test_photos_are_covered_more_evenly_and_the_count_is_filled(bundled, images, enlarge):
    plain, even = (sp.extract(bundled, images, spread=rule, enlarge=enlarge) for rule in ("none", "grid"))
    np.testing.assert_array_equal(plain.num_detected, even.num_detected)
    for one, other in zip(plain, even, strict=True):
        assert one.mask.all()
        assert other.mask.all()
        assert np.all(np.diff(other.scores) <= 0)
        assert in_cells(other) < in_cells(one)
        assert other.scores.mean() < one.scores.mean()
    assert sum(map(in_cells, even)) < 0.8 * sum(map(in_cells, plain))
    np.testing.assert_allclose(np.linalg.norm(even.descriptors, axis=-1), 1, rtol=1e-5)
    # Where all fit, there is nothing to choose.
    everything, same = (sp.extract(bundled, images, spread=rule, max_keypoints=-1) for rule in ("none", "grid"))
    for one, other in zip(jax.tree.leaves(everything), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_cell_has_its_share_of_the_keypoints(bundled, images):
    """48 keypoints are four for each of 12 cells; a cell that has fewer gives all. Unrefined, none leaves its cell."""
    even, everything = (
        sp.extract(bundled, images, refinement="none", spread="grid", max_keypoints=count) for count in (48, -1)
    )
    for one, all_of_it in zip(even, everything, strict=True):
        assert np.any(numbers(all_of_it) < QUOTA)
        assert np.all(numbers(one) >= np.minimum(numbers(all_of_it), QUOTA))
    plain = sp.extract(bundled, images, refinement="none")
    assert any(
        np.any(numbers(one) < np.minimum(numbers(all_of_it), QUOTA))
        for one, all_of_it in zip(plain, everything, strict=True)
    )


def test_padding_and_other_images_change_nothing(bundled, images):
    sizes = jnp.array([[96, 128], [70, 101]])
    batch = sp.extract(bundled, images, image_sizes=sizes, spread="grid")
    for one, image, (height, width) in zip(batch, images, sizes.tolist(), strict=True):
        alone = sp.extract(bundled, image[None, :height, :width], spread="grid")[0]
        np.testing.assert_array_equal(one.mask, alone.mask)
        np.testing.assert_allclose(one.keypoints, alone.keypoints, atol=1e-3)


def test_regions_are_filled(bundled, images):
    region = np.zeros((2, 96, 128), bool)
    region[:, :, 40:] = True
    # Peaks lie in the region; the refinement may move a keypoint out of it.
    options = dict(spread="grid", region=jnp.asarray(region), max_keypoints=30, refinement="none")
    found = sp.extract(bundled, images, **options)
    assert found.mask.all()
    assert np.asarray(found.keypoints)[..., 0].min() >= 40


def test_it_composes_under_vmap_and_grad(bundled, images):
    floats = images.astype(jnp.float32) / 255
    batch = sp.extract(bundled, floats, spread="grid")
    mapped = jax.vmap(lambda image: sp.extract(bundled, image[None], spread="grid")[0])(floats)
    np.testing.assert_array_equal(batch.mask, mapped.mask)
    np.testing.assert_allclose(batch.keypoints, mapped.keypoints, atol=1e-3)
    gradient = jax.grad(lambda x: sp.extract(bundled, x, spread="grid").scores.sum())(floats)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_unknown_rules_are_refused_and_the_default_is_none(capsys):
    assert sp.SuperPointConfig().spread == "none"
    assert all(sp.SuperPointConfig.preset(name).spread == "none" for name in sp.config.PRESETS)
    with pytest.raises(ValueError, match="spread='even' is not known; choose one of 'none', 'grid'"):
        sp.SuperPointConfig(spread="even")
    with pytest.raises(SystemExit):
        main(["detect", "a.png", "--spread", "even"])
