"""The largest values of each row, without a sort of all. Pure functions."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int, Shaped

from superpoint_jax.sharding import vary_like


def top_k(values: Float[Array, "b n"], k: int) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
    """The k largest values of each row and their indices, descending, ties by lower index; exactly as `lax.top_k`.

    None of its forms sorts all values. On a TPU a sort of several thousand values takes many seconds to compile. On a
    GPU `lax.top_k` sorts, too, so that it costs no more to sort by value and index.
    """
    by_top_k, by_sort = (partial(top_k_by_segments, k=k, by_sort=by_sort) for by_sort in (False, True))
    return lax.platform_dependent(values, tpu=partial(top_k_by_counting, k=k), cpu=by_top_k, default=by_sort)


def top_k_by_segments(
    values: Float[Array, "b n"], k: int, *, by_sort: bool = False
) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
    """`top_k` by maxima of segments.

    The k segments with the largest maxima contain the k largest values: k values, one in each of them, come before
    every value of any other segment. They are divided into smaller segments, and so on; see `_segment_sizes`.

    Args:
        values: The values.
        k: How many are wanted, at most n.
        by_sort: Find the largest maxima by `lax.sort` instead of `lax.top_k`.
    """
    batch, n = values.shape
    sizes = _segment_sizes(n, k)
    segments = _divided(values, sizes[0], fill=-jnp.inf)
    values = segments.reshape(batch, -1)
    index = lax.broadcasted_iota(jnp.int32, segments.shape[:2], 1)
    while True:
        size, *sizes = sizes
        best = jnp.max(segments, axis=2)
        if by_sort:
            negative, index = lax.sort((-best, index), num_keys=2, is_stable=False)
            best, index = -negative[:, :k], index[:, :k]
        else:
            best, position = lax.top_k(best, k)
            index = jnp.take_along_axis(index, position, axis=1)
        if not sizes:
            return best, index
        if not by_sort:
            index = jnp.sort(index, axis=1)  # `lax.top_k` decides ties by the order of the segments.
        parts = size // sizes[0]
        index = (index[..., None] * parts + jnp.arange(parts, dtype=jnp.int32)[None, None]).reshape(batch, -1)
        segments = jnp.take_along_axis(values.reshape(batch, -1, sizes[0]), index[..., None], axis=1)


def _segment_sizes(n: int, k: int) -> tuple[int, ...]:
    """Sizes of the segments in which the largest k of n values are searched, one after the other; the last is 1.

    No search is among more than about sqrt(n k) segments; where that would be more than 2^14, there is one more search.
    """
    sizes = []
    while n > k:
        power = 1 / 2 if n * k <= _LARGEST_SORT**2 else 2 / 3
        size = 2 ** round(math.log2((n / k) ** power))
        if size < 4:
            break
        sizes.append(size)
        if power == 1 / 2:
            break
        n = k * size
    return *sizes, 1


def top_k_by_counting(values: Float[Array, "b n"], k: int) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
    """`top_k` by a search for the k-th largest value, with a sort of only k values.

    The search finds that value digit by digit, and counts for each digit how many values are at least as large. What is
    larger, and the first of what is equal, is then collected from blocks of values by the counts of each block.
    """
    keys = _divided(_ordered_bits(values), _BLOCK, fill=_LOWEST)
    batch, blocks, _ = keys.shape

    def refine(step: Any, least: Array) -> Array:
        unit = jnp.left_shift(jnp.int32(1), 32 - _DIGIT_BITS * (step + 1))
        kth = least
        for digit in range(1, 2**_DIGIT_BITS):
            higher = least + digit * unit
            enough = jnp.sum(keys >= higher[:, None, None], axis=(1, 2), dtype=jnp.int32) >= k
            kth = jnp.where(enough, higher, kth)
        return kth

    lowest = vary_like(jnp.full(batch, _LOWEST, jnp.int32), values)
    kth = lax.fori_loop(0, 32 // _DIGIT_BITS, refine, lowest)[:, None, None]
    # First all that is larger, then all that is equal, each in the order of the row.
    counts = jnp.concatenate([jnp.sum(found, axis=2, dtype=jnp.int32) for found in (keys > kth, keys == kth)], axis=1)
    ends = jnp.cumsum(counts, axis=1, dtype=jnp.int32)
    rows = jnp.arange(k, dtype=jnp.int32)[None]
    source = _number_up_to(ends, rows)
    place = rows - jnp.take_along_axis(ends - counts, source, axis=1)
    block = source % blocks
    values_of_block = jnp.take_along_axis(keys, block[..., None], axis=1)
    found = jnp.where(source[..., None] < blocks, values_of_block > kth, values_of_block == kth)
    chosen = found & (lax.cumsum(found.astype(jnp.int32), axis=2) == place[..., None] + 1)
    within = jnp.arange(_BLOCK, dtype=jnp.int32)[None, None]
    index = block * _BLOCK + jnp.sum(jnp.where(chosen, within, 0), axis=2, dtype=jnp.int32)
    # A sort, because XLA gathers the operand of `lax.top_k` from all devices of an automatic mesh.
    negative, index = lax.sort((-jnp.take_along_axis(values, index, axis=1), index), num_keys=1)
    return -negative, index


def _number_up_to(ends: Int[Array, "b n"], rows: Int[Array, "1 k"]) -> Int[Array, "b k"]:
    """How many of the ascending values are no larger than each row: first by groups of them, then within one group."""
    groups = _divided(ends, _BLOCK, fill=np.iinfo(np.int32).max)
    before = jnp.sum(groups[:, None, :, -1] <= rows[..., None], axis=2, dtype=jnp.int32)
    group = jnp.take_along_axis(groups, before[..., None], axis=1)
    return before * _BLOCK + jnp.sum(group <= rows[..., None], axis=2, dtype=jnp.int32)


def _divided(values: Shaped[Array, "b n"], size: int, *, fill: int | float) -> Shaped[Array, "b m _size"]:
    """Each row in parts of `size` values; the last part is filled up."""
    padded = jnp.pad(values, ((0, 0), (0, -values.shape[1] % size)), constant_values=fill)
    return padded.reshape(values.shape[0], -1, size)


_LARGEST_SORT = 2**14
_BLOCK = 128
"""Values in a block, as many as a TPU has lanes."""
_DIGIT_BITS = 4
_LOWEST = np.iinfo(np.int32).min


def _ordered_bits(values: Float[Array, "*b"]) -> Int[Array, "*b"]:
    """int32 numbers in the order of the float32 values."""
    bits = lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
