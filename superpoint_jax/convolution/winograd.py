"""Winograd's minimal filtering: 3x3 convolutions in 2.25 multiplications a value instead of 9, for processors whose
products are slow beside their caches (choice.py says which).

A tile of 6x6 values gives 4x4 results. Along each axis its values are taken as a polynomial and evaluated at five
points and infinity, so are the three taps; 36 products of matrices follow, one for each pair of points, and
interpolation gives the results. What rounding costs depends on the points: with 0, 1, -1, 2, -2, which most code has,
the error is five times that of the direct sum; with 0 and plus or minus 2/3 and 3/2 it is twice (the tests show it).

XLA on CPUs shapes the rest. It computes sums anew wherever they are used, unless something in between has to be
written down: a product, or the results of a branch. And a small product runs on one core, next to others where none of
them waits for a buffer of another.

Source: Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks" (2016). That the points matter: Barabasz,
Anderson, Soodhalter, Gregg, "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural
Networks" (2020).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

TAPS = 3
RESULTS = 4
VALUES = RESULTS + TAPS - 1
"""Of a tile along an axis; as many values as points, with infinity."""

POINTS = (Fraction(0), Fraction(2, 3), Fraction(-2, 3), Fraction(3, 2), Fraction(-3, 2))
MULTIPLICATIONS = (VALUES / RESULTS) ** 2
"""Values at points for each result: what a pixel takes of memory, in place of one."""


@functools.cache
def matrices(points: tuple[Fraction, ...] = POINTS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Along an axis: evaluation of the values [6,6] and of the taps [6,3], and interpolation [4,6].

    With them, interpolation @ ((taps @ kernel) * (values @ x)) is the correlation of x with the kernel, `*` being the
    product of one with one. Rational until they are rounded to float64.
    """
    vanishing = [_polynomial([other for other in points if other != point]) for point in points]
    weights = [_value(polynomial, point) for polynomial, point in zip(vanishing, points, strict=True)]
    values = [*([*polynomial, 0] for polynomial in vanishing), _polynomial(points)]
    taps = [[point**i / weight for i in range(TAPS)] for point, weight in zip(points, weights, strict=True)]
    results = [[point**i for point in points] + [int(i == RESULTS - 1)] for i in range(RESULTS)]
    taps.append([Fraction(0)] * (TAPS - 1) + [Fraction(1)])
    return np.array(values, np.float64), np.array(taps, np.float64), np.array(results, np.float64)


def transform(kernel: Float[Array, "3 3 c c2"]) -> list[Float[Array, "c c2"]]:
    """The kernel at each of the 36 pairs of points (row, column): what `convolve` takes."""
    _, taps, _ = matrices()
    flat = kernel.reshape(TAPS**2, -1)
    # Products rather than sums: XLA has them ready, sums it compiles one by one.
    return [
        _product(np.outer(row, column).reshape(1, -1), flat).reshape(kernel.shape[2:])
        for row in taps
        for column in taps
    ]


def convolve(x: Float[Array, "h w c"], transformed: Sequence[Float[Array, "c c2"]]) -> Float[Array, "h2 w c2"]:
    """Correlation with the kernel, h2 = h - 2: no padding above and below, zeros to the left and right."""
    values, _, results = matrices()
    height, width, channels = x.shape
    features = transformed[0].shape[1]
    high, wide = -(-(height - TAPS + 1) // RESULTS), -(-width // RESULTS)

    left, right = (
        jnp.zeros((height, columns * channels), x.dtype) for columns in (TAPS // 2, RESULTS * wide + TAPS // 2 - width)
    )
    padded = jnp.concatenate([left, x.reshape(height, -1), right], axis=-1)
    evaluated = _product(_down_the_rows(values, high, height), padded).reshape(VALUES, high, -1, channels)

    def along_the_columns(evaluated: Array) -> list[Array]:
        """36 matrices [tiles, c]."""
        columns = [evaluated[:, :, j : j + RESULTS * (wide - 1) + 1 : RESULTS] for j in range(VALUES)]
        return [
            _combine(weights, [column[point] for column in columns]).reshape(-1, channels)
            for point in range(VALUES)
            for weights in values
        ]

    def interpolated_columns(products: list[Array], _: list[Array]) -> list[Array]:
        """6 arrays [tile rows, columns, c2]."""
        rows = []
        for point in range(VALUES):
            pairs = products[point * VALUES : (point + 1) * VALUES]
            side_by_side = jnp.stack([_combine(weights, pairs) for weights in results], axis=1)
            rows.append(side_by_side.reshape(high, RESULTS * wide, features))
        return rows

    # Branches that are never taken, which the compiler is not to see. What a branch gives is all there at once, and
    # what it is given lives until then, so that no product waits for the buffer of another.
    always = lax.optimization_barrier(jnp.bool_(True))
    at_points = lax.cond(
        always,
        along_the_columns,
        lambda _: [jnp.zeros((high * wide, channels), x.dtype)] * VALUES**2,
        evaluated,
    )
    products = [_product(at_point, taps) for at_point, taps in zip(at_points, transformed, strict=True)]
    rows = lax.cond(
        always,
        interpolated_columns,
        lambda _, at_points: [jnp.full((high, RESULTS * wide, features), sum(at[0, 0] for at in at_points))] * VALUES,
        products,
        at_points,
    )
    y = jnp.stack([_combine(weights, rows) for weights in results], axis=1)
    return y.reshape(high * RESULTS, RESULTS * wide, features)[: height - TAPS + 1, :width]


def _down_the_rows(values: np.ndarray, high: int, height: int) -> np.ndarray:
    """Evaluation of all tiles of a column at once, [6 * tiles, rows]; rows that the last tile lacks count as zero."""
    matrix = np.zeros((VALUES, high, high * RESULTS + TAPS - 1))
    for tile in range(high):
        matrix[:, tile, tile * RESULTS : tile * RESULTS + VALUES] = values
    return matrix.reshape(VALUES * high, -1)[:, :height]


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients, lowest first, of the monic polynomial with these roots."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *coefficients], [*(root * c for c in coefficients), Fraction(0)]
        coefficients = [a - b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


def _value(polynomial: Sequence[Fraction], point: Fraction) -> Fraction:
    return sum((c * point**i for i, c in enumerate(polynomial)), Fraction(0))


def _product(a: Array | np.ndarray, b: Array) -> Array:
    return lax.dot(jnp.asarray(a, b.dtype), b, precision=lax.Precision.HIGHEST)


def _combine(weights: np.ndarray, values: Sequence[Array]) -> Array:
    terms = [value * np.float32(weight) for weight, value in zip(weights, values, strict=True) if weight]
    return functools.reduce(jnp.add, terms)
