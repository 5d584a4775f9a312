"""Description: each sampling rule by hand, interpolation against the loops, zeros outside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superpoint_jax import description
from superpoint_jax.description import SAMPLING_RULES
from tests.parity import references

sample_descriptors = jax.jit(description.sample_descriptors, static_argnames="rule")

H, W, D = 3, 5, 4
SIZES = jnp.array([[8 * H, 8 * W]])


@pytest.fixture(scope="module")
def dense() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(H, W, D)).astype(np.float32)


def sample(dense: np.ndarray, points: list, rule: str, image_sizes: jax.Array = SIZES) -> np.ndarray:
    xy = jnp.asarray(np.array(points, np.float32).reshape(1, -1, 2))
    mask = jnp.ones(xy.shape[:2], bool)
    return np.asarray(sample_descriptors(jnp.asarray(dense[None]), xy, mask, image_sizes, rule=rule)[0])


@pytest.mark.parametrize(
    ("rule", "x", "u"),
    [
        # The ends that each rule maps to the ends of a map of 80 cells (640 px).
        ("legacy", 3.5, 0),
        ("legacy", 639, 79),
        ("centered", 3.5, 0),
        ("centered", 635.5, 79),
        ("demo", 4, 0),
        ("demo", 636, 79),
        ("demo_2018", 0, 0),
        ("demo_2018", 640, 79),
    ],
)
def test_rules_by_hand(rule, x, u):
    np.testing.assert_allclose(SAMPLING_RULES[rule](jnp.float32(x), jnp.float32(80)), u, atol=1e-5)


def test_legacy_is_off_by_up_to_3_5_px():
    x = jnp.arange(640, dtype=jnp.float32)
    off = 8 * (SAMPLING_RULES["centered"](x, jnp.float32(80)) - SAMPLING_RULES["legacy"](x, jnp.float32(80)))
    assert 3.4 < np.abs(off).max() <= 3.5


@pytest.mark.parametrize("rule", SAMPLING_RULES)
@given(x=st.floats(0, 8 * W - 1, width=32), y=st.floats(0, 8 * H - 1, width=32))
def test_sampling_equals_the_loops(dense, rule, x, y):
    expected = references.descriptor_at(dense, x, y, rule)
    # float32 positions of up to 5 cells: 5e-7 of a cell, times differences of up to 4 between unit vectors' parts.
    np.testing.assert_allclose(sample(dense, [(x, y)], rule)[0], expected, atol=1e-5)


def test_a_cell_s_centre_has_the_cell_s_descriptor(dense):
    xy = [(8 * j + 3.5, 8 * i + 3.5) for i in range(H) for j in range(W)]
    expected = dense.reshape(-1, D) / np.linalg.norm(dense.reshape(-1, D), axis=1, keepdims=True)
    np.testing.assert_allclose(sample(dense, xy, "centered"), expected, atol=1e-6)


def test_descriptors_have_unit_length(dense):
    xy = np.random.default_rng(1).uniform(0, (8 * W - 1, 8 * H - 1), (50, 2))
    np.testing.assert_allclose(np.linalg.norm(sample(dense, list(xy), "legacy"), axis=1), 1, atol=1e-6)


def test_zeros_outside_the_map_fade_but_keep_the_direction(dense):
    # Half a cell left of the first centre there is half of its descriptor and half of nothing.
    np.testing.assert_allclose(
        sample(dense, [(0, 3.5)], "centered"), sample(dense, [(3.5, 3.5)], "centered"), atol=1e-6
    )


def test_far_outside_is_zero_and_not_nan(dense):
    np.testing.assert_array_equal(sample(dense, [(-100, 5), (5, 1e4)], "centered"), 0)


def test_masked_rows_are_zero(dense):
    xy, mask = jnp.full((1, 3, 2), 5.0), jnp.array([[True, False, True]])
    out = np.asarray(sample_descriptors(jnp.asarray(dense[None]), xy, mask, SIZES, rule="centered")[0])
    np.testing.assert_array_equal(out[1], 0)
    np.testing.assert_array_equal(out[0], out[2])


@pytest.mark.parametrize("rule", SAMPLING_RULES)
def test_only_the_image_s_own_cells_count(dense, rule):
    """A map padded with garbage gives what the map alone gives."""
    points = [(0, 0), (7, 12), (23.5, 13), (16, 15)]
    padded = dense.copy()
    padded[2:], padded[:, 3:] = 1e6, 1e6
    alone = sample(dense[:2, :3], points, rule, jnp.array([[16, 24]]))
    np.testing.assert_array_equal(sample(padded, points, rule, jnp.array([[16, 24]])), alone)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_count_as_zero(dense, value):
    """The descriptor of a place beside such a cell is that of the other cells, and that of the cell itself is 0."""
    damaged, zero = dense.copy(), dense.copy()
    damaged[1, 2], zero[1, 2] = value, 0
    points = [(8 * 2 + 1, 8 * 1 + 3.5), (8 * 2 + 3.5, 8 * 1 + 3.5), (3.5, 3.5)]
    found = sample(damaged, points, "centered")
    np.testing.assert_array_equal(found, sample(zero, points, "centered"))
    np.testing.assert_array_equal(found[1], 0)
    np.testing.assert_allclose(np.linalg.norm(found[[0, 2]], axis=1), 1, atol=1e-6)
    values = jnp.asarray(damaged[None]), jnp.array([points], jnp.float32), jnp.ones((1, 3), bool), SIZES
    gradient = jax.grad(lambda xy: sample_descriptors(values[0], xy, *values[2:], rule="centered").sum())(values[1])
    assert np.isfinite(gradient).all()


def test_jit_equals_eager(dense):
    xy = jnp.asarray(np.random.default_rng(1).uniform(0, 20, (1, 9, 2)).astype(np.float32))
    args = (jnp.asarray(dense[None]), xy, jnp.ones((1, 9), bool), SIZES)
    eager = description.sample_descriptors(*args, rule="legacy")
    # Fusion may contract a multiplication and an addition: units in the last place.
    np.testing.assert_allclose(sample_descriptors(*args, rule="legacy"), eager, atol=1e-6)
