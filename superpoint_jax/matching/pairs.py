"""Functions that all matchers share: checks of the two sides, padding, and the best of each row."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from superpoint_jax.features import Keypoints
from superpoint_jax.matching.matches import Matches


def check_pairs(a: Keypoints, b: Keypoints) -> None:
    """Raise a ValueError unless a and b are batches of pairs, one image and a batch, or two single images."""
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
    """The keypoints of a single image with a batch axis.

    numpy arrays, which `extract_images` returns without padding, are padded to one of a few numbers of rows, so that
    little is compiled for many photos.
    """
    if isinstance(features.mask, np.ndarray):
        return stacked([features])
    return jax.tree.map(lambda leaf: leaf[None], features)


def stacked(features: Sequence[Keypoints]) -> Keypoints:
    """A batch of the keypoints of single images, numpy arrays as `extract_images` returns them, padded to equal rows.

    The number of rows is one of a few, so that little is compiled for many photos.
    """
    rows = _few_sizes(max(len(one.mask) for one in features))
    names = ("keypoints", "scores", "descriptors", "mask")
    padded = [
        dataclasses.replace(
            one, **{name: _padded(np.asarray(getattr(one, name)), rows - len(one.mask)) for name in names}
        )
        for one in features
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *padded)


def rows_of(features: Keypoints, matches: Matches) -> Matches:
    """The matches of a single image from those of `batch_of_one`; numpy arrays if its keypoints are numpy arrays."""
    if isinstance(features.mask, np.ndarray):
        return jax.tree.map(lambda leaf: np.asarray(leaf)[0, : len(features.mask)], matches)
    return matches[0]


def _padded(array: np.ndarray, missing: int) -> np.ndarray:
    return np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))


def _few_sizes(count: int) -> int:
    """The smallest of 128, 192, 256, 384, 512, ... that is at least `count`."""
    size = 128
    while size < count:
        size *= 2
    return size * 3 // 4 if size > 128 and count <= size * 3 // 4 else size


def first_max(values: Float[Array, "*b i j"], axis: int) -> tuple[Array, Array]:
    """The maximum along an axis, and the first index where it occurs.

    On a CPU, XLA vectorises these two reductions, while its argmax is a scalar loop.
    """
    maximum = jnp.max(values, axis=axis)
    places = lax.broadcasted_iota(jnp.int32, values.shape, axis)
    is_maximum = values == jnp.expand_dims(maximum, axis)
    return maximum, jnp.min(jnp.where(is_maximum, places, values.shape[axis] - 1), axis=axis)
