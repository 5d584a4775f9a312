"""Attention between the keypoints of two images, or of one: keys that are padding take no part."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from superpoint_jax.lightglue.config import AttentionKernel


def attend(
    query: Float[Array, "b i h d"],
    key: Float[Array, "b j h d"],
    value: Float[Array, "b j h d"],
    key_mask: Bool[Array, "b j"],
    *,
    kernel: AttentionKernel,
) -> Float[Array, "b i h d"]:
    """For each query the mean of the values, weighted by the softmax of query . key / sqrt(d) over the valid keys.

    What the queries of padding rows get has no meaning, but is finite.

    Args:
        query: In the compute type.
        key: The same.
        value: The same.
        key_mask: False rows of key and value are padding. "cudnn" needs the valid ones first.
        kernel: "cudnn" is cuDNN's flash attention where the program runs on CUDA in half precision; elsewhere "xla".
    """
    if kernel == "cudnn" and query.dtype in (jnp.bfloat16, jnp.float16) and _has_cudnn(query):
        lengths = jnp.sum(key_mask, axis=-1, dtype=jnp.int32)
        return lax.platform_dependent(
            query, key, value, key_mask, lengths, cuda=_with_cudnn, default=lambda *given: _with_xla(*given[:4])
        )
    return _with_xla(query, key, value, key_mask)


def _with_xla(query: Array, key: Array, value: Array, key_mask: Array) -> Array:
    kind = query.dtype
    if kind == jnp.float16:
        # JAX asks for products of float16 summed in float32, which neither CPUs nor TPUs have.
        query, key, value = (x.astype(jnp.float32) for x in (query, key, value))
    # float32 is float32 on every platform; there is no other way to tell this function of JAX. It mixes types, too.
    with jax.default_matmul_precision("highest"), jax.numpy_dtype_promotion("standard"):
        read = jax.nn.dot_product_attention(query, key, value, mask=key_mask[:, None, None], implementation="xla")
    return read.astype(kind)


def _with_cudnn(query: Array, key: Array, value: Array, key_mask: Array, lengths: Int[Array, " b"]) -> Array:
    # Under `vmap`, JAX's rule for this kernel needs all operands mapped or none; XLA drops what adds nothing.
    none = 0 * (query[:, 0, 0, 0] + key[:, 0, 0, 0]).astype(jnp.int32) + 0 * lengths
    query, key, value = (x + none.astype(x.dtype)[:, None, None, None] for x in (query, key, value))
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        query_seq_lengths=none + query.shape[1],
        # It gives NaN where there is no key at all; the first row of such an image is padding, and zero.
        key_value_seq_lengths=none + jnp.maximum(lengths, 1),
        implementation="cudnn",
    )


def _has_cudnn(query: Array) -> bool:
    """Whether this installation can trace it: JAX refuses where it finds no cuDNN, even for another machine."""
    given = jax.ShapeDtypeStruct((1, *query.shape[1:]), query.dtype)
    try:
        jax.eval_shape(partial(jax.nn.dot_product_attention, implementation="cudnn"), given, given, given)
    except RuntimeError:
        return False
    return True
