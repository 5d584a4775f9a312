"""Winograd's filtering gives the convolution, to the rounding that its points are chosen for."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from superpoint_jax.convolution import choice, interface, processor, winograd

EPS = float(jnp.finfo("float32").eps)


def _normal(key, shape):
    return jax.random.normal(jax.random.key(key), shape)


def _exact(x, kernel):
    """The correlation in float64, without padding above and below, with zeros to the left and right."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (0, 0)))
    kernel = np.asarray(kernel, np.float64)
    height, width = x.shape[0] - 2, x.shape[1] - 2
    return sum(x[i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3))


def _rms(difference):
    return float(np.sqrt(np.mean(np.square(difference))))


def test_evaluation_and_interpolation_give_the_correlation_by_hand():
    values, taps, results = winograd.matrices()
    x, kernel = np.array([1.0, -2, 3, 0, 5, 7]), np.array([2.0, -1, 4])
    by_hand = [2 + 2 + 12, -4 - 3 + 0, 6 - 0 + 20, 0 - 5 + 28]
    np.testing.assert_allclose(results @ ((taps @ kernel) * (values @ x)), by_hand, rtol=1e-12)


@pytest.mark.parametrize("shape", [(10, 13, 5), (6, 4, 3), (3, 1, 2), (4, 9, 1), (23, 40, 8)], ids=str)
def test_any_shape_is_convolved(shape):
    x, kernel = _normal(0, shape), _normal(1, (3, 3, shape[-1], 7))
    own = jax.jit(lambda x, kernel: winograd.convolve(x, winograd.transform(kernel)))(x, kernel)
    exact = _exact(x, kernel)
    assert own.shape == exact.shape
    # Sums of up to 72 products and the factor that test_points_... bounds.
    np.testing.assert_allclose(own, exact, rtol=0, atol=30 * EPS * np.abs(exact).max())


