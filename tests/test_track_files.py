"""Tracks as tables, and as text like COLMAP's."""

import csv

import jax.numpy as jnp
import numpy as np
import pytest

import superpoint_jax as sp
from superpoint_jax.track_files import COLUMNS, check_tracks_file, tracks_record, write_tracks

RECORDS = [
    {"frame": "a.png", "tracks": [dict(id=0, age=0, x=1.0, y=2.5), dict(id=1, age=0, x=7.25, y=8.0)]},
    {"frame": "b.png", "tracks": [dict(id=0, age=1, x=1.5, y=3.0)]},
    {"frame": "c.png", "tracks": [dict(id=2, age=0, x=4.0, y=4.0), dict(id=0, age=2, x=2.0, y=3.125)]},
]
ROWS = [
    (0, "a.png", 0, 0, 1.0, 2.5),
    (0, "a.png", 1, 0, 7.25, 8.0),
    (1, "b.png", 0, 1, 1.5, 3.0),
    (2, "c.png", 2, 0, 4.0, 4.0),
    (2, "c.png", 0, 2, 2.0, 3.125),
]


def test_a_table_has_a_row_per_track_and_frame(tmp_path):
    write_tracks(tmp_path / "t.csv", RECORDS)
    with (tmp_path / "t.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert tuple(head) == COLUMNS
    assert [(int(f), n, int(t), int(a), float(x), float(y)) for f, n, t, a, x, y in rows] == ROWS


def test_parquet_has_the_same_rows(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_tracks(tmp_path / "t.parquet", RECORDS)
    table = parquet.read_table(tmp_path / "t.parquet")
    assert tuple(table.column_names) == COLUMNS
    assert [tuple(row.values()) for row in table.to_pylist()] == ROWS
    write_tracks(tmp_path / "none.parquet", [{"frame": 0, "tracks": []}])
    assert parquet.read_table(tmp_path / "none.parquet").num_rows == 0


def test_the_text_has_a_line_per_track_with_colmaps_origin(tmp_path):
    write_tracks(tmp_path / "t.txt", RECORDS)
    lines = (tmp_path / "t.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["0 1 1.500 3.000 2 2.000 3.500 3 2.500 3.625"]
    assert "# 2 b.png" in lines
    assert "# Number of tracks: 1" in lines


def test_places_are_in_pixels_of_the_frame_before_it_was_reduced():
    mask = np.array([True, True, False])
    keypoints = sp.Keypoints(
        keypoints=jnp.array([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]]),
        scores=jnp.ones(3),
        descriptors=jnp.ones((3, 2)) * np.sqrt(0.5).astype(np.float32),
        mask=jnp.asarray(mask),
        num_detected=jnp.int32(2),
        image_sizes=jnp.array([8, 8]),
    )
    record = tracks_record(7, sp.Tracker().start(keypoints), 2.0)
    # The centre of a pixel of the reduced frame lies between four pixels.
    assert record == {
        "frame": 7,
        "tracks": [{"id": 0, "age": 0, "x": 6.5, "y": 8.5}, {"id": 1, "age": 0, "x": 0.5, "y": 0.5}],
    }


def test_other_files_are_refused(tmp_path):
    for name, what in (("t.xls", r"\.xls"), ("t", "a folder")):
        with pytest.raises(ValueError, match=rf"tracks are written as \.csv, \.parquet, \.txt, not as {what}"):
            check_tracks_file(tmp_path / name)
