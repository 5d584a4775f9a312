"""What a TPU computes with three passes of bfloat16, for a CPU, which has no such passes."""

from collections.abc import Callable

from jax import Array, lax


def in_three_passes(product: Callable[[Array, Array], Array], a: Array, b: Array) -> Array:
    """The product of factors that are rounded to two bfloat16 each, without that of both smaller parts."""
    (a_high, a_low), (b_high, b_low) = _parts(a), _parts(b)
    return product(a_high, b_high) + (product(a_high, b_low) + product(a_low, b_high))


def _parts(x: Array) -> tuple[Array, Array]:
    high = lax.reduce_precision(x, 8, 7)
    return high, lax.reduce_precision(x - high, 8, 7)
