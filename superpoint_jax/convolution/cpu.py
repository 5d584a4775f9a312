"""One convolution on the CPU, by the way that `choice` says."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from superpoint_jax.convolution import onednn, products, strips
from superpoint_jax.convolution.choice import is_faster_by_onednn, is_faster_by_winograd


def conv(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "n n c c2"],
    bias: Float[Array, " c2"],
    *,
    relu: bool,
    out_dtype: jnp.dtype,
) -> Float[Array, "b h w c2"]:
    """Convolution with zero padding to the same size, plus bias, then ReLU; sums in float32, rounded once."""
    if is_faster_by_winograd(x, kernel):
        return strips.blocks(x, [[(kernel, bias, None)]], None, pools=[False], relu=relu, out_dtype=out_dtype)
    if not is_faster_by_onednn(x, kernel):
        return products.conv(x, kernel, bias, relu=relu, out_dtype=out_dtype)
    side = kernel.shape[0] // 2
    y = onednn.convolve(x, kernel, pad_rows=side, pad_columns=side)
    y = y + bias.astype(jnp.float32)[None, None, None]
    return (jnp.maximum(y, 0) if relu else y).astype(out_dtype)
