"""Damage, full disks and changed questions: an extraction that goes on is equal to an undisturbed one, or refuses."""

import os
import random
import resource
import sqlite3
from contextlib import closing, contextmanager

import numpy as np
import pytest
from PIL import Image

from superpoint_jax.bulk.hloc import names_in
from superpoint_jax.bulk.outputs import verify
from superpoint_jax.bulk.parts import Conflict
from superpoint_jax.bulk.sealed import is_intact, sealing
from superpoint_jax.bulk.writing import Writer
from superpoint_jax.cli import main
from tests.test_bulk import assert_equal_files

FLIPS = 40


def flip(path, position: int, bit: int) -> None:
    """Change one bit of a file."""
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))


def dump(path) -> str:
    """Everything that a database holds, as text."""
    with closing(sqlite3.connect(path)) as database:
        return "\n".join(database.iterdump())


@pytest.fixture
def stopped(extracted, folder, tmp_path, monkeypatch):
    """A function that extracts into an output and stops after two of three parts."""

    def run(output):
        parts = 0
        end = Writer._end

        def stopping(self):
            nonlocal parts
            if parts == 2:
                raise KeyboardInterrupt
            end(self)
            parts += 1

        with monkeypatch.context() as patch:
            patch.setattr(Writer, "_end", stopping)
            with pytest.raises(KeyboardInterrupt):
                extracted(folder, output)
        parts = sorted((output.parent / f"{output.name}.parts").glob("part-*.h5"))
        assert len(parts) == 2
        return parts

    return run


