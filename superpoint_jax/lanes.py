"""A block of the encoder in a form that fills the registers of a TPU, whose last axis has 128 lanes.

Blocks with 64 channels use half of them. Here two columns are one pixel of twice the channels, in [b, h, w/2, 2 c], and
each convolution has a kernel over such pairs. Half of its values are zeros, so other platforms would only lose by it.
The pooling becomes part of the second convolution: it is computed once for the left and once for the right column of
every pooled pixel, and the larger value is taken. The result is that of the plain block up to rounding.

In float32 these convolutions take three passes of bfloat16 instead of six, that is, 16 bits of each factor count. That
takes half the time, and changes scores by up to 1e-5 (docs/performance.md). Where an image has one channel, its
convolution has six passes: the errors of that layer would grow a hundredfold on the way to the scores.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jaxtyping import Float, Int

LANES = 128


def fits(x: Float[Array, "b h w c"], features: int) -> bool:
    """Whether a block of so many features can have this form for these images, and gains by it."""
    height, width = x.shape[1:3]
    return bool(height % 2 == 0 and width % 4 == 0) and 2 * features <= LANES


def separate_columns(x: Float[Array, "b h w c"]) -> Float[Array, "b h 2*w c2"]:
    """Pairs of columns as two columns of half the channels."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height, 2 * width, channels // 2)


def zero_outside(x: Float[Array, "b h w c"], sizes: Int[Array, "b 2"] | None) -> Float[Array, "b h w c"]:
    """Pairs of columns with zeros outside the top-left (height, width) of each image; unchanged without sizes."""
    if sizes is None:
        return x
    _, height, width, channels = x.shape
    rows = jnp.arange(height)[None, :, None, None]
    columns = 2 * jnp.arange(width)[:, None] + jnp.arange(channels)[None] // (channels // 2)
    inside = (rows < sizes[:, 0, None, None, None]) & (columns[None, None] < sizes[:, 1, None, None, None])
    return jnp.where(inside, x, 0)


def convolution(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c f"]) -> Float[Array, "b h w2 2*f"]:
    """The 3x3 convolution of images, as pairs of columns."""
    batch, height, width, channels = x.shape
    if channels == 1 and x.dtype == jnp.float32:
        return _product_of_patches(x, kernel)
    pairs = x.reshape(batch, height, width // 2, 2 * channels)
    return _convolve(pairs, _kernel_of_pairs(kernel, (0, 1), first=-2), stride=1, padding=(1, 1))


def convolution_and_maximum(
    x: Float[Array, "b h w c2"], kernel: Float[Array, "3 3 c f"], after: Callable[[Array], Array]
) -> Float[Array, "b h2 w2 2*f"]:
    """The 3x3 convolution of pairs of columns, `after` of it, and 2x2 max pooling, as pairs of columns."""
    left = _convolve(x, _kernel_of_pairs(kernel, (0, 2), first=-2), stride=2, padding=(1, 0))
    right = _convolve(x, _kernel_of_pairs(kernel, (1, 3), first=0), stride=2, padding=(0, 1))
    larger = jnp.maximum(after(left), after(right))
    return jnp.maximum(larger[:, 0::2], larger[:, 1::2])


def for_pairs(norm: nnx.BatchNorm | None) -> nnx.BatchNorm | None:
    """The batch norm of pairs of columns."""
    if norm is None:
        return None
    graph, state = nnx.split(norm)
    return nnx.merge(graph, jax.tree.map(lambda values: jnp.tile(values, 2), state))


def _product_of_patches(x: Float[Array, "b h w 1"], kernel: Float[Array, "3 3 1 f"]) -> Float[Array, "b h w2 2*f"]:
    """The convolution of one channel as a matrix product: eight times as fast in float32, no faster in bfloat16."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x[..., 0], ((0, 0), (1, 1), (1, 1)))
    patches = jnp.stack([padded[:, i : i + height, j : j + width : 2] for i in range(3) for j in range(4)])
    # Without the barrier, each of the patches is first copied into another layout.
    patches = lax.optimization_barrier(patches)
    two = jnp.stack([jnp.pad(kernel[:, :, 0], ((0, 0), (j, 1 - j), (0, 0))) for j in (0, 1)], axis=2)
    two = two.reshape(len(patches), -1).astype(x.dtype)
    return jnp.einsum("pbhw,pf->bhwf", patches, two, precision=lax.Precision.HIGHEST)


def _kernel_of_pairs(
    kernel: Float[Array, "3 3 c f"], outputs: tuple[int, int], *, first: int
) -> Float[Array, "3 3 2*c 2*f"]:
    """The kernel over six columns, of which `first` is the first, for the outputs at two columns."""
    rows, size, channels, features = kernel.shape
    starts = [column - size // 2 - first for column in outputs]
    placed = [jnp.pad(kernel, ((0, 0), (start, size - start), (0, 0), (0, 0))) for start in starts]
    return jnp.stack(placed, axis=3).reshape(rows, size, 2 * channels, 2 * features)


def _convolve(x: Array, kernel: Array, *, stride: int, padding: tuple[int, int]) -> Array:
    """The convolution with this stride and padding along the row."""
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        (1, stride),
        ((1, 1), padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGH,  # See above. In bfloat16 it makes no difference.
    )
