"""Homographies, descriptors and keypoints for the tests of evaluations."""

import jax.numpy as jnp
import numpy as np

from superpoint_jax import Keypoints

HOMOGRAPHY = np.array([[0.9, -0.12, 14.0], [0.1, 1.05, -8.0], [2e-4, -3e-4, 1.0]])


def translation(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def unit(*rows) -> np.ndarray:
    rows = np.array(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def keypoints_batch(points, descriptors, size, *, rows):
    """A batch of one image with `rows` rows, the last ones padding."""
    count = len(points)
    padding = ((0, rows - count), (0, 0))
    return Keypoints(
        keypoints=jnp.asarray(np.pad(points, padding)[None], jnp.float32),
        scores=jnp.where(jnp.arange(rows)[None] < count, 0.5, 0.0),
        descriptors=jnp.asarray(np.pad(descriptors, padding)[None], jnp.float32),
        mask=jnp.arange(rows)[None] < count,
        num_detected=jnp.array([count], jnp.int32),
        image_sizes=jnp.array([size], jnp.int32),
    )
