"""Turns the keypoints of `extract` into those of transformers: order and number of rows, relative coordinates."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from superpoint_jax.features import Keypoints
from superpoint_jax.huggingface.arrays import is_traced
from superpoint_jax.processing import relative_keypoints

BUCKET = 256
"""Rows are cut to a multiple of this on the device, and to the exact number on the host, so that few programs are
compiled."""


def as_theirs(found: Keypoints) -> dict[str, Array | np.ndarray]:
    """Keypoints, scores, descriptors and mask as transformers returns them.

    They are numpy arrays with as many rows as the fullest image has keypoints. While jax is tracing, no row is cut,
    because the number of rows must be fixed.
    """
    capacity = found.mask.shape[1]
    if is_traced(found.mask):
        arranged = _arranged(found, rows=capacity)
        return {**arranged, "keypoints": relative_keypoints(arranged["keypoints"], found.image_sizes)}
    fullest = int(found.mask.sum(-1).max())
    arranged = jax.device_get(_arranged(found, rows=min(capacity, -(-fullest // BUCKET) * BUCKET)))
    rows = {name: values[:, :fullest] for name, values in arranged.items()}
    # On the host, because XLA may multiply by the inverse instead of dividing, which differs by an ulp.
    return {**rows, "keypoints": relative_keypoints(rows["keypoints"], np.asarray(found.image_sizes))}


@partial(jax.jit, static_argnames="rows")
def _arranged(found: Keypoints, *, rows: int) -> dict[str, Array]:
    """The first rows in the order of transformers.

    That is raster order. Where `max_keypoints` cut, it is descending score, the order of `found`.
    """
    keypoints, mask = found.keypoints[:, :rows], found.mask[:, :rows]
    was_cut = found.num_detected > found.mask.sum(-1)
    raster = jnp.lexsort((keypoints[..., 0], keypoints[..., 1], ~mask), axis=-1)
    order = jnp.where(was_cut[:, None], jnp.arange(rows)[None], raster)

    def ordered(values: Array) -> Array:
        index = order.reshape(order.shape + (1,) * (values.ndim - 2))
        return jnp.take_along_axis(values[:, :rows], index, axis=1)

    return {
        "keypoints": ordered(found.keypoints),
        "scores": ordered(found.scores),
        "descriptors": ordered(found.descriptors),
        "mask": ordered(mask).astype(jnp.int32),
    }
