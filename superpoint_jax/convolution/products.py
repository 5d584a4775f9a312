"""Convolution, and its gradient to the kernel, as products of matrices in strips that stay in the caches.

Two facts about XLA on CPUs shape this file:
- Whatever moves bfloat16 about (slice, pad, concatenate) goes through float32 and back. The same bits as uint16 are
  just moved; hence `words` and `numbers`.
- A product that contracts both operands over their first axis misses the matrix units, and XLA's loops are slow at
  transposing; a product with the identity transposes on the matrix units.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from superpoint_jax.convolution.choice import strip_size


def conv(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "n n c c2"],
    bias: Float[Array, " c2"],
    *,
    relu: bool,
    out_dtype: jnp.dtype,
) -> Float[Array, "b h w c2"]:
    """Convolution with zero padding to the same size, plus bias, then ReLU; sums in float32, rounded once."""
    size, _, channels, features = kernel.shape
    batch, height, width, _ = x.shape
    images, rows = strip_size(x.shape, size * (2 * channels + 4 * features))
    groups, strips, halo = -(-batch // images), -(-height // rows), size // 2
    padding = ((0, groups * images - batch), (halo, halo + strips * rows - height), (halo, halo), (0, 0))
    padded = jnp.pad(words(x), padding)
    # Taps of a row side by side in the depth of the product, rows of the kernel side by side in its width.
    matrix = jnp.moveaxis(kernel, 0, 2).reshape(size * channels, size * features)

    def strip(index: Array) -> Array:
        start = (index // strips * images, index % strips * rows, 0, 0)
        window = lax.dynamic_slice(padded, start, (images, rows + 2 * halo, width + 2 * halo, channels))
        by_row = product(_side_by_side(window, size), words(matrix), 3, 0)
        y = sum(by_row[:, i : i + rows, :, i * features : (i + 1) * features] for i in range(size))
        y = y + bias.astype(jnp.float32)[None, None, None]
        return words((jnp.maximum(y, 0) if relu else y).astype(out_dtype))

    y = lax.map(strip, jnp.arange(groups * strips)).reshape(groups, strips, images, rows, width, features)
    y = jnp.swapaxes(y, 1, 2).reshape(groups * images, strips * rows, width, features)
    return numbers(y[:batch, :height], out_dtype)


def kernel_gradient(
    x: Float[Array, "b h w c"], gradient: Float[Array, "b h w c2"], *, size: int
) -> Float[Array, "n n c c2"]:
    """Gradient to the kernel of a same-size convolution, from that of its output; sums in float32."""
    batch, height, width, channels = x.shape
    features = gradient.shape[-1]
    taps_in_x = channels == 1
    images, rows = strip_size(x.shape, x.dtype.itemsize * size * (channels + (1 if taps_in_x else features)))
    blocks, strips, halo = -(-batch // images), -(-height // rows), size // 2
    spare = ((0, blocks * images - batch), (0, strips * rows - height))
    margin = (halo, halo) if taps_in_x else (0, 0)
    x_padded = jnp.pad(words(x), (spare[0], (halo, halo + spare[1][1]), margin, (0, 0)))
    margin = (0, 0) if taps_in_x else (halo, halo)
    # Rows added to fill the last strip have a gradient of zero.
    gradient_padded = jnp.pad(words(gradient), (*spare, margin, (0, 0)))

    def add_strip(total: Array, index: Array) -> tuple[Array, None]:
        start = (index // strips * images, index % strips * rows, 0, 0)
        x_strip = lax.dynamic_slice(x_padded, start, (images, rows + 2 * halo, *x_padded.shape[2:]))
        strip = lax.dynamic_slice(gradient_padded, start, (images, rows, *gradient_padded.shape[2:]))
        if taps_in_x:
            shifts = [x_strip[:, i : i + rows, j : j + width] for i in range(size) for j in range(size)]
            return total + product(jnp.stack(shifts).reshape(size * size, -1), strip.reshape(-1, features), 1, 0), None
        columns = _side_by_side(strip, size).reshape(-1, size * features)
        if x.dtype == jnp.bfloat16:
            transposed = _transpose(x_strip.reshape(-1, channels)).reshape(channels, images, -1)
            shifts = [transposed[:, :, i * width : (i + rows) * width] for i in range(size)]
            return total + product(jnp.concatenate(shifts).reshape(size * channels, -1), columns, 1, 0), None
        shifts = [x_strip[:, i : i + rows].reshape(-1, channels) for i in range(size)]
        return total + jnp.concatenate([product(shift, columns, 0, 0) for shift in shifts]), None

    shape = (size * size, features) if taps_in_x else (size * channels, size * features)
    total, _ = lax.scan(add_strip, jnp.zeros(shape, jnp.float32), jnp.arange(blocks * strips))
    if not taps_in_x:
        # Shifting the gradient to the right is shifting x to the left: its taps come in reverse.
        total = jnp.swapaxes(total.reshape(size, channels, size, features)[:, :, ::-1], 1, 2)
    return total.reshape(size, size, channels, features).astype(x.dtype)


def _side_by_side(x: Array, size: int) -> Array:
    width = x.shape[2] - size + 1
    return jnp.concatenate([x[:, :, j : j + width] for j in range(size)], axis=-1)


def _transpose(given: Array) -> Array:
    identity = jnp.eye(given.shape[-1], dtype=jnp.bfloat16)
    return words(product(words(identity), given, 1, 1).astype(jnp.bfloat16))


def product(a: Array, b: Array, a_axis: int, b_axis: int) -> Array:
    """Of two matrices, numbers or words, contracted over an axis of each; float32."""
    a, b = (numbers(one, jnp.bfloat16) if one.dtype == jnp.uint16 else one for one in (a, b))
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    contracted = (((a_axis,), (b_axis,)), ((), ()))
    return lax.dot_general(a, b, contracted, precision=precision, preferred_element_type=jnp.float32)


def words(x: Array) -> Array:
    """The bits of bfloat16, which can be moved about; other types as they are."""
    return lax.bitcast_convert_type(x, jnp.uint16) if x.dtype == jnp.bfloat16 else x


def numbers(given: Array, dtype: jnp.dtype | type) -> Array:
    """What `words` made these of."""
    return lax.bitcast_convert_type(given, dtype) if given.dtype == jnp.uint16 else given
