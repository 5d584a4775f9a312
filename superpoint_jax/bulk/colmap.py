"""A COLMAP database made from features in hloc's layout, with matches between the images on request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np

from superpoint_jax.bulk.hloc import ImageFeatures, read_features
from superpoint_jax.features import Keypoints
from superpoint_jax.matching import all_pairs, match

Pairs = Literal["none", "exhaustive", "sequential"]
SEQUENCE = 10
"""In sequential pairs, each image is matched with this many next ones."""
PAIRS_AT_A_TIME = 8


def write_database(path: Path, root: Path, features: Mapping[str, Path], *, pairs: Pairs = "none") -> None:
    """Write a new database with cameras, images, keypoints, and verified matches of the pairs.

    Cameras come from the EXIF data of the images or are guessed by pycolmap. Keypoints are moved by half a pixel,
    because COLMAP's pixel centres are at 0.5. Matches are mutual nearest neighbours; pycolmap verifies them
    geometrically.

    Args:
        path: File to write; it must not exist.
        root: The folder that names are relative to.
        features: For each image name, the HDF5 file in hloc's layout that contains its features.
        pairs: Which images are matched: none, every image with every other, or each with the next ones by name.

    Raises:
        ImportError: pycolmap or h5py is not installed.
    """
    import pycolmap

    names = sorted(features)
    if not names:
        raise ValueError("no image could be read: there is nothing to put into a database")
    # Otherwise pycolmap logs every step on standard error.
    pycolmap.logging.minloglevel = pycolmap.logging.ERROR.value
    pycolmap.Database.open(path).close()
    pycolmap.import_images(path, root, image_names=names)
    database = pycolmap.Database.open(path)
    try:
        ids = {image.name: image.image_id for image in database.read_all_images()}
        for name in names:
            if name not in ids:
                raise ValueError(f"pycolmap can't open {root / name}; leave it out, or choose another kind of output")
            (one,) = read_features(features[name], [name])
            database.write_keypoints(ids[name], one.keypoints_xy + np.float32(0.5))
        matched = []
        chosen = pairs_of(len(names), pairs)
        for start in range(0, len(chosen), PAIRS_AT_A_TIME):
            group = chosen[start : start + PAIRS_AT_A_TIME]
            for (i, j), found in zip(
                group, match_files(features, [(names[i], names[j]) for i, j in group]), strict=True
            ):
                if len(found):
                    database.write_matches(ids[names[i]], ids[names[j]], found)
                    matched.append((names[i], names[j]))
    finally:
        database.close()
    if matched:
        pycolmap.geometric_verification(path)


def pairs_of(count: int, pairs: Pairs) -> list[tuple[int, int]]:
    """Indices of the images that are matched."""
    if pairs == "none":
        return []
    every = [(int(i), int(j)) for i, j in all_pairs(count)]
    return [(i, j) for i, j in every if pairs == "exhaustive" or j - i <= SEQUENCE]


def match_files(features: Mapping[str, Path], pairs: Sequence[tuple[str, str]]) -> list[np.ndarray]:
    """For each pair the rows of its mutual nearest neighbours, uint32 [M,2]."""
    sides = [_stacked([read_features(features[pair[side]], [pair[side]])[0] for pair in pairs]) for side in (0, 1)]
    return [found["indices"].astype(np.uint32) for found in match(*sides).to_list()]


def _stacked(images: list[ImageFeatures]) -> Keypoints:
    """A batch, padded to a number of rows that is a power of two, so that few sizes are compiled."""
    most = max(len(image.keypoints_xy) for image in images)
    rows = 1 << max(most - 1, 0).bit_length()

    def padded(values: np.ndarray) -> np.ndarray:
        return np.pad(values, ((0, rows - len(values)), (0, 0)))

    counts = np.array([len(image.keypoints_xy) for image in images])
    mask = np.arange(rows)[None] < counts[:, None]
    return Keypoints(
        keypoints=jnp.asarray(np.stack([padded(image.keypoints_xy) for image in images])),
        scores=jnp.asarray(mask, jnp.float32),
        descriptors=jnp.asarray(np.stack([padded(image.descriptors.astype(np.float32)) for image in images])),
        mask=jnp.asarray(mask),
        num_detected=jnp.asarray(counts, jnp.int32),
        image_sizes=jnp.zeros((len(images), 2), jnp.int32),
    )
