"""A block of the encoder in a form that is fast on a TPU.

A TPU's registers have 8 rows of 128 lanes. A pixel of 64 channels would fill half of the lanes, so here two columns are
one pixel of twice the channels, and each convolution has a kernel over such groups of columns. Where an image has one
channel, sixteen of its columns are a group. A part of the values of these kernels are zeros. The pooling becomes part
of the second convolution: it is computed once for the left and once for the right column of every pooled pixel, and the
larger value is taken. The rows of the registers hold the images of a batch; if there are fewer than eight, each image
is cut into strips. The result is that of the plain block up to rounding. On other platforms it would only take longer.

What the first convolution of the network gives for a batch is larger than the fast memory of a TPU. In bfloat16, the
slow one takes longer than the arithmetic, so large images are computed in bands of rows, one after the other.

In float32 these convolutions take three passes of bfloat16 instead of six, that is, 16 bits of each factor count. That
takes half the time, and changes scores by up to 1e-5 (docs/performance.md). Where an image has one channel, its
convolution has six passes: the errors of that layer would grow a hundredfold on the way to the scores.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int

LANES = 128
SUBLANES = 8
"""Rows of a register."""
BAND_BYTES = 80 * 2**20
"""Most bytes that the first convolution of a band may give for 8 images; the fast memory of a TPU has 128 MiB."""
FEWEST_ROWS = 16
"""Fewest rows of a band and of a strip, each of which computes two more."""
IMAGE_GROUP = 16
"""Columns in a group, where the image has one channel."""


def fits(features: int) -> bool:
    """Whether a block of so many features can have this form."""
    return LANES % features == 0


def per_group(values: Array, features: int) -> Array:
    """The values of channels, repeated for each column of a group."""
    return jnp.tile(values, LANES // features)


def block(
    x: Float[Array, "b h w c"],
    sizes: Int[Array, "b 2"] | None,
    kernels: tuple[Float[Array, "3 3 c f"], Float[Array, "3 3 f f"]],
    after: tuple[Callable[[Array], Array], Callable[[Array], Array]],
    *,
    differentiable: bool,
) -> Float[Array, "b h2 w2 f"]:
    """Two 3x3 convolutions with what comes `after` them, and 2x2 max pooling, which drops an odd last row or column.

    Args:
        x: Images.
        sizes: (height, width) of the valid area of each image, by default all. Outside, both layers give 0.
        kernels: The kernels of both convolutions.
        after: Bias, activation and batch norm of both, as functions of groups of columns.
        differentiable: Choose what has a fast derivative: no bands, an image in the same groups as features, and the
            padding of the convolutions.
    """
    batch, height, width, channels = x.shape
    features = kernels[0].shape[3]
    side = LANES // features
    group = IMAGE_GROUP if channels == 1 and not differentiable else side
    wide = width + -width % max(group, 2 * side)
    strips, rows = _parts(x, height * wide * features, differentiable=differentiable)
    bands = -(-height // (strips * rows))
    # Each part of an image has two rows more on both sides. For a derivative, XLA would then reverse all activations,
    # so there the convolutions of an image in one part pad it themselves.
    padding = 1 if differentiable and strips == 1 else 0
    margin = 1 - padding
    first = _first_convolution(kernels[0], group, x.dtype, padding)
    left = _grouped(kernels[1], range(0, 2 * side, 2), start=-side, size=3 * side).astype(x.dtype)
    right = _grouped(kernels[1], range(1, 2 * side, 2), start=0, size=3 * side).astype(x.dtype)

    def of_strips(values: Array) -> Array:
        """The values of each image, or of each strip of any image, for all strips of all images."""
        return jnp.broadcast_to(values, (batch, strips, *values.shape[2:])).reshape(-1, *values.shape[2:])

    def pooled(x: Array, row: Array) -> Array:
        """The block for a band with its margins, whose first row is `row`."""
        x = jnp.stack([x[:, rows * i : rows * (i + 1) + 4 * margin] for i in range(strips)], axis=1)
        x = x.reshape(batch * strips, rows + 4 * margin, wide // group, group * channels)
        x = after[0](first(x).reshape(-1, rows + 2 * margin, wide // side, LANES))
        starts = of_strips(row + rows * jnp.arange(strips, dtype=jnp.int32)[None])
        if sizes is not None:
            x = _zero_outside(x, of_strips(sizes[:, None]), starts - margin, side)
        elif margin or (rows, wide) != (height, width):
            x = _zero_outside(x, jnp.array([[height, width]], jnp.int32), starts - margin, side)
        halves = (
            _convolve(x, kernel, stride=2, padding=((padding, padding), columns))
            for kernel, columns in ((left, (1, 0)), (right, (0, 1)))
        )
        larger = jnp.maximum(*map(after[1], halves))
        larger = jnp.maximum(larger[:, 0::2], larger[:, 1::2])
        if sizes is not None:
            larger = _zero_outside(larger, of_strips(sizes[:, None]) // 2, starts // 2, side)
        return larger.reshape(batch, strips * rows // 2, wide // (2 * side), LANES)

    x = jnp.pad(x, ((0, 0), (0, 0), (0, wide - width), (0, 0)))
    x = x.reshape(batch, height, wide // group, group * channels)
    x = jnp.pad(x, ((0, 0), (2 * margin, bands * strips * rows - height + 2 * margin), (0, 0), (0, 0)))
    if bands == 1:
        x = pooled(x, jnp.int32(0))
    else:
        starts = strips * rows * np.arange(bands, dtype=np.int32)
        x = lax.map(lambda row: pooled(lax.dynamic_slice_in_dim(x, row, strips * rows + 4, axis=1), row), starts)
        x = jnp.moveaxis(x, 0, 1)
    return x.reshape(batch, -1, wide // 2, features)[:, : height // 2, : width // 2]


def _parts(x: Float[Array, "b h w c"], values: int, *, differentiable: bool) -> tuple[int, int]:
    """The number of strips of each image in a band, and the rows of each, if an image becomes so many values."""
    batch, height = x.shape[:2]
    # A larger batch may be that of several chips, and `jax.export` knows batches of any size.
    images = min(batch, SUBLANES) if isinstance(batch, int) else SUBLANES
    strips = max(1, min(SUBLANES // images, height // FEWEST_ROWS))
    bands = -(-2 * images * values // BAND_BYTES) if not differentiable and x.dtype != jnp.float32 else 1
    return strips, max(2 * -(-height // (2 * bands * strips)), FEWEST_ROWS)


def _first_convolution(
    kernel: Float[Array, "3 3 c f"], group: int, dtype: Any, padding: int
) -> Callable[[Array], Array]:
    """The convolution of groups of columns, a function of [b, h, w, c2], with so many rows of padding."""
    rows = (padding, padding)
    if kernel.shape[2] > 1 or dtype != jnp.float32:
        kernel = _grouped(kernel, range(group), start=-group, size=3 * group).astype(dtype)
        return partial(_convolve, kernel=kernel, padding=(rows, (1, 1)))
    # One product with all that a group sees: a quarter of the time.
    kernel = _placed(kernel, range(group), start=-1, size=group + 2).reshape(1, 1, 3 * (group + 2), -1)

    def convolution(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), rows, (1, 1), (0, 0)))
        x = jnp.concatenate([x[:, :, :-2, -1:], x[:, :, 1:-1], x[:, :, 2:, :1]], axis=-1)
        x = jnp.concatenate([x[:, i : i + x.shape[1] - 2] for i in range(3)], axis=-1)
        return _convolve(x, kernel, padding=((0, 0), (0, 0)), precision=lax.Precision.HIGHEST)

    return convolution


def _zero_outside(x: Float[Array, "b h w c"], sizes: Int[Array, "_b 2"], starts: Int[Array, " b"], side: int) -> Array:
    """Groups of columns with zeros outside the area of these sizes; the first row of each is the one of `starts`."""
    _, height, width, lanes = x.shape
    sizes = sizes[:, :, None, None, None]
    rows = starts[:, None, None, None] + jnp.arange(height)[None, :, None, None]
    columns = side * jnp.arange(width)[:, None] + jnp.arange(lanes)[None] // (lanes // side)
    # One after the other, because a TPU would keep the mask of both in memory.
    x = jnp.where(columns[None, None] < sizes[:, 1], x, 0)
    return jnp.where((rows >= 0) & (rows < sizes[:, 0]), x, 0)


def _placed(kernel: Float[Array, "3 3 c f"], outputs: range, *, start: int, size: int) -> Float[Array, "3 n c o f"]:
    """The kernel over `size` columns, of which the first is `start`, for the outputs at some columns."""
    width = kernel.shape[1]
    before = [column - width // 2 - start for column in outputs]
    placed = [jnp.pad(kernel, ((0, 0), (n, size - width - n), (0, 0), (0, 0))) for n in before]
    return jnp.stack(placed, axis=3)


def _grouped(kernel: Float[Array, "3 3 c f"], outputs: range, *, start: int, size: int) -> Float[Array, "3 n c2 f2"]:
    """The same over groups of as many columns as there are outputs."""
    rows, _, channels, features = kernel.shape
    group = len(outputs)
    placed = _placed(kernel, outputs, start=start, size=size)
    return placed.reshape(rows, size // group, group * channels, group * features)


def _convolve(
    x: Array,
    kernel: Array,
    *,
    padding: tuple[tuple[int, int], tuple[int, int]],
    stride: int = 1,
    precision: lax.Precision = lax.Precision.HIGH,
) -> Array:
    """The convolution with this stride along the row, and padding of rows and columns; for its precision see above."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,  # In bfloat16 it makes no difference.
    )
