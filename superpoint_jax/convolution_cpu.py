"""Convolution on the CPU, where XLA's own way of it is slow. Held against the plain path of convolution.py.

Five facts about XLA on CPUs shape this file:
- At full resolution a convolution waits for memory: its activations are written out and read again. In strips that
  stay in the caches from the first convolution of a block to its pooling, the first block takes half the time.
- Its convolutions of bfloat16 run in float32, but a product of bfloat16 matrices with a float32 result runs on the
  matrix units (AMX) or the bfloat16 instructions, several times faster. So a convolution becomes products, of patches
  built in strips that stay in the cache. Only matrix units gain more by it than a block in strips, which computes in
  float32 inside, saves; a processor with neither stays with float32.
- With AVX2 alone the float32 products are the limit; Winograd's filtering (winograd.py) needs a quarter of them.
- Whatever moves bfloat16 about (slice, pad, concatenate) goes through float32 and back. The same bits as uint16 are
  just moved; hence `_words` and `_numbers`.
- A product that contracts both operands over their first axis misses the matrix units, and XLA's loops are slow at
  transposing; a product with the identity transposes on the matrix units.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from superpoint_jax import winograd

MIN_ROWS_A_HALO = 4
"""Rows of a strip for each row of the halo above it, at least."""

MIN_CHANNELS = 32
"""In and out, for Winograd's sums to cost less than the products they save."""

MIN_OPERATIONS = 4 * 10**9
"""Of a convolution of one image: 30 ms, of which Winograd's sums and products save half. They take two seconds to
compile, so this pays from a hundred images on."""


def is_faster(x: Array, kernel: Array) -> bool:
    """Whether `conv` below beats XLA's convolution.

    It does by products of bfloat16 where the processor has such, of more than one channel, and by fewer products.
    Without its instructions bfloat16 takes twice as long as float32, which is what XLA computes then.
    """
    of_bfloat16 = x.dtype == jnp.bfloat16 and x.shape[-1] > 1 and kernel.shape[-1] > 1 and _multiplies_bfloat16()
    return of_bfloat16 or _is_faster_by_winograd(x, kernel)


def is_faster_in_strips(x: Array, kernels: Sequence[Array]) -> bool:
    """Whether `block` beats the convolutions one after the other: where the activations of an image leave the caches.

    bfloat16 without matrix units gains nothing over float32, in which the strips compute; with them `conv` does.
    """
    if x.dtype == jnp.bfloat16 and _has_matrix_units():
        return False
    return x.dtype in (jnp.float32, jnp.bfloat16) and _rows(x, kernels) < x.shape[1]


def _is_faster_by_winograd(x: Array, kernel: Array) -> bool:
    """Whether few products pay: where a direct convolution is limited by them, and many enough are to be saved.

    Measured with AVX2, whose products take three times as long as those of AVX-512 from the same caches. With the
    latter, and on other processors, it has not been.
    """
    size, _, channels, features = kernel.shape
    operations = 2 * x.shape[1] * x.shape[2] * kernel.size
    return (
        x.dtype in (jnp.float32, jnp.bfloat16)
        and size == winograd.TAPS
        and min(channels, features) >= MIN_CHANNELS
        and operations >= MIN_OPERATIONS
        and "avx2" in _processor_flags()
        and "avx512f" not in _processor_flags()
    )


