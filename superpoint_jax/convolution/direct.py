"""XLA's own convolution, by which every other way is measured."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Float


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "n n c c2"],
    *,
    pad_rows: int,
    pad_columns: int,
    sums: DTypeLike | None = None,
) -> Float[Array, "b h2 w2 c2"]:
    """Correlation with the kernel after so many zeros on each side, h2 = h + 2 pad_rows - n + 1.

    float32 is float32 on every platform. Results are of type `sums`, that of `x` by default.
    """
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=((pad_rows, pad_rows), (pad_columns, pad_columns)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST if x.dtype == jnp.float32 else None,
        preferred_element_type=sums,
    )
