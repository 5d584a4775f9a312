"""Blocks of convolutions in strips of rows that stay in the caches, from the input of the first to the last pooling."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from superpoint_jax.convolution import direct, onednn, winograd
from superpoint_jax.convolution.choice import (
    Layer,
    Shaped,
    after_block,
    is_faster_by_onednn,
    is_faster_by_winograd,
    strip_rows,
)
from superpoint_jax.convolution.pooling import max_pool
from superpoint_jax.convolution.products import numbers, product, words


def blocks(
    x: Float[Array, "b h w c"],
    layers: Sequence[Sequence[Layer]],
    valid_sizes: Int[Array, "b 2"] | None,
    *,
    pools: Sequence[bool],
    relu: bool = True,
    out_dtype: jnp.dtype | None = None,
) -> Float[Array, "b h2 w2 c2"]:
    """`interface.conv_blocks` in strips.

    The first block of a strip reads the rows around it. A later one has no rows below its own yet, so it lags behind:
    it computes what it can, and keeps the last rows it was given for the next strip. Nothing between blocks is ever
    there as a whole.
    """
    batch, height, _, _ = x.shape
    out_dtype = out_dtype or x.dtype
    chain = _chain(x, layers, pools)
    rows, halo, last = chain[0].rows, chain[0].halo, chain[-1]
    strips = -(-(last.out_height + last.out_lag) // last.out_rows)
    padded = jnp.pad(words(x), ((0, 0), (halo, halo + strips * rows - height), (0, 0), (0, 0)))

    def strip(kept: list[Array], index: Array) -> tuple[list[Array], Array]:
        image, strip = index // strips, index % strips
        size = None if valid_sizes is None else valid_sizes[image]
        y = lax.dynamic_slice(padded, (image, strip * rows, 0, 0), (1, rows + 2 * halo, *padded.shape[2:]))[0]
        following = []
        for block, before in zip(chain, [None, *kept], strict=True):
            if before is not None:
                y = jnp.concatenate([jnp.where(strip == 0, 0, before), y])
                following.append(y[-len(before) :])
                y = y[: block.rows + 2 * block.halo]
            y = block.compute(numbers(y, x.dtype), strip * block.rows - block.lag, size, relu)
            size = None if size is None else size // block.step
            y = words(y.astype(out_dtype if block is last else x.dtype))
        return following, y

    kept = [
        jnp.zeros((later.kept, block.out_width, block.features), words(x[:0]).dtype)
        for block, later in itertools.pairwise(chain)
    ]
    _, y = lax.scan(strip, kept, jnp.arange(batch * strips))
    y = y.reshape(batch, -1, *y.shape[2:])[:, last.out_lag : last.out_lag + last.out_height]
    return numbers(y, out_dtype)


@dataclasses.dataclass(frozen=True)
class _Block:
    """A block of a chain: what it computes of each strip.

    Attributes:
        lag: Rows that its output, before pooling, is behind those that belong to the strip.
        kept: Rows of its input that the next strip needs again.
    """

    layers: Sequence[Layer]
    convolutions: Sequence[Callable[[Array, Array], Array]]
    pool: bool
    height: int
    width: int
    rows: int
    lag: int
    kept: int

    @property
    def halo(self) -> int:
        return sum(kernel.shape[0] // 2 for kernel, _, _ in self.layers)

    @property
    def features(self) -> int:
        return self.layers[-1][0].shape[-1]

    @property
    def step(self) -> int:
        """Rows and columns for each of its output."""
        return 2 if self.pool else 1

    @property
    def out_height(self) -> int:
        return self.height // self.step

    @property
    def out_width(self) -> int:
        return self.width // self.step

    @property
    def out_rows(self) -> int:
        return self.rows // self.step

    @property
    def out_lag(self) -> int:
        return self.lag // self.step

    def compute(
        self, y: Float[Array, "h w c"], top: Array, size: Int[Array, " 2"] | None, relu: bool
    ) -> Float[Array, "h2 w2 c2"]:
        """Of rows of the image with a halo around them, the output from row `top` on; zero outside of the image."""
        margin = self.halo
        for convolve, (kernel, _, affine) in zip(self.convolutions, self.layers, strict=True):
            side = kernel.shape[0] // 2
            margin -= side
            # Rows of the halo that lie beyond the image: the next convolution pads with zeros there.
            inside = _inside(y.shape[0] - 2 * side, self.width, top - margin, self.height, size)
            y = convolve(y, inside)
            y = jnp.maximum(y, 0) if relu else y
            if affine is not None:
                y = y * affine[0][None, None] + affine[1][None, None]
            y = jnp.where(inside[..., None], y, 0)
        if not self.pool:
            return y
        y = max_pool(y[None])[0]
        size = None if size is None else size // 2
        inside = _inside(y.shape[0], y.shape[1], top // 2, self.out_height, size)
        return jnp.where(inside[..., None], y, 0)


def _chain(x: Shaped, layers: Sequence[Sequence[Layer]], pools: Sequence[bool]) -> list[_Block]:
    """The blocks with their place in the rows; strips are as tall as gives the last one what it would have alone."""
    chain: list[_Block] = []
    rows = strip_rows(x, [kernel for kernel, _, _ in layers[0]]) * 2 ** sum(pools[:-1])
    lag = 0
    for given, pool in zip(layers, pools, strict=True):
        kept = 0
        if chain:
            halo = sum(kernel.shape[0] // 2 for kernel, _, _ in given)
            # Pooled are rows of which the first is even.
            odd = (lag + halo) % 2 if pool else 0
            lag, kept = lag + halo + odd, 2 * halo + odd
        convolutions = [_convolution(x, kernel, bias) for kernel, bias, _ in given]
        block = _Block(given, convolutions, pool, x.shape[1], x.shape[2], rows, lag, kept)
        chain.append(block)
        x, rows, lag = after_block(x, given[-1][0], pool=pool), block.out_rows, block.out_lag
    return chain


def _inside(rows: int, columns: int, top: Array, height: int, size: Array | None) -> Bool[Array, "rows _columns"]:
    """Whether a pixel of a strip that starts at row `top` lies in the image, or in its part of `size`."""
    row = top + jnp.arange(rows)[:, None]
    if size is None:
        return (row >= 0) & (row < height)  # and every column does
    return (row >= 0) & (row < size[0]) & (jnp.arange(columns)[None] < size[1])


def _convolution(
    x: Shaped, kernel: Float[Array, "n n c2 c3"], bias: Float[Array, " c3"]
) -> Callable[[Array, Array], Array]:
    """A function of a strip [h2,w,c2] and what is inside the image: the convolution plus bias, [h2 - n + 1,w,c3].

    Without padding above and below, with zeros to the left and right; of float32 or the type of `x`, in float32. What
    is done once for all strips is done here.
    """
    size, _, channels, features = kernel.shape
    bias = bias.astype(jnp.float32)
    if channels == 1:
        matrix = jnp.concatenate([kernel.astype(jnp.float32).reshape(-1, features), bias[None]])
        return lambda y, inside: _convolve_one_channel(y.astype(jnp.float32), matrix, inside)
    if is_faster_by_winograd(x, kernel):
        transformed = winograd.transform(kernel.astype(jnp.float32))
        return lambda y, inside: winograd.convolve(y.astype(jnp.float32), transformed) + bias[None, None]
    convolve, dtype = (
        (onednn.convolve, x.dtype) if is_faster_by_onednn(x, kernel) else (direct.convolve, jnp.dtype("float32"))
    )
    convolve = functools.partial(convolve, kernel=kernel.astype(dtype), pad_rows=0, pad_columns=size // 2)
    return lambda y, inside: convolve(y[None].astype(dtype))[0] + bias[None, None]


def _convolve_one_channel(
    y: Float[Array, "h w 1"], matrix: Float[Array, "n c2"], inside: Array
) -> Float[Array, "h2 w c2"]:
    """The taps of a pixel are few, so they are masked rather than the results; one more of them brings the bias."""
    size = math.isqrt(len(matrix) - 1)
    rows, width = y.shape[0] - size + 1, y.shape[1]
    wide = jnp.pad(y[..., 0], ((0, 0), (size // 2, size // 2)))
    taps = [wide[i : i + rows, j : j + width] for i in range(size) for j in range(size)]
    taps = jnp.where(inside, jnp.stack([*taps, jnp.ones_like(taps[0])]), 0)
    return product(taps.reshape(len(matrix), -1), matrix, 0, 0).reshape(rows, width, -1)