def _rows(x: Array, kernels: Sequence[Array]) -> int:
    """Of a strip of a block."""
    pixel_bytes = 4 * max(kernel.shape[-1] for kernel in kernels)
    if any(_is_faster_by_winograd(x, kernel) for kernel in kernels):
        pixel_bytes = round(pixel_bytes * winograd.MULTIPLICATIONS)
    _, rows = _strip(x.shape, pixel_bytes)
    # The halo is computed twice: of wide images rather leave the cache than do half of the work again.
    halo = sum(kernel.shape[0] // 2 for kernel in kernels)
    return max(-(-rows // winograd.RESULTS) * winograd.RESULTS, MIN_ROWS_A_HALO * halo)


def block(
    x: Float[Array, "b h w c"],
    layers: Sequence[tuple[Array, Array, tuple[Array, Array] | None]],
    valid_sizes: Int[Array, "b 2"] | None,
    *,
    pool: bool,
    relu: bool = True,
    out_dtype: jnp.dtype | None = None,
) -> Float[Array, "b h2 w2 c2"]:
    """`convolution.conv_block` in strips of rows that stay in the caches from its input to its output."""
    batch, height, width, channels = x.shape
    out_dtype = out_dtype or x.dtype
    kernels = [kernel for kernel, _, _ in layers]
    rows, halo = _rows(x, kernels), sum(kernel.shape[0] // 2 for kernel in kernels)
    strips = -(-height // rows)
    padded = jnp.pad(_words(x), ((0, 0), (halo, halo + strips * rows - height), (0, 0), (0, 0)))
    convolutions = [_convolution(x, kernel, bias) for kernel, bias, _ in layers]

    def strip(index: Array) -> Array:
        image, top = index // strips, index % strips * rows
        size = None if valid_sizes is None else valid_sizes[image]
        window = lax.dynamic_slice(padded, (image, top, 0, 0), (1, rows + 2 * halo, width, channels))
        y = _numbers(window, x.dtype)[0].astype(jnp.float32)
        margin = halo
        for convolve, (kernel, _, affine) in zip(convolutions, layers, strict=True):
            side = kernel.shape[0] // 2
            margin -= side
            # Rows of the halo that lie beyond the image: the next convolution pads with zeros there.
            inside = _inside(y.shape[0] - 2 * side, width, top - margin, height, size)
            y = convolve(y, inside)
            y = jnp.maximum(y, 0) if relu else y
            if affine is not None:
                y = y * affine[0][None, None] + affine[1][None, None]
            y = jnp.where(inside[..., None], y, 0)
        if pool:
            y = max_pool(y[None])[0]
            size = None if size is None else size // 2
            inside = _inside(y.shape[0], y.shape[1], top // 2, height // 2, size)
            y = jnp.where(inside[..., None], y, 0)
        return _words(y.astype(out_dtype))

    y = lax.map(strip, jnp.arange(batch * strips))
    y = y.reshape(batch, -1, *y.shape[2:])[:, : height // 2 if pool else height]
    return _numbers(y, out_dtype)


def _inside(rows: int, columns: int, top: Array, height: int, size: Array | None) -> Bool[Array, "rows _columns"]:
    """Whether a pixel of a strip that starts at row `top` lies in the image, or in its part of `size`."""
    row = top + jnp.arange(rows)[:, None]
    if size is None:
        return (row >= 0) & (row < height)  # and every column does
    return (row >= 0) & (row < size[0]) & (jnp.arange(columns)[None] < size[1])


def _convolution(
    x: Float[Array, "b h w c"], kernel: Float[Array, "n n c2 c3"], bias: Float[Array, " c3"]
) -> Callable[[Array, Array], Array]:
    """A function of a strip [h2,w,c2] and what is inside the image: the convolution plus bias, [h2 - n + 1,w,c3].

    Without padding above and below, with zeros to the left and right. What is done once for all strips is done here.
    """
    kernel, bias = kernel.astype(jnp.float32), bias.astype(jnp.float32)
    size, _, channels, features = kernel.shape
    if _is_faster_by_winograd(x, kernel):
        transformed = winograd.transform(kernel)
        return lambda y, inside: winograd.convolve(y, transformed) + bias[None, None]
    if channels == 1:
        matrix = jnp.concatenate([kernel.reshape(-1, features), bias[None]])
        return lambda y, inside: _convolve_one_channel(y, matrix, inside)

    def direct(y: Array, inside: Array) -> Array:
        y = lax.conv_general_dilated(
            y[None],
            kernel,
            window_strides=(1, 1),
            padding=((0, 0), (size // 2, size // 2)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,
        )
        return y[0] + bias[None, None]

    return direct


def _convolve_one_channel(
    y: Float[Array, "h w 1"], matrix: Float[Array, "n c2"], inside: Array
) -> Float[Array, "h2 w c2"]:
    """The taps of a pixel are few, so they are masked rather than the results; one more of them brings the bias."""
    size = math.isqrt(len(matrix) - 1)
    rows, width = y.shape[0] - size + 1, y.shape[1]
    wide = jnp.pad(y[..., 0], ((0, 0), (size // 2, size // 2)))
    taps = [wide[i : i + rows, j : j + width] for i in range(size) for j in range(size)]
    taps = jnp.where(inside, jnp.stack([*taps, jnp.ones_like(taps[0])]), 0)
    return _product(taps.reshape(len(matrix), -1), matrix, 0, 0).reshape(rows, width, -1)


def conv(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "n n c c2"],
    bias: Float[Array, " c2"],
    *,
    relu: bool,
    out_dtype: jnp.dtype,
) -> Float[Array, "b h w c2"]:
    """Convolution with zero padding to the same size, plus bias, then ReLU; sums in float32, rounded once."""
    if _is_faster_by_winograd(x, kernel):
        return block(x, [(kernel, bias, None)], None, pool=False, relu=relu, out_dtype=out_dtype)
    size, _, channels, features = kernel.shape
    batch, height, width, _ = x.shape
    images, rows = _strip(x.shape, size * (2 * channels + 4 * features))
    blocks, strips, halo = -(-batch // images), -(-height // rows), size // 2
    padding = ((0, blocks * images - batch), (halo, halo + strips * rows - height), (halo, halo), (0, 0))
    padded = jnp.pad(_words(x), padding)
    # Taps of a row side by side in the depth of the product, rows of the kernel side by side in its width.
    matrix = jnp.moveaxis(kernel, 0, 2).reshape(size * channels, size * features)

    def strip(index: Array) -> Array:
        start = (index // strips * images, index % strips * rows, 0, 0)
        window = lax.dynamic_slice(padded, start, (images, rows + 2 * halo, width + 2 * halo, channels))
        product = _product(_side_by_side(window, size), _words(matrix), 3, 0)
        y = sum(product[:, i : i + rows, :, i * features : (i + 1) * features] for i in range(size))
        y = y + bias.astype(jnp.float32)[None, None, None]
        return _words((jnp.maximum(y, 0) if relu else y).astype(out_dtype))

    y = lax.map(strip, jnp.arange(blocks * strips)).reshape(blocks, strips, images, rows, width, features)
    y = jnp.swapaxes(y, 1, 2).reshape(blocks * images, strips * rows, width, features)
    return _numbers(y[:batch, :height], out_dtype)


def kernel_gradient(
    x: Float[Array, "b h w c"], gradient: Float[Array, "b h w c2"], *, size: int
) -> Float[Array, "n n c c2"]:
    """Gradient to the kernel of a same-size convolution, from that of its output; sums in float32."""
    batch, height, width, channels = x.shape
    features = gradient.shape[-1]
    taps_in_x = channels == 1
    images, rows = _strip(x.shape, x.dtype.itemsize * size * (channels + (1 if taps_in_x else features)))
    blocks, strips, halo = -(-batch // images), -(-height // rows), size // 2
    spare = ((0, blocks * images - batch), (0, strips * rows - height))
    margin = (halo, halo) if taps_in_x else (0, 0)
    x_padded = jnp.pad(_words(x), (spare[0], (halo, halo + spare[1][1]), margin, (0, 0)))
    margin = (0, 0) if taps_in_x else (halo, halo)
    # Rows added to fill the last strip have a gradient of zero.
    gradient_padded = jnp.pad(_words(gradient), (*spare, margin, (0, 0)))

    def add_strip(total: Array, index: Array) -> tuple[Array, None]:
        start = (index // strips * images, index % strips * rows, 0, 0)
        x_strip = lax.dynamic_slice(x_padded, start, (images, rows + 2 * halo, *x_padded.shape[2:]))
        strip = lax.dynamic_slice(gradient_padded, start, (images, rows, *gradient_padded.shape[2:]))
        if taps_in_x:
            shifts = [x_strip[:, i : i + rows, j : j + width] for i in range(size) for j in range(size)]
            return total + _product(jnp.stack(shifts).reshape(size * size, -1), strip.reshape(-1, features), 1, 0), None
        columns = _side_by_side(strip, size).reshape(-1, size * features)
        if x.dtype == jnp.bfloat16:
            transposed = _transpose(x_strip.reshape(-1, channels)).reshape(channels, images, -1)
            shifts = [transposed[:, :, i * width : (i + rows) * width] for i in range(size)]
            return total + _product(jnp.concatenate(shifts).reshape(size * channels, -1), columns, 1, 0), None
        shifts = [x_strip[:, i : i + rows].reshape(-1, channels) for i in range(size)]
        return total + jnp.concatenate([_product(shift, columns, 0, 0) for shift in shifts]), None

    shape = (size * size, features) if taps_in_x else (size * channels, size * features)
    total, _ = lax.scan(add_strip, jnp.zeros(shape, jnp.float32), jnp.arange(blocks * strips))
    if not taps_in_x:
        # Shifting the gradient to the right is shifting x to the left: its taps come in reverse.
        total = jnp.swapaxes(total.reshape(size, channels, size, features)[:, :, ::-1], 1, 2)
    return total.reshape(size, size, channels, features).astype(x.dtype)


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """2x2 max pooling; an odd last row or column is dropped."""
    return functools.reduce(jnp.maximum, _corners(x))


def max_pool_gradient(x: Float[Array, "b h w c"], gradient: Float[Array, "b h2 w2 c"]) -> Float[Array, "b h w c"]:
    """Gradient to the input of `max_pool`; to the first of equal maxima, in raster order."""
    best, *others = _corners(x)
    chosen = jnp.zeros(best.shape, jnp.uint8)
    for corner, value in enumerate(others, 1):
        chosen = jnp.where(value > best, jnp.uint8(corner), chosen)
        best = jnp.maximum(value, best)
    # Else the choice would be made anew for each of the four.
    chosen = lax.optimization_barrier(chosen)[:, :, None, :, None]
    corner = jnp.arange(4, dtype=jnp.uint8).reshape(1, 1, 2, 1, 2, 1)
    spread = jnp.where(chosen == corner, gradient[:, :, None, :, None], 0)
    batch, height, width, channels = gradient.shape
    spread = spread.reshape(batch, 2 * height, 2 * width, channels)
    return jnp.pad(spread, ((0, 0), (0, x.shape[1] - 2 * height), (0, x.shape[2] - 2 * width), (0, 0)))


def _corners(x: Array) -> list[Array]:
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2].reshape(batch, height // 2, 2, width // 2, 2, channels)
    return [x[:, :, i, :, j] for i in range(2) for j in range(2)]


def _strip(shape: tuple[Any, ...], pixel_bytes: int) -> tuple[int, int]:
    """Images and rows of a strip whose working set, `pixel_bytes` a pixel, stays in the second-level caches.

    A symbolic number of images (of `jax.export`) is taken one image at a time.
    """
    batch, height, width, _ = shape
    pixels = max(1, _cache_bytes() // pixel_bytes)
    strips = -(-height // max(1, min(height, pixels // width)))
    rows = -(-height // strips)
    images = min(batch, pixels // (width * height)) if strips == 1 and isinstance(batch, int) else 1
    return max(1, images), rows


def _has_matrix_units() -> bool:
    return "amx_bf16" in _processor_flags()


def _multiplies_bfloat16() -> bool:
    return not _processor_flags().isdisjoint(("amx_bf16", "avx512_bf16", "bf16"))


@functools.cache
def _processor_flags() -> frozenset[str]:
    """What Linux says of the processor ("bf16" is ARM's name); nothing elsewhere, where float32 is never wrong."""
    try:
        return frozenset(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return frozenset()


@functools.cache
def _cache_bytes() -> int:
    try:
        size = os.sysconf("SC_LEVEL2_CACHE_SIZE")
    except (ValueError, OSError):
        size = 0
    return (size if size > 0 else 2**20) * (os.cpu_count() or 1)


def _side_by_side(x: Array, size: int) -> Array:
    width = x.shape[2] - size + 1
    return jnp.concatenate([x[:, :, j : j + width] for j in range(size)], axis=-1)


def _transpose(words: Array) -> Array:
    identity = jnp.eye(words.shape[-1], dtype=jnp.bfloat16)
    return _words(_product(_words(identity), words, 1, 1).astype(jnp.bfloat16))


def _product(a: Array, b: Array, a_axis: int, b_axis: int) -> Array:
    a, b = (_numbers(words, jnp.bfloat16) if words.dtype == jnp.uint16 else words for words in (a, b))
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    contracted = (((a_axis,), (b_axis,)), ((), ()))
    return lax.dot_general(a, b, contracted, precision=precision, preferred_element_type=jnp.float32)


def _words(x: Array) -> Array:
    return lax.bitcast_convert_type(x, jnp.uint16) if x.dtype == jnp.bfloat16 else x


def _numbers(words: Array, dtype: jnp.dtype | type) -> Array:
    return lax.bitcast_convert_type(words, dtype) if words.dtype == jnp.uint16 else words
