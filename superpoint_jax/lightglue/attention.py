"""Attention within the keypoints of one image or between those of two images; padding keys are ignored."""

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
    """The mean of the values for each query, weighted by the softmax of query . key / sqrt(d) over the valid keys.

    The result for padding rows of the query has no meaning, but it is finite.

    Args:
        query: Queries, in the compute type.
        key: Keys, in the compute type.
        value: Values, in the compute type.
        key_mask: False for padding rows of key and value. "cudnn" needs the valid rows first.
        kernel: "cudnn" uses cuDNN's flash attention if the program runs on CUDA in half precision, and "xla" elsewhere.
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
        # JAX asks for float16 products that are summed in float32, which CPUs and TPUs don't support.
        query, key, value = (x.astype(jnp.float32) for x in (query, key, value))
    # JAX's function has no argument for the precision, and it promotes types; float32 must be exact on every platform.
    with jax.default_matmul_precision("highest"), jax.numpy_dtype_promotion("standard"):
        read = jax.nn.dot_product_attention(query, key, value, mask=key_mask[:, None, None], implementation="xla")
    return read.astype(kind)


def _with_cudnn(query: Array, key: Array, value: Array, key_mask: Array, lengths: Int[Array, " b"]) -> Array:
    # Under `vmap`, JAX's rule for this kernel needs all operands mapped or none, so a zero that depends on all operands
    # is added to each. XLA removes the addition.
    none = 0 * (query[:, 0, 0, 0] + key[:, 0, 0, 0]).astype(jnp.int32) + 0 * lengths
    query, key, value = (x + none.astype(x.dtype)[:, None, None, None] for x in (query, key, value))
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        query_seq_lengths=none + query.shape[1],
        # Without any key cuDNN gives NaN, so an image without keypoints uses its first row, which is zero padding.
        key_value_seq_lengths=none + jnp.maximum(lengths, 1),
        implementation="cudnn",
    )


def _has_cudnn(query: Array) -> bool:
    """Whether JAX can trace cuDNN's attention here. It needs cuDNN for this, even if the program runs elsewhere."""
    given = jax.ShapeDtypeStruct((1, *query.shape[1:]), query.dtype)
    try:
        jax.eval_shape(partial(jax.nn.dot_product_attention, implementation="cudnn"), given, given, given)
    except RuntimeError:
        return False
    return True
