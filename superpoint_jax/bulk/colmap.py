"""A COLMAP database made from features in hloc's layout, with matches between the images on request."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import itertools
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from superpoint_jax.bulk.cameras import Cameras, Intrinsics, write_images
from superpoint_jax.bulk.hloc import ImageFeatures, read_features, sizes_in
from superpoint_jax.bulk.pairs import Matching, PairCount, pairs_of
from superpoint_jax.bulk.similar import similar_pairs
from superpoint_jax.features import Keypoints
from superpoint_jax.files import require_room
from superpoint_jax.matching import Matcher, match
from superpoint_jax.processing.loading import natural_order

PAIRS_AT_A_TIME = 8
ROOM_BYTES = 2**20
"""What must be free on the disk besides the room for a database that grows."""


def write_database(
    path: Path,
    root: Path,
    features: Mapping[str, Path],
    *,
    matching: Matching | None = None,
    matcher: Matcher | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    cameras: Cameras | None = None,
    intrinsics: Mapping[str, Intrinsics] | None = None,
) -> PairCount:
    """Write a new database with cameras, images, keypoints, and verified matches; return how many pairs there are.

    Keypoints are moved by half a pixel, because COLMAP's pixel centres are at 0.5. Matches are mutual nearest
    neighbours that pass the tests of `matching`, or what a `matcher` finds. pycolmap verifies them geometrically, with
    a fixed seed, and only pairs with at least `min_verified` verified matches have a two-view geometry in the database.

    Args:
        path: File to write; it must not exist.
        root: The folder that names are relative to.
        features: For each image name, the HDF5 file in hloc's layout that contains its features.
        matching: Which images are matched, and the tests; by default none are.
        matcher: A network that matches, for example `superpoint_jax.LightGlue`.
        pairs: The names of the images that are matched, instead of what `matching` says. Pairs with an image that has
            no features are left out.
        cameras: Which images share a camera.
        intrinsics: What is known of cameras, by name of the image.

    Raises:
        ImportError: pycolmap or h5py is not installed.
        ValueError: There are no features, or the cameras don't fit the images.
        OSError: The database can't be written, for example because the disk is full.
    """
    import pycolmap

    matching = matching or Matching()
    names = sorted(features, key=natural_order)
    if not names:
        raise ValueError("no image could be read: there is nothing to put into a database")
    chosen: Iterable[tuple[str, str]] = pairs_of(names, matching.matches)
    if pairs is not None:
        chosen = ((a, b) for a, b in pairs if a in features and b in features)
    if matching.loops:
        chosen = list(chosen)
        chosen += similar_pairs(features, names, matching.loops, set(map(frozenset, chosen)))
    silence()
    require_room(path.parent, ROOM_BYTES + 1000 * len(names))
    in_files = {name: size for path in dict.fromkeys(features.values()) for name, size in sizes_in(path).items()}
    sizes = {name: in_files[name] for name in names}
    ids = write_images(path, root, sizes, cameras, intrinsics)
    database = pycolmap.Database.open(path)
    try:
        for name in names:
            _require_room(path)
            (one,) = read_features(features[name], [name])
            database.write_keypoints(ids[name], one.keypoints_xy + np.float32(0.5))
        tried = _write_matches(path, database, ids, features, chosen, matching, matcher)
    finally:
        database.close()
    return PairCount(tried, _verify(path, matching.min_verified) if tried else 0)


def silence() -> None:
    """Keep pycolmap from logging every step, and every photo that it can't read, on standard error."""
    import pycolmap

    pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value


def _write_matches(
    path: Path,
    database: Any,
    ids: Mapping[str, int],
    features: Mapping[str, Path],
    pairs: Iterable[tuple[str, str]],
    matching: Matching,
    matcher: Matcher | None,
) -> int:
    """Write the matches of the pairs and return how many pairs there are."""
    pairs, tried = iter(pairs), 0
    _require_room(path)
    while group := list(itertools.islice(pairs, PAIRS_AT_A_TIME)):
        tried += len(group)
        for (a, b), found in zip(group, match_files(features, group, matching, matcher), strict=True):
            if len(found):
                database.write_matches(ids[a], ids[b], found)
        _require_room(path)
    return tried


def _require_room(path: Path) -> None:
    """Raise an OSError if a database may not have room to grow: pycolmap ends the process where it can't write."""
    size = sum(file.stat().st_size for file in path.parent.glob(f"{glob.escape(path.name)}*"))
    require_room(path.parent, ROOM_BYTES + 2 * size)


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
        found = match(
            a,
            b,
            ratio=tests.ratio,
            ratio_apart=None if tests.ratio is None else tests.ratio_apart,
            max_distance=tests.max_distance,
            min_score=tests.min_score,
        )
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


TABLE = "superpoint_jax"
"""Table of ours in a database, which COLMAP does not read: one text with what the database was made from."""


@dataclass(frozen=True)
class DatabaseRecord:
    """What a database was made from.

    Attributes:
        options: What the keypoints depend on.
        matching: What is matched, and the cameras.
        stamps: The state of each image in it.
        failures: Names of the images that could not be read.
        pairs: The two numbers of its `PairCount`.
    """

    options: Mapping[str, Any]
    matching: dict[str, Any]
    stamps: dict[str, list[int]]
    failures: list[str]
    pairs: list[int]


def write_record(path: Path, record: DatabaseRecord) -> None:
    """Write what a database was made from, and the checksum of all its tables, into a table of its own."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(f"CREATE TABLE {TABLE} (name TEXT PRIMARY KEY, value TEXT)")
        database.execute(f"INSERT INTO {TABLE} VALUES ('record', ?)", (json.dumps(dataclasses.asdict(record)),))
        database.execute(f"INSERT INTO {TABLE} VALUES ('sha256', ?)", (_digest(database),))


def read_record(path: Path) -> DatabaseRecord | None:
    """What a database was made from; None if it was not written by this program, or is damaged."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as database:
            ((text,),) = database.execute(f"SELECT value FROM {TABLE} WHERE name = 'record'").fetchall()
            return DatabaseRecord(**json.loads(text))
    except (sqlite3.DatabaseError, ValueError, TypeError):
        return None


def is_intact_database(path: Path) -> bool:
    """Whether the contents of a database agree with its checksum."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as database:
            stored = database.execute(f"SELECT value FROM {TABLE} WHERE name = 'sha256'").fetchall()
            whole = database.execute("PRAGMA integrity_check").fetchall()
            return whole == [("ok",)] and stored == [(_digest(database),)]
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return False


def _digest(database: sqlite3.Connection) -> str:
    """The SHA-256 of all rows of all tables but the checksum itself."""
    digest = hashlib.sha256()
    tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    for (table,) in [("sqlite_master",), *tables]:
        for row in database.execute(f'SELECT * FROM "{table}" ORDER BY rowid'):
            if row[0] != "sha256":
                digest.update(repr((table, row)).encode())
    return digest.hexdigest()
