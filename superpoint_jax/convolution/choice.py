"""By which way a CPU convolves, and in what size of strips.

What was found about XLA on CPUs:
- At full resolution a convolution waits for memory: its activations are written out and read again. In strips that
  stay in the caches from the first convolution to a pooling, the first block takes half the time.
- Its float32 convolutions run as fast as its products of matrices, which are as fast as the processor goes. What is
  left is to need fewer of them: Winograd's filtering needs a quarter.
- It computes bfloat16 convolutions in float32. JAX's library for x86 carries oneDNN, which computes them in bfloat16 at
  twice the rate of float32 or more.
- Where that can't be had, a product of bfloat16 matrices with a float32 result still runs on the matrix units (AMX) or
  the bfloat16 instructions. Only matrix units gain more by it than a block in strips, which computes in float32 then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from superpoint_jax.convolution import onednn, processor, winograd

Affine = tuple[Array, Array]
Layer = tuple[Array, Array, Affine | None]
"""Kernel, bias, and scale and shift after the ReLU."""
Shaped = Array | jax.ShapeDtypeStruct

MIN_ROWS_A_HALO = 4
"""Rows of a strip for each row of the halo above it, at least."""

MAX_CHAIN = 2
"""Blocks."""

MIN_STRIPS = 6
"""Of an image: what is little larger than the second-level caches is not far from them."""

MIN_CHANNELS = 32
"""In and out, for Winograd's sums to cost less than the products they save."""

MIN_OPERATIONS = {"avx512f": 10**10, "avx2": 4 * 10**9}
"""Of a convolution of one image, by the first of these that the processor has: 25 to 30 ms, of which Winograd's sums
and products save up to a half. They take one or two seconds to compile, so this pays from some hundred images on."""


def is_faster(x: Array, kernel: Array) -> bool:
    """Whether `cpu.conv` beats XLA's convolution.

    It does by oneDNN, by products of bfloat16 where the processor has such, of more than one channel, and by fewer
    products. Without its instructions bfloat16 takes twice as long as float32, which is what XLA computes then.
    """
    of_bfloat16 = x.dtype == jnp.bfloat16 and min(kernel.shape[-2:]) > 1 and processor.multiplies_bfloat16()
    return of_bfloat16 or is_faster_by_onednn(x, kernel) or is_faster_by_winograd(x, kernel)


def in_strips(x: Array, layers: Sequence[Sequence[Layer]], pools: Sequence[bool]) -> int:
    """How many of these blocks `strips.blocks` computes faster than one convolution after the other; two at most.

    Those whose activations leave the caches. Without oneDNN strips compute in float32, and on matrix units
    `products.conv` is faster. A third block would need taller strips than the caches hold.
    """
    count, given = 0, jax.ShapeDtypeStruct(x.shape, x.dtype)
    by_products = x.dtype == jnp.bfloat16 and processor.has_matrix_units() and not calls_onednn()
    if x.dtype not in (jnp.float32, jnp.bfloat16) or by_products:
        return 0
    for block, pool in zip(layers[:MAX_CHAIN], pools, strict=False):
        kernels = [kernel for kernel, _, _ in block]
        if MIN_STRIPS * strip_rows(given, kernels) > given.shape[1]:
            break
        count, given = count + 1, after_block(given, kernels[-1], pool=pool)
    return count


def calls_onednn() -> bool:
    """Whether convolutions of bfloat16 on this CPU are oneDNN's: by instructions for it, where oneDNN can be had.

    Those of float32 gain little, and lose accuracy: oneDNN adds all products of a result one after the other.
    """
    return processor.multiplies_bfloat16() and onednn.is_available()


def is_faster_by_onednn(x: Shaped, kernel: Array) -> bool:
    """1x1 convolutions are products of matrices, which XLA does as well."""
    return x.dtype == jnp.bfloat16 and kernel.shape[0] > 1 and calls_onednn()


def is_faster_by_winograd(x: Shaped, kernel: Array) -> bool:
    """Whether fewer products pay, in float32: where enough are to be saved. Measured with AVX2 and with AVX-512."""
    size, _, channels, features = kernel.shape
    operations = 2 * x.shape[1] * x.shape[2] * kernel.size
    # bfloat16 that has no better way is computed in float32.
    in_float32 = x.dtype == jnp.float32 or (x.dtype == jnp.bfloat16 and not _has_bfloat16(x, kernel))
    enough = next((least for flag, least in MIN_OPERATIONS.items() if flag in processor.flags()), math.inf)
    return in_float32 and size == winograd.TAPS and min(channels, features) >= MIN_CHANNELS and operations >= enough


def _has_bfloat16(x: Shaped, kernel: Array) -> bool:
    """Whether a convolution of bfloat16 has a way that is faster than float32."""
    return is_faster_by_onednn(x, kernel) or processor.has_matrix_units()


def strip_rows(x: Shaped, kernels: Sequence[Array]) -> int:
    """Of a strip of a block."""
    pixel_bytes = 4 * max(kernel.shape[-1] for kernel in kernels)
    if any(is_faster_by_winograd(x, kernel) for kernel in kernels):
        pixel_bytes = round(pixel_bytes * winograd.MULTIPLICATIONS)
    _, rows = strip_size(x.shape, pixel_bytes)
    # The halo is computed twice: of wide images rather leave the cache than do half of the work again.
    halo = sum(kernel.shape[0] // 2 for kernel in kernels)
    return max(-(-rows // winograd.RESULTS) * winograd.RESULTS, MIN_ROWS_A_HALO * halo)


def strip_size(shape: tuple[Any, ...], pixel_bytes: int) -> tuple[int, int]:
    """Images and rows of a strip whose working set, `pixel_bytes` a pixel, stays in the second-level caches.

    A symbolic number of images (of `jax.export`) is taken one image at a time.
    """
    batch, height, width, _ = shape
    pixels = max(1, processor.cache_bytes() // pixel_bytes)
    strips = -(-height // max(1, min(height, pixels // width)))
    rows = -(-height // strips)
    images = min(batch, pixels // (width * height)) if strips == 1 and isinstance(batch, int) else 1
    return max(1, images), rows


def after_block(x: Shaped, kernel: Array, *, pool: bool) -> jax.ShapeDtypeStruct:
    """What a block of which this kernel is the last makes of `x`."""
    batch, height, width, _ = x.shape
    shape = (height // 2, width // 2) if pool else (height, width)
    return jax.ShapeDtypeStruct((batch, *shape, kernel.shape[-1]), x.dtype)
