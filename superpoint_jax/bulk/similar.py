"""Which images of a set look alike, by one vector per image that is made from its descriptors (VLAD)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from superpoint_jax.bulk.hloc import read_features

WORDS = 32
"""Number of cluster centres of descriptors."""
SAMPLE = 20_000
"""Number of descriptors that the centres are found from, about."""
ITERATIONS = 10


def similar_pairs(
    features: Mapping[str, Path], names: list[str], count: int, without: Collection[frozenset[str]]
) -> list[tuple[str, str]]:
    """For each image the pairs with the `count` most similar others, among the pairs that are not in `without`.

    A pair is listed once, and its images in the order of `names`. The same features give the same pairs.

    Args:
        features: For each image name, the HDF5 file in hloc's layout that contains its features.
        names: The names of the images.
        count: Number of others per image.
        without: Pairs that are matched in any case.

    Source: Jégou et al., "Aggregating local descriptors into a compact image representation" (2010), with the residuals
    of each centre scaled to unit length (Arandjelović and Zisserman, "All about VLAD", 2013).
    """
    rng = np.random.default_rng(0)
    share = max(SAMPLE // max(len(names), 1), 1)
    sample = np.concatenate([rng.permutation(_descriptors(features, name))[:share] for name in names])
    if not len(sample):
        return []
    centres = _centres(sample, rng)
    vectors = np.stack([_vector(_descriptors(features, name), centres) for name in names])
    pairs: dict[frozenset[str], tuple[str, str]] = {}
    for i, name in enumerate(names):
        similarities = vectors @ vectors[i]
        others = (j for j in np.argsort(-similarities, kind="stable") if j != i)
        free = (j for j in others if frozenset((name, names[j])) not in without)
        for _, j in zip(range(count), free, strict=False):
            pairs.setdefault(frozenset((name, names[j])), (names[min(i, j)], names[max(i, j)]))
    return list(pairs.values())


def _descriptors(features: Mapping[str, Path], name: str) -> Float[np.ndarray, "n d"]:
    return read_features(features[name], [name])[0].descriptors.astype(np.float32)


def _centres(sample: Float[np.ndarray, "n d"], rng: np.random.Generator) -> Float[np.ndarray, "k d"]:
    """Centres of clusters of unit vectors, by k-means from a random start."""
    centres = rng.permutation(sample)[:WORDS]
    for _ in range(ITERATIONS):
        nearest = (sample @ centres.T).argmax(axis=1)
        sums = np.stack([sample[nearest == k].sum(axis=0) for k in range(len(centres))])
        centres = np.where(np.any(sums, axis=1, keepdims=True), _unit(sums), centres)
    return centres


def _vector(descriptors: Float[np.ndarray, "n d"], centres: Float[np.ndarray, "k d"]) -> Float[np.ndarray, " kd"]:
    nearest = (descriptors @ centres.T).argmax(axis=1)
    residuals = [(descriptors[nearest == k] - centres[k]).sum(axis=0) for k in range(len(centres))]
    return _unit(_unit(np.stack(residuals)).reshape(-1))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
