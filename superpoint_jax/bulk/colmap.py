"""A COLMAP database made from features in hloc's layout, with matches between the images on request."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from superpoint_jax.bulk.hloc import ImageFeatures, read_features
from superpoint_jax.bulk.pairs import Matching, PairCount, pairs_of
from superpoint_jax.features import Keypoints
from superpoint_jax.matching import Matcher, match

PAIRS_AT_A_TIME = 8


def write_database(
    path: Path,
    root: Path,
    features: Mapping[str, Path],
    *,
    matching: Matching | None = None,
    matcher: Matcher | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> PairCount:
    """Write a new database with cameras, images, keypoints, and verified matches; return how many pairs there are.

    Cameras come from the EXIF data of the images or are guessed by pycolmap. Keypoints are moved by half a pixel,
    because COLMAP's pixel centres are at 0.5. Matches are mutual nearest neighbours that pass the tests of `matching`,
    or what a `matcher` finds. pycolmap verifies them geometrically, with a fixed seed, and only pairs with at least
    `min_verified` verified matches have a two-view geometry in the database.

    Args:
        path: File to write; it must not exist.
        root: The folder that names are relative to.
        features: For each image name, the HDF5 file in hloc's layout that contains its features.
        matching: Which images are matched, and the tests; by default none are.
        matcher: A network that matches, for example `superpoint_jax.LightGlue`.
        pairs: The names of the images that are matched, instead of what `matching` says. Pairs with an image that has
            no features are left out.

    Raises:
        ImportError: pycolmap or h5py is not installed.
        ValueError: There are no features, or pycolmap can't open an image.
    """
    import pycolmap

    matching = matching or Matching()
    names = sorted(features)
    if not names:
        raise ValueError("no image could be read: there is nothing to put into a database")
    chosen: Iterable[tuple[str, str]] = pairs_of(names, matching.matches)
    if pairs is not None:
        chosen = ((a, b) for a, b in pairs if a in features and b in features)
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
        tried = _write_matches(database, ids, features, chosen, matching, matcher)
    finally:
        database.close()
    return PairCount(tried, _verify(path, matching.min_verified) if tried else 0)


def _write_matches(
    database: Any,
    ids: Mapping[str, int],
    features: Mapping[str, Path],
    pairs: Iterable[tuple[str, str]],
    matching: Matching,
    matcher: Matcher | None,
) -> int:
    """Write the matches of the pairs and return how many pairs there are."""
    pairs, tried = iter(pairs), 0
    while group := list(itertools.islice(pairs, PAIRS_AT_A_TIME)):
        tried += len(group)
        for (a, b), found in zip(group, match_files(features, group, matching, matcher), strict=True):
            if len(found):
                database.write_matches(ids[a], ids[b], found)
    return tried


def _verify(path: Path, min_verified: int) -> int:
    """Verify all matches of a database, and return how many pairs have enough verified ones; the others are removed."""
    import pycolmap

    options = pycolmap.TwoViewGeometryOptions()
    options.min_num_inliers = min_verified
    options.ransac.random_seed = 0
    pycolmap.geometric_verification(path, two_view_geometry_options=options)
    # COLMAP also writes an entry for each pair that it refused. pycolmap can only delete one after the other.
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM two_view_geometries WHERE rows < ?", (min_verified,))
        return database.execute("SELECT COUNT(*) FROM two_view_geometries").fetchone()[0]


def match_files(
    features: Mapping[str, Path],
    pairs: Sequence[tuple[str, str]],
    matching: Matching | None = None,
    matcher: Matcher | None = None,
) -> list[np.ndarray]:
    """For each pair the rows of its matches that pass the tests of `matching`, uint32 [M,2].

    They are mutual nearest neighbours, or what a `matcher` finds. The arrays have a number of pairs that is a multiple
    of `PAIRS_AT_A_TIME`, and a number of rows that is a power of two, so that few shapes are compiled.
    """
    tests = matching or Matching()
    images = [[read_features(features[name], [name])[0] for name in side] for side in zip(*pairs, strict=True)]
    rows = 1 << max(max(len(image.scores) for side in images for image in side) - 1, 0).bit_length()
    a, b = (_stacked(side, rows) for side in images)
    if matcher is None:
        found = match(a, b, ratio=tests.ratio, max_distance=tests.max_distance, min_score=tests.min_score)
    else:
        found = match(a, b, matcher=matcher, min_score=tests.min_score)
    return [one["indices"].astype(np.uint32) for one in found.to_list()[: len(pairs)]]


def _stacked(images: list[ImageFeatures], rows: int) -> Keypoints:
    """A batch, padded with rows and with empty images."""
    padding = ImageFeatures(
        images[0].keypoints_xy[:0], images[0].scores[:0], images[0].descriptors[:0], images[0].size, 0.0
    )
    images = images + [padding] * (-len(images) % PAIRS_AT_A_TIME)

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
        image_sizes=jnp.asarray([image.size for image in images], jnp.int32),
    )
