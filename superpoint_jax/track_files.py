"""Tracks of a sequence as files for other programs: tables, and text like COLMAP's."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from superpoint_jax.files import replacing
from superpoint_jax.tracking import Tracks

COLUMNS = ("frame", "name", "track", "age", "x", "y")
"""Columns of a table: the place of the frame in the sequence, from 0; its number or file name; the number of the track;
frames since it began; and its place in pixels of the frame, centres at integers."""

SUFFIXES = (".csv", ".parquet", ".txt")


def tracks_record(name: str | int, tracks: Tracks, reduction: float = 1.0) -> dict[str, Any]:
    """The tracks in one frame as an object for JSON: "frame", and "tracks" with "id", "age", "x" and "y".

    Args:
        name: Number of the frame, or its file name.
        tracks: The tracks in that frame.
        reduction: Pixels of the frame per pixel of the image in which they were found.
    """
    rows = np.flatnonzero(np.asarray(tracks.mask))
    # Pixel centres are at integers, here and in the original frame.
    points = (np.asarray(tracks.points_xy[:, 0], np.float64)[rows] + 0.5) * reduction - 0.5
    numbers, ages = (np.asarray(values)[rows].tolist() for values in (tracks.ids, tracks.ages))
    return {
        "frame": name,
        "tracks": [
            {"id": number, "age": age, "x": round(float(x), 3), "y": round(float(y), 3)}
            for number, age, (x, y) in zip(numbers, ages, points, strict=True)
        ],
    }


def check_tracks_file(path: Path) -> None:
    """Refuse, before any work, a file that `write_tracks` could not write.

    Raises:
        ValueError: The suffix is unknown.
        ImportError: pyarrow is not installed, which Parquet needs.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: tracks are written as {', '.join(SUFFIXES)}, not as {path.suffix or 'a folder'}")
    if path.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ImportError(f"{path.name} needs pyarrow: pip install 'superpoint-jax[parquet]'")


def write_tracks(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the tracks of all frames: a table as .csv or .parquet with `COLUMNS`, or text like COLMAP's as .txt.

    The text has one line per track of two frames or more, TRACK_ID, TRACK[] as (IMAGE_ID, X, Y); images are numbered
    from 1, and, as in COLMAP, the centre of the first pixel is at (0.5, 0.5).

    Args:
        path: File to write.
        records: The `tracks_record` of every frame, in order.

    Raises:
        ValueError, ImportError: As `check_tracks_file`.
        OSError: The file can't be written.
    """
    check_tracks_file(path)
    with replacing(path) as temporary:
        if path.suffix.lower() == ".csv":
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(COLUMNS)
                writer.writerows(_rows(records))
        elif path.suffix.lower() == ".parquet":
            _write_parquet(temporary, records)
        else:
            temporary.write_text("\n".join(_colmap_lines(records)) + "\n", encoding="utf-8")


def _rows(records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Any, ...]]:
    for frame, record in enumerate(records):
        for one in record["tracks"]:
            yield frame, record["frame"], one["id"], one["age"], one["x"], one["y"]


def _write_parquet(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    types = (pyarrow.int32(), pyarrow.string(), pyarrow.int32(), pyarrow.int32(), pyarrow.float64(), pyarrow.float64())
    rows = [(frame, str(name), *rest) for frame, name, *rest in _rows(records)]
    columns = zip(*rows, strict=True) if rows else [()] * len(COLUMNS)
    arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    pyarrow.parquet.write_table(pyarrow.table(arrays, list(COLUMNS)), path)


def _colmap_lines(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    places: dict[int, list[str]] = {}
    for frame, _, track, _, x, y in _rows(records):
        places.setdefault(track, []).append(f"{frame + 1} {x + 0.5:.3f} {y + 0.5:.3f}")
    tracks = {track: found for track, found in places.items() if len(found) > 1}
    yield "# Image list with one line of data per image:"
    yield "#   IMAGE_ID, NAME"
    yield from (f"# {number} {record['frame']}" for number, record in enumerate(records, 1))
    yield "# Track list with one line of data per track:"
    yield "#   TRACK_ID, TRACK[] as (IMAGE_ID, X, Y)"
    yield f"# Number of tracks: {len(tracks)}"
    yield from (" ".join([str(track), *found]) for track, found in sorted(tracks.items()))
