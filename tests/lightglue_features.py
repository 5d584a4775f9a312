"""Keypoints of made-up pairs of images, half of which have a partner; and random LightGlues."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import nnx

from superpoint_jax import Keypoints, LightGlue, LightGlueConfig

SMALL = dict(input_dim=16, descriptor_dim=32, num_hidden_layers=3, num_attention_heads=2)
"""A network that a laptop runs in a millisecond."""


def make_pair(
    seed: int, counts: tuple[int, int], dim: int, sizes: tuple[tuple[int, int], tuple[int, int]]
) -> tuple[Keypoints, Keypoints]:
    """Two batches of one image of (height, width) `sizes`; half of the smaller one's points are the other's."""
    rng = np.random.default_rng(seed)
    points = [rng.uniform(0, 1, (count, 2)) * size[::-1] for count, size in zip(counts, sizes, strict=True)]
    descriptors = [rng.normal(size=(count, dim)) for count in counts]
    shared = min(counts) // 2
    rows_a, rows_b = (rng.permutation(count)[:shared] for count in counts)
    points[1][rows_b] = points[0][rows_a] * 0.9 + [20, 10]
    descriptors[1][rows_b] = descriptors[0][rows_a] + 0.5 * rng.normal(size=(shared, dim))
    a, b = (keypoints_of(p, d, size) for p, d, size in zip(points, descriptors, sizes, strict=True))
    return a, b


def keypoints_of(points: np.ndarray, descriptors: np.ndarray, size: tuple[int, int]) -> Keypoints:
    """A batch of one image, without padding."""
    descriptors = descriptors / np.linalg.norm(descriptors, axis=-1, keepdims=True)
    return Keypoints(
        keypoints=jnp.asarray(points, jnp.float32)[None],
        scores=jnp.ones((1, len(points))),
        descriptors=jnp.asarray(descriptors, jnp.float32)[None],
        mask=jnp.ones((1, len(points)), bool),
        num_detected=jnp.array([len(points)], jnp.int32),
        image_sizes=jnp.array([size], jnp.int32),
    )


def padded(keypoints: Keypoints, rows: int, value: float = 0.0) -> Keypoints:
    """With rows of padding at the end, which hold a value."""
    more = rows - keypoints.mask.shape[-1]

    def pad(leaf, value):
        before = leaf.ndim - 1 if leaf is keypoints.mask or leaf is keypoints.scores else leaf.ndim - 2
        return jnp.pad(
            leaf, [(0, 0)] * before + [(0, more)] + [(0, 0)] * (leaf.ndim - before - 1), constant_values=value
        )

    return dataclasses.replace(
        keypoints,
        keypoints=pad(keypoints.keypoints, value),
        scores=pad(keypoints.scores, 0.0),
        descriptors=pad(keypoints.descriptors, value),
        mask=pad(keypoints.mask, False),
    )


def stacked(*images: Keypoints) -> Keypoints:
    """Batches of one image as one batch, padded to the longest."""
    rows = max(image.mask.shape[1] for image in images)
    images = tuple(padded(image, rows) for image in images)
    return Keypoints(
        **{
            name: jnp.concatenate([getattr(image, name) for image in images])
            for name in ("keypoints", "scores", "descriptors", "mask", "num_detected", "image_sizes")
        }
    )


def random_matcher(seed: int = 0, **options) -> LightGlue:
    """Weights under which half of the points match: the states stay near the descriptors."""
    return LightGlue(LightGlueConfig(**{**SMALL, "filter_threshold": 0.0, **options}), rngs=nnx.Rngs(seed))
