"""Convolution blocks as pure functions: the interface, and the plain path that every platform but the CPU takes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import cast

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from superpoint_jax.convolution import choice, cpu, direct, pooling, products, strips
from superpoint_jax.convolution.choice import Affine, Layer


def conv(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "n n c c2"],
    bias: Float[Array, " c2"],
    *,
    relu: bool = False,
    affine: Affine | None = None,
    out_dtype: DTypeLike | None = None,
) -> Float[Array, "b h w c2"]:
    """Convolution with zero padding to the same size, plus bias, then ReLU, then scale and shift.

    Computes in the type of `x`. float32 is float32 on every platform (no TF32, no bfloat16 passes); on a CPU a large
    convolution may lose twice the rounding of a direct sum (winograd.py). Has a reverse derivative (`grad`, `vjp`), no
    forward one (`jvp`).
    """
    out_dtype = jnp.dtype(out_dtype or x.dtype)
    y = cast(Array, _conv(x, kernel.astype(x.dtype), bias, relu, out_dtype))
    # Where a variant normalises, it does so after the ReLU, so this can't be folded into the kernel before it.
    return y if affine is None else y * _channels(affine[0], out_dtype) + _channels(affine[1], out_dtype)


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """2x2 max pooling; an odd last row or column is dropped. The gradient goes to the first of equal maxima."""
    return cast(Array, _max_pool(x))


def conv_blocks(
    x: Float[Array, "b h w c"],
    blocks: Sequence[Sequence[Layer]],
    *,
    pools: Sequence[bool],
    valid_sizes: Int[Array, "b 2"] | None = None,
) -> Float[Array, "b h2 w2 c2"]:
    """Blocks one after the other: convolutions with ReLU, then a 2x2 pooling where `pools` says so.

    Args:
        x: Input; where `valid_sizes` is given, zero outside.
        blocks: (kernel, bias, affine) of each convolution of each.
        pools: Of each block.
        valid_sizes: (height, width) of the valid top-left part of each image. Outside, every activation is set to
            zero, as the padding of the image alone would be.
    """
    return cast(Array, _blocks(x, tuple(tuple(layers) for layers in blocks), valid_sizes, tuple(pools)))


def _blocks_plain(
    x: Array, blocks: Sequence[Sequence[Layer]], valid_sizes: Array | None, pools: Sequence[bool]
) -> Array:
    for layers, pool in zip(blocks, pools, strict=True):
        for kernel, bias, affine in layers:
            x = _zero_outside(conv(x, kernel, bias, relu=True, affine=affine), valid_sizes)
        if pool:
            valid_sizes = None if valid_sizes is None else valid_sizes // 2
            x = _zero_outside(max_pool(x), valid_sizes)
    return x


# Blocks in strips save nothing for the backward pass, so where one follows the plain path is taken.


def _blocks_by_platform(
    x: Array, blocks: Sequence[Sequence[Layer]], valid_sizes: Array | None, pools: tuple[bool, ...]
) -> Array:
    count = choice.in_strips(x, blocks, pools)
    if count == 0:
        return _blocks_plain(x, blocks, valid_sizes, pools)
    in_strips, plain = (functools.partial(way, pools=pools[:count]) for way in (strips.blocks, _blocks_plain))
    x = lax.platform_dependent(x, blocks[:count], valid_sizes, cpu=in_strips, default=plain)
    valid_sizes = None if valid_sizes is None else valid_sizes // 2 ** sum(pools[:count])
    return _blocks_by_platform(x, blocks[count:], valid_sizes, pools[count:])


def _blocks_forward(
    x: Array, blocks: Sequence[Sequence[Layer]], valid_sizes: Array | None, pools: tuple[bool, ...]
) -> tuple[Array, Callable[[Array], tuple[Array, Sequence[Sequence[Layer]]]]]:
    return jax.vjp(functools.partial(_blocks_plain, valid_sizes=valid_sizes, pools=pools), x, blocks)


def _blocks_backward(
    pools: tuple[bool, ...], backward: Callable[[Array], tuple[Array, Sequence[Sequence[Layer]]]], gradient: Array
) -> tuple[Array, Sequence[Sequence[Layer]], None]:
    return *backward(gradient), None


_blocks = jax.custom_vjp(_blocks_by_platform, nondiff_argnums=(3,))
_blocks.defvjp(_blocks_forward, _blocks_backward)


def _channels(values: Float[Array, " c"], dtype: jnp.dtype | type) -> Float[Array, "1 1 1 c"]:
    return values.astype(dtype)[None, None, None]


def _zero_outside(x: Array, sizes: Array | None) -> Array:
    if sizes is None:
        return x
    rows = jnp.arange(x.shape[1])[None, :, None] < sizes[:, :1, None]
    columns = jnp.arange(x.shape[2])[None, None, :] < sizes[:, 1:, None]
    return jnp.where((rows & columns)[..., None], x, 0)


def _convolve(x: Array, kernel: Array, out_dtype: jnp.dtype | None = None) -> Array:
    if kernel.shape[:2] == (1, 1):
        # A product of matrices: half the time on a CPU, and on every platform its sums may leave unrounded, which those
        # of a bfloat16 convolution may not. Logits rounded to bfloat16 would tie.
        contracted = (((3,), (0,)), ((), ()))
        precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
        return lax.dot_general(x, kernel[0, 0], contracted, precision=precision, preferred_element_type=out_dtype)
    side = kernel.shape[0] // 2
    y = direct.convolve(x, kernel, pad_rows=side, pad_columns=side)
    return y if out_dtype is None else y.astype(out_dtype)


def _conv_plain(x: Array, kernel: Array, bias: Array, relu: bool, out_dtype: jnp.dtype) -> Array:
    y = _convolve(x, kernel, out_dtype) + _channels(bias, out_dtype)
    return jax.nn.relu(y) if relu else y


# The derivatives are spelled out because XLA's own are what makes training slow on a CPU: that of a kernel takes
# several times as long as the convolution, that of the pooling about as long. Other platforms get XLA's. Each argument
# has a computation of its own, so that the one nobody asks for (that of the image) is dropped.


def _conv_by_platform(x: Array, kernel: Array, bias: Array, relu: bool, out_dtype: jnp.dtype) -> Array:
    plain = functools.partial(_conv_plain, relu=relu, out_dtype=out_dtype)
    if not choice.is_faster(x, kernel):
        return plain(x, kernel, bias)
    by_choice = functools.partial(cpu.conv, relu=relu, out_dtype=out_dtype)
    return lax.platform_dependent(x, kernel, bias, cpu=by_choice, default=plain)


def _conv_forward(
    x: Array, kernel: Array, bias: Array, relu: bool, out_dtype: jnp.dtype
) -> tuple[Array, tuple[Array, Array, Array, Array | None]]:
    y = _conv_by_platform(x, kernel, bias, relu, out_dtype)
    return y, (x, kernel, bias, y if relu else None)


def _conv_backward(
    relu: bool, out_dtype: jnp.dtype, saved: tuple[Array, Array, Array, Array | None], gradient: Array
) -> tuple[Array, Array, Array]:
    x, kernel, bias, y = saved
    gradient = gradient if y is None else jnp.where(y > 0, gradient, 0)
    bias_gradient = jnp.sum(gradient, axis=(0, 1, 2), dtype=jnp.float32).astype(bias.dtype)
    gradient = gradient.astype(x.dtype)
    return _input_gradient(kernel, gradient), _kernel_gradient(x, gradient, kernel.shape[0]), bias_gradient


_conv = jax.custom_vjp(_conv_by_platform, nondiff_argnums=(3, 4))
_conv.defvjp(_conv_forward, _conv_backward)


def _input_gradient(kernel: Array, gradient: Array) -> Array:
    flipped = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
    bias = jnp.zeros(flipped.shape[-1], gradient.dtype)
    return _conv_by_platform(gradient, flipped, bias, False, gradient.dtype)


def _kernel_gradient(x: Array, gradient: Array, size: int) -> Array:
    def plain(x: Array, gradient: Array) -> Array:
        kernel = jax.ShapeDtypeStruct((size, size, x.shape[-1], gradient.shape[-1]), x.dtype)
        return jax.linear_transpose(functools.partial(_convolve, x), kernel)(gradient)[0]

    if x.dtype not in (jnp.float32, jnp.bfloat16):
        return plain(x, gradient)
    by_products = functools.partial(products.kernel_gradient, size=size)
    return lax.platform_dependent(x, gradient, cpu=by_products, default=plain)


def _max_pool_plain(x: Array) -> Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


@jax.custom_vjp
def _max_pool(x: Array) -> Array:
    return lax.platform_dependent(x, cpu=pooling.max_pool, default=_max_pool_plain)


def _max_pool_backward(x: Array, gradient: Array) -> tuple[Array]:
    def plain(x: Array, gradient: Array) -> Array:
        return jax.vjp(_max_pool_plain, x)[1](gradient)[0]

    return (lax.platform_dependent(x, gradient, cpu=pooling.max_pool_gradient, default=plain),)


_max_pool.defvjp(lambda x: (_max_pool(x), x), _max_pool_backward)