def test_points_cost_twice_the_rounding_of_the_direct_sum_and_the_usual_ones_more(monkeypatch):
    x, kernel = jnp.abs(_normal(0, (18, 40, 64))), _normal(1, (3, 3, 64, 8)) / 24
    exact = _exact(x, kernel)
    direct = lax.conv_general_dilated(
        x[None], kernel, (1, 1), ((0, 0), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )[0]

    def error(points):
        chosen = winograd.matrices(points)
        with monkeypatch.context() as patch:
            patch.setattr(winograd, "matrices", lambda: chosen)
            return _rms(winograd.convolve(x, winograd.transform(kernel)) - exact)

    usual = error(tuple(Fraction(point) for point in (0, 1, -1, 2, -2)))
    own = error(winograd.POINTS)
    assert own < 3 * _rms(direct - exact)
    assert own < 0.6 * usual


def test_nothing_waits_for_a_buffer():
    """The branches are still there when XLA has done its work: without them the products run one after the other."""
    x, kernel = _normal(0, (10, 16, 32)), _normal(1, (3, 3, 32, 32))
    compiled = jax.jit(lambda x, kernel: winograd.convolve(x, winograd.transform(kernel))).lower(x, kernel).compile()
    assert compiled.as_text().count(" conditional(") == 2


@pytest.fixture
def everywhere(monkeypatch):
    """Chosen for all but one channel, in small strips."""
    monkeypatch.setattr(choice, "MIN_CHANNELS", 2)
    monkeypatch.setattr(choice, "MIN_OPERATIONS", {"avx2": 0})
    monkeypatch.setattr(choice, "MIN_STRIPS", 1)
    monkeypatch.setattr(processor, "flags", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(processor, "cache_bytes", lambda: 8000)


def _layers(channels, *, affine):
    widths = [channels, 6, 10]
    return [
        (
            _normal(i, (3, 3, *widths[i : i + 2])),
            _normal(i + 2, (widths[i + 1],)),
            (_normal(i + 4, (widths[i + 1],)), _normal(i + 6, (widths[i + 1],))) if affine else None,
        )
        for i in range(2)
    ]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("sizes", [None, [[21, 13], [9, 6]]], ids=["whole", "parts"])
def test_a_block_is_the_plain_one(everywhere, channels, affine, sizes):
    x, layers = jnp.abs(_normal(9, (2, 21, 13, channels))), _layers(channels, affine=affine)
    sizes = None if sizes is None else jnp.array(sizes)
    x = interface._zero_outside(x, sizes)
    own = jax.jit(lambda x: interface.conv_blocks(x, [layers], pools=[True], valid_sizes=sizes))(x)
    plain = jax.jit(lambda x: interface._blocks_plain(x, [layers], sizes, [True]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processor, "flags", frozenset)
        expected = plain(x)
    # Two layers, whose sums lose up to thirty roundings of the largest value.
    np.testing.assert_allclose(own, expected, rtol=0, atol=60 * EPS * float(jnp.abs(expected).max()))


def test_an_image_alone_beside_others_and_in_a_larger_array_gives_the_same(everywhere):
    layers = _layers(3, affine=False)

    def block(x, sizes=None):
        return np.asarray(interface.conv_blocks(x, [layers], pools=[False], valid_sizes=sizes))

    x = jnp.abs(_normal(9, (2, 21, 13, 3)))
    wider = jnp.zeros((2, 40, 30, 3)).at[:, :21, :13].set(x)
    sizes = jnp.array([[21, 13]] * 2)
    np.testing.assert_array_equal(block(x)[1:], block(x[1:]))
    # Products of other shapes may sum in another order.
    np.testing.assert_allclose(block(wider, sizes)[:, :21, :13], block(x), rtol=0, atol=60 * EPS * block(x).max())
    assert not block(wider, sizes)[:, 21:].any()
    assert not block(wider, sizes)[:, :, 13:].any()


def test_a_convolution_and_its_gradients_are_the_plain_ones(everywhere):
    x, kernel, bias = _normal(0, (2, 21, 13, 5)), _normal(1, (3, 3, 5, 6)), _normal(2, (6,))

    def value_and_gradients(convolve):
        y, backward = jax.vjp(lambda *a: convolve(*a, True, jnp.dtype("float32")), x, kernel, bias)
        return y, *backward(jnp.ones_like(y))

    for own, plain in zip(
        value_and_gradients(interface._conv), value_and_gradients(interface._conv_plain), strict=True
    ):
        np.testing.assert_allclose(own, plain, rtol=0, atol=60 * EPS * float(jnp.abs(plain).max()))


def test_what_is_not_finite_stays_in_its_surroundings(everywhere):
    x, layers = jnp.abs(_normal(9, (1, 40, 40, 3))), _layers(3, affine=False)
    y = interface.conv_blocks(x.at[0, 20, 20, 0].set(jnp.nan), [layers], pools=[False])
    finite = np.isfinite(np.asarray(y)).all(-1)[0]
    assert not finite[18:23, 18:23].any()
    assert finite[:, :8].all()
    assert finite[:4].all()


@pytest.mark.parametrize(("flags", "chosen"), [("avx2", True), ("avx2 avx512f", True), ("neon", False), ("", False)])
def test_it_is_chosen_where_it_was_measured_to_be_faster(monkeypatch, flags, chosen):
    monkeypatch.setattr(processor, "flags", lambda: frozenset(flags.split()))
    full, kernel = jnp.zeros((1, 480, 640, 64)), jnp.zeros((3, 3, 64, 64))
    assert choice.is_faster_by_winograd(full, kernel) == chosen
    assert not choice.is_faster_by_winograd(full, jnp.zeros((1, 1, 64, 64)))
    assert not choice.is_faster_by_winograd(jnp.zeros((1, 60, 80, 64)), kernel)


def test_a_block_under_vmap_equals_a_loop(everywhere):
    x, layers = jnp.abs(_normal(0, (3, 2, 21, 7, 3))), _layers(3, affine=False)

    def block(x):
        return interface.conv_blocks(x, [layers], pools=[True])

    looped = np.stack([block(one) for one in x])
    np.testing.assert_allclose(jax.jit(jax.vmap(block))(x), looped, rtol=0, atol=60 * EPS * looped.max())