@pytest.mark.parametrize("name", ["f.h5", "f", "f.db"])
def test_every_flipped_bit_of_a_finished_output_is_found(name, extracted, folder, tmp_path, capsys):
    if name == "f.db":
        pytest.importorskip("pycolmap")
    output = tmp_path / name
    extracted(folder, output)
    assert verify(output) == (6, [])
    assert main(["extract", "--verify", str(output)]) == 0
    (path, *_) = sorted(output.iterdir()) if output.is_dir() else [output]
    chance, whole = random.Random(0), path.read_bytes()
    contents = dump(path) if name == "f.db" else ""
    for _ in range(FLIPS):
        flip(path, chance.randrange(len(whole)), chance.randrange(8))
        code = main(["extract", "--verify", str(output)])
        # In a database there are bytes that mean nothing.
        assert code == 2 or (name == "f.db" and dump(path) == contents)
        assert code == 0 or f"{path} " in capsys.readouterr().err
        path.write_bytes(whole)
    path.write_bytes(whole[:-1])
    assert main(["extract", "--verify", str(output)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path} is damaged" in line or f"{path} exists and is damaged" in line


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_part_is_set_aside_and_made_again(damage, extracted, stopped, folder, tmp_path):
    extracted(folder, tmp_path / "whole.h5")
    part, _ = stopped(tmp_path / "f.h5")
    whole = part.read_bytes()
    if damage == "flip":
        flip(part, len(whole) // 2, 3)
    else:
        part.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    damaged, told = part.read_bytes(), []
    assert extracted(folder, tmp_path / "f.h5", tell=told.append).before == 2
    assert any(f"{part} is damaged" in line for line in told)
    assert_equal_files(tmp_path / "f.h5", tmp_path / "whole.h5")
    assert [path.read_bytes() for path in (tmp_path / "f.h5.parts").iterdir()] == [damaged]


@pytest.mark.parametrize("name", ["f.h5", "f"])
def test_a_damaged_output_is_set_aside_and_made_again(name, extracted, folder, tmp_path):
    output, told = tmp_path / name, []
    extracted(folder, output)
    (path, *_) = sorted(output.iterdir()) if output.is_dir() else [output]
    flip(path, path.stat().st_size // 2, 0)
    before = extracted(folder, output, tell=told.append).before
    assert before == (0 if name == "f.h5" else 4)
    assert any(f"{path} is damaged" in line for line in told)
    assert verify(output) == (6, [])
    assert path.with_name(f"{path.name}.damaged").exists()


@pytest.mark.parametrize("finished", [True, False])
def test_changed_photos_and_other_folders_are_not_mixed_in(finished, extracted, stopped, folder, tmp_path):
    output = tmp_path / "f.h5"
    if finished:
        extracted(folder, output)
    else:
        stopped(output)
    state = (folder / "1.png").stat()
    Image.open(folder / "2.png").save(folder / "1.png")
    with pytest.raises(Conflict, match=r"was made from another 1\.png than .* has now"):
        extracted(folder, output)
    other = tmp_path / "other"
    other.mkdir()
    Image.open(folder / "2.png").save(other / "x.png")
    with pytest.raises(Conflict, match=r"was made from another .* and \d more than .*other has now"):
        extracted(other, output)
    assert not (tmp_path / "other.h5").exists()
    (folder / "1.png").unlink()
    with pytest.raises(Conflict, match=r"another 1\.png"):
        extracted(folder, output)
    assert state.st_size


@pytest.mark.parametrize("change", ["mask", "frame"])
def test_changed_masks_and_another_frame_are_not_mixed_in(change, extracted, folder, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.new("L", (64, 64), 255).save(masks / "1.png.png")
    extracted(folder, tmp_path / "f.h5", masks=masks)
    if change == "mask":
        Image.new("L", (64, 64), 0).save(masks / "1.png.png")
        with pytest.raises(Conflict, match=r"another 1\.png"):
            extracted(folder, tmp_path / "f.h5", masks=masks)
    else:
        with pytest.raises(Conflict, match="frame was 'stored' and is 'upright'"):
            extracted(folder, tmp_path / "f.h5", masks=masks, frame="upright")


def test_a_database_that_was_finished_but_not_cleaned_up_is_finished(extracted, stopped, folder, tmp_path):
    pytest.importorskip("pycolmap")
    extracted(folder, tmp_path / "f.db")
    stopped(tmp_path / "g.h5")
    (tmp_path / "g.h5.parts").rename(tmp_path / "f.db.parts")
    assert extracted(folder, tmp_path / "f.db").before == 6
    assert not (tmp_path / "f.db.parts").exists()


def test_a_database_of_another_program_is_left_alone(extracted, folder, tmp_path):
    pytest.importorskip("pycolmap")
    with closing(sqlite3.connect(tmp_path / "f.db")) as database:
        database.execute("CREATE TABLE images (name TEXT)")
    with pytest.raises(Conflict, match="is damaged or of another program"):
        extracted(folder, tmp_path / "f.db")


@contextmanager
def limited(size: int):
    """No file can become larger than this, as under a quota."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 100, 600, 5_000, 100_000])
def test_hdf5_that_can_not_be_written_is_an_error_and_no_crash(size, tmp_path):
    def write():
        with limited(size), sealing(tmp_path / "f.h5") as file:
            for i in range(20):
                file.create_dataset(f"{i}/keypoints", data=np.full(10_000, i))

    with pytest.raises(OSError, match="File too large"):
        write()
    with sealing(tmp_path / "f.h5") as file:
        file["1/keypoints"] = 1
    assert is_intact(tmp_path / "f.h5")
    assert names_in(tmp_path / "f.h5") == ["1"]


@pytest.mark.parametrize("size", [4_000, 12_000, 20_000])
def test_after_a_full_disk_the_same_call_goes_on(size, extracted, folder, tmp_path):
    extracted(folder, tmp_path / "whole.h5")
    assert os.path.getsize(tmp_path / "whole.h5") > 20_000
    with pytest.raises(OSError, match="no space left on the disk; make room"), limited(size):
        extracted(folder, tmp_path / "f.h5")
    extracted(folder, tmp_path / "f.h5")
    assert_equal_files(tmp_path / "f.h5", tmp_path / "whole.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.h5", "photos", "whole.h5"]
