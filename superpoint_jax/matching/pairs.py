"""What every matcher does with its two sides: check them, and find the best of a row."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from superpoint_jax.features import Keypoints


def check_pairs(a: Keypoints, b: Keypoints) -> None:
    """Raise a ValueError if a and b are no batches of pairs, nor one against many, nor two single images."""
    lengths = a.descriptors.shape[-1], b.descriptors.shape[-1]
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"descriptors have length {lengths[0]} in a and {lengths[1]} in b; only those of one model can be compared"
        )
    if (a.mask.ndim, b.mask.ndim) not in ((1, 1), (2, 2)):
        raise ValueError(
            f"a.mask has shape {a.mask.shape} and b.mask {b.mask.shape}; both must be [B,K], or both [K]. "
            f"A slice, features[:1], keeps the batch axis"
        )
    if a.mask.ndim == 2 and len(a) != len(b) and 1 not in (len(a), len(b)):
        raise ValueError(f"a has {len(a)} images and b has {len(b)}; the numbers must be equal, or one of them 1")


def batch_of_one(features: Keypoints) -> Keypoints:
    """A single image with a batch axis."""
    return jax.tree.map(lambda leaf: leaf[None], features)


def first_max(values: Float[Array, "*b i j"], axis: int) -> tuple[Array, Array]:
    """The maximum along an axis and its first place: two plain reductions, which XLA vectorises on a CPU.

    Its argmax is a scalar loop there.
    """
    maximum = jnp.max(values, axis=axis)
    places = lax.broadcasted_iota(jnp.int32, values.shape, axis)
    is_maximum = values == jnp.expand_dims(maximum, axis)
    return maximum, jnp.min(jnp.where(is_maximum, places, values.shape[axis] - 1), axis=axis)
