"""The paths chosen by platform agree with the plain one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from superpoint_jax.convolution import choice, interface, processor, strips

SHAPES = [
    (2, 21, 13, 5),  # strips that do not divide the height
    (7, 2, 3, 8),  # several images in a strip, which do not divide the batch
    (1, 1, 1, 3),
    (3, 8, 40, 1),  # one channel has a way of its own
]


@pytest.fixture(
    params=[{"amx_bf16", "avx512_bf16"}, {"avx512_bf16"}, {"avx2"}, None],
    ids=["matrix-units", "bfloat16-instructions", "float32-alone", "this-one"],
)
def small_strips(monkeypatch, request):
    """Of kinds of processors; of this one with oneDNN, where it has that."""
    monkeypatch.setattr(processor, "cache_bytes", lambda: 8000)
    monkeypatch.setattr(choice, "MIN_STRIPS", 1)
    if request.param is not None:
        monkeypatch.setattr(processor, "flags", lambda: frozenset(request.param))


def _normal(key, shape, dtype):
    return jax.random.normal(jax.random.key(key), shape, dtype)


def _value_and_gradients(conv, x, kernel, bias, cotangent):
    y, backward = jax.vjp(conv, x, kernel, bias)
    return y, *backward(cotangent.astype(y.dtype))


def _assert_close(own, exact, rounding):
    exact = exact.astype(jnp.float32)
    np.testing.assert_allclose(
        own.astype(jnp.float32), exact, rtol=rounding, atol=rounding * float(jnp.abs(exact).max())
    )


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_convolution_and_its_gradients_are_the_plain_ones(small_strips, shape, size, dtype):
    arrays = (
        _normal(0, shape, dtype),
        _normal(1, (size, size, shape[-1], 6), dtype),
        _normal(2, (6,), dtype),
        _normal(3, (*shape[:3], 6), dtype),
    )
    linear = functools.partial(interface._conv, relu=False, out_dtype=jnp.dtype(dtype))
    exact = functools.partial(interface._conv_plain, relu=False, out_dtype=jnp.dtype("float32"))
    own = jax.jit(functools.partial(_value_and_gradients, lambda *a: linear(*a)))(*arrays)
    expected = _value_and_gradients(exact, *(a.astype(jnp.float32) for a in arrays))
    # One rounding of the result; in float32, of sums of up to 500 products in another order.
    rounding = float(jnp.finfo(dtype).eps) * (1 if dtype == "bfloat16" else 20)
    for a, b in zip(own, expected, strict=True):
        assert a.dtype == dtype
        _assert_close(a, b, rounding)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_leaves_the_heads_in_float32_was_never_rounded_to_less(dtype):
    x, kernel, bias = _normal(0, (1, 6, 9, 64), dtype), _normal(1, (1, 1, 64, 5), dtype), _normal(2, (5,), "float32")
    exact = np.asarray(x, np.float64) @ np.asarray(kernel[0, 0], np.float64) + np.asarray(bias, np.float64)
    for convolve in (interface._conv, interface._conv_plain):
        y = convolve(x, kernel, bias, False, jnp.dtype("float32"))
        assert y.dtype == jnp.float32
        np.testing.assert_allclose(y, exact, rtol=0, atol=64 * float(jnp.finfo("float32").eps) * np.abs(exact).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_no_gradient_flows_where_relu_is_zero(dtype):
    x, kernel = _normal(0, (1, 6, 9, 4), dtype), _normal(1, (3, 3, 4, 5), dtype)
    bias = jnp.zeros(5, dtype)

    def total(conv, x):
        return jnp.sum(conv(x, kernel, bias, True, jnp.dtype("float32")))

    x = x.at[:, :, :4].set(0)  # pre-activations of exactly zero
    own, plain = (jax.grad(functools.partial(total, conv))(x) for conv in (interface._conv, interface._conv_plain))
    # The gradient is rounded to the type before the products, and the result again.
    _assert_close(own, plain, 4 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("shape", [(2, 7, 9, 3), (1, 4, 6, 2), (1, 1, 4, 2)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pooling_and_its_gradient_are_the_plain_ones_under_ties(shape, dtype):
    x = jax.random.randint(jax.random.key(0), shape, -1, 2).astype(dtype)
    own, own_backward = jax.vjp(interface._max_pool, x)
    plain, plain_backward = jax.vjp(interface._max_pool_plain, x)
    np.testing.assert_array_equal(own, plain)
    cotangent = _normal(1, own.shape, dtype)
    np.testing.assert_array_equal(own_backward(cotangent)[0], plain_backward(cotangent)[0])


BLOCKS = [
    dict(shape=(2, 21, 13, 3), sizes=None),  # strips that do not divide the height, an odd last row and column
    dict(shape=(3, 40, 16, 1), sizes=[[40, 16], [9, 16], [23, 7]]),  # whole, within a strip, odd
    dict(shape=(1, 2, 200, 2), sizes=None),  # one strip
]


def _layers(channels, *, affine):
    widths = [channels, 6, 10]
    return [
        (
            _normal(i, (3, 3, *widths[i : i + 2]), "float32"),
            _normal(i + 2, (widths[i + 1],), "float32"),
            (_normal(i + 4, (widths[i + 1],), "float32"), _normal(i + 6, (widths[i + 1],), "float32"))
            if affine
            else None,
        )
        for i in range(2)
    ]


@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("case", BLOCKS, ids=str)
def test_a_block_in_strips_is_the_plain_one(small_strips, case, affine, pool):
    x, layers = jnp.abs(_normal(9, case["shape"], "float32")), _layers(case["shape"][-1], affine=affine)
    sizes = None if case["sizes"] is None else jnp.array(case["sizes"])
    x = interface._zero_outside(x, sizes)
    own = jax.jit(functools.partial(strips.blocks, pools=[pool]))(x, [layers], sizes)
    plain = jax.jit(functools.partial(interface._blocks_plain, pools=[pool]))(x, [layers], sizes)
    # The same sums; XLA may contract a product and a sum in one of them.
    _assert_close(own, plain, 4 * float(jnp.finfo("float32").eps))
    np.testing.assert_array_equal(own == 0, plain == 0)


CHAINS = [
    dict(layers=(2, 2), pools=[True, True], shape=(2, 50, 13, 1), sizes=[[50, 13], [21, 7]]),
    dict(layers=(2, 2), pools=[True, False], shape=(1, 37, 16, 3), sizes=None),
    dict(layers=(2, 2), pools=[False, True], shape=(3, 40, 12, 2), sizes=[[9, 12], [40, 5], [33, 11]]),
    dict(layers=(1, 1), pools=[True, True], shape=(2, 41, 9, 3), sizes=None),  # a lag of one row, which is odd
    dict(layers=(2, 1, 2), pools=[True, True, True], shape=(2, 70, 20, 1), sizes=[[70, 20], [55, 19]]),
    dict(layers=(2, 2), pools=[True, True], shape=(1, 4, 9, 1), sizes=None),  # less than a strip
]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("case", CHAINS, ids=str)
def test_a_chain_of_blocks_in_strips_is_the_plain_one(small_strips, case, affine):
    x, sizes = jnp.abs(_normal(9, case["shape"], "float32")), case["sizes"]
    sizes = None if sizes is None else jnp.array(sizes)
    x = interface._zero_outside(x, sizes)
    channels, chain = case["shape"][-1], []
    for count in case["layers"]:
        chain.append(_layers(channels, affine=affine)[:count])
        channels = chain[-1][-1][0].shape[-1]
    own = jax.jit(functools.partial(strips.blocks, pools=case["pools"]))(x, chain, sizes)
    plain = jax.jit(functools.partial(interface._blocks_plain, pools=case["pools"]))(x, chain, sizes)
    _assert_close(own, plain, 20 * float(jnp.finfo("float32").eps))
    np.testing.assert_array_equal(own == 0, plain == 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_blocks_together_are_the_blocks_one_by_one(small_strips, dtype):
    x, first, second = _normal(0, (2, 44, 13, 1), dtype), _layers(1, affine=False), _layers(10, affine=True)
    x = interface._zero_outside(x, sizes := jnp.array([[44, 13], [30, 8]]))
    together = interface.conv_blocks(x, [first, second], pools=[True, True], valid_sizes=sizes)
    one = interface.conv_blocks(x, [first], pools=[True], valid_sizes=sizes)
    one_by_one = interface.conv_blocks(one, [second], pools=[True], valid_sizes=sizes // 2)
    assert together.dtype == dtype
    _assert_close(together, one_by_one.astype(jnp.float32), 4 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_block_and_its_gradient_are_the_plain_ones_in_every_compute_type(small_strips, dtype):
    x, layers = _normal(9, (2, 21, 13, 3), dtype), _layers(3, affine=True)
    x = interface._zero_outside(x, sizes := jnp.array([[21, 13], [10, 8]]))
    cotangent = _normal(10, (2, 10, 6, 10), dtype)

    def value_and_gradients(block, x, cotangent):
        y, backward = jax.vjp(lambda x, layers: block(x, [layers], pools=[True], valid_sizes=sizes), x, layers)
        return y, backward(cotangent)

    own, own_gradients = jax.jit(functools.partial(value_and_gradients, interface.conv_blocks))(x, cotangent)
    _, plain_gradients = jax.jit(functools.partial(value_and_gradients, interface._blocks_plain))(x, cotangent)
    exact, _ = value_and_gradients(interface._blocks_plain, x.astype(jnp.float32), cotangent.astype(jnp.float32))
    assert own.dtype == dtype
    # Two convolutions, an affine map after each, and every result rounded to the type.
    _assert_close(own, exact, (8 if dtype == "bfloat16" else 20) * float(jnp.finfo(dtype).eps))
    # A backward pass takes the plain path: the same program.
    jax.tree.map(np.testing.assert_array_equal, own_gradients, plain_gradients)


def test_a_block_under_vmap_equals_a_loop(small_strips):
    x, layers = _normal(0, (3, 2, 21, 7, 3), "float32"), _layers(3, affine=False)
    block = functools.partial(interface.conv_blocks, blocks=[layers], pools=[True])
    own = jax.jit(jax.vmap(block))(x)
    _assert_close(own, jnp.stack([block(one) for one in x]), 4 * float(jnp.finfo("float32").eps))


def test_large_blocks_go_in_strips_on_this_platform(small_strips):
    x, layers = jnp.zeros((1, 40, 16, 3)), _layers(3, affine=False)
    block = functools.partial(interface.conv_blocks, blocks=[layers], pools=[True])
    assert "while" in str(jax.make_jaxpr(block)(x)) or "scan" in str(jax.make_jaxpr(block)(x))
    module = export.export(jax.jit(block), platforms=["cuda"])(x).mlir_module()
    assert "stablehlo.while" not in module


def test_vmap_equals_loop(small_strips):
    x, kernel, bias = _normal(0, (3, 2, 9, 7, 4), "bfloat16"), _normal(1, (3, 3, 4, 5), "bfloat16"), jnp.zeros(5)

    def gradient(x):
        return jax.grad(lambda k: jnp.sum(interface.conv(x, k, bias, relu=True).astype(jnp.float32)))(kernel)

    np.testing.assert_array_equal(jax.vmap(gradient)(x), jnp.stack([gradient(one) for one in x]))


def test_other_platforms_lower_the_plain_path():
    arrays = (_normal(0, (1, 16, 24, 4), "bfloat16"), _normal(1, (3, 3, 4, 8), "bfloat16"), jnp.zeros(8))

    def gradients(x, kernel, bias):
        def total(*arrays):
            return jnp.sum(interface.max_pool(interface.conv(*arrays, relu=True)).astype(jnp.float32))

        return jax.grad(total, argnums=(0, 1, 2))(x, kernel, bias)

    for platform in ("tpu", "cuda"):
        module = export.export(jax.jit(gradients), platforms=[platform])(*arrays).mlir_module()
        assert "stablehlo.while" not in module
        assert "stablehlo.dot_general" not in module
        assert module.count("stablehlo.convolution") == 3
        assert module.count("stablehlo.select_and_scatter") == 1
