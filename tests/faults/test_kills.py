"""Real processes: killed at every point where something is committed, on disks that fill, with orphans and bounds."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import superpoint_jax as sp
from superpoint_jax.bulk.outputs import verify
from tests.faults.command import run, start
from tests.test_bulk import assert_equal_files

pytestmark = pytest.mark.slow

COMMITS = ("link", "replace", "unlink", "rmdir", "fsync")
"""The functions of `os` by which something is committed; a process is killed before each of their calls."""

KILLING = f"""
import os, signal, sys
from superpoint_jax.cli import main
import superpoint_jax.bulk.run

def counted(function, kill_at, count=[0]):
    def run(*arguments, **options):
        if ".parts" in str(arguments) or "OUT" in str(arguments) or isinstance(arguments[0], int):
            count[0] += 1
            if count[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return run

def child(kill_at, arguments):
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        for name in {COMMITS!r}:
            setattr(os, name, counted(getattr(os, name), kill_at))
        os._exit(main(arguments))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

# Jax is imported and not used before the forks.
folder, suffix, first, *arguments = sys.argv[1:]
for point in range(int(first), 1000):
    output = f"{{folder}}/OUT{{point}}{{suffix}}"
    command = ["extract", *arguments, "-o", output]
    code = child(point, command)
    if code == 0:
        break
    assert code == -9, code
    assert child(0, command) == 0, point
    print(point, output, flush=True)
"""


@pytest.fixture
def command(folder, model, tmp_path):
    """The arguments of an extraction of four small photos in two parts."""
    for path in folder.glob("sub/*"):
        path.unlink()
    Image.open(folder / "1.png").transpose(Image.Transpose.ROTATE_180).save(folder / "3.png")
    sp.save_pretrained(model, tmp_path / "weights")
    options = ["--max-keypoints", "30", "--part", "2", "--batch", "2", "--max-shapes", "1", "--devices", "1"]
    return [folder, "--weights", tmp_path / "weights", *options, "--engine", "xla", "--workers", "0"]


@pytest.mark.parametrize(("suffix", "first", "least"), [(".h5", 1, 18), ("", 15, 3), (".db", 15, 2)])
def test_killed_at_every_commit_the_next_run_completes(suffix, first, least, command, tmp_path):
    """For outputs that differ from HDF5 only in how they are finished, only those points."""
    assert run("extract", *command, "-o", tmp_path / f"whole{suffix}")[0] == 0
    code, lines, errors = run(tmp_path, suffix, first, *command, program=KILLING)
    assert code == 0, errors
    outputs = [Path(line.split()[1]) for line in lines if " " in line]
    print(f"{len(outputs)} points")
    assert len(outputs) >= least
    for output in outputs:
        assert verify(output) == (4, [])
        if suffix == ".h5":
            assert_equal_files(output, tmp_path / "whole.h5")
    assert not [path for path in tmp_path.iterdir() if path.name.endswith((".parts", ".tmp")) and outputs]


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("name", ["f.h5", "f.db"])
def test_on_a_disk_that_fills_nothing_is_lost_or_wrong(name, command, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no tmpfs may be mounted here")
    try:
        code, _, (error,) = run("extract", *command, "-o", disk / name)
        assert code == 2
        assert "no space left on the disk; make room, and the same command continues" in error
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        assert run("extract", *command, "-o", disk / name)[0] == 0
        assert verify(disk / name) == (4, [])
        assert [path.name for path in disk.iterdir()] == [name]
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.parametrize("kilobytes", [50, 1100])
def test_under_a_limit_on_files_a_database_is_an_error_and_no_crash(kilobytes, command, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # JAX keeps a program that it could write in part.
    code, _, errors = run("extract", *command, "-o", tmp_path / "f.db", ulimit=f"-f {kilobytes}")
    assert code == 2
    assert "no space left on the disk; make room, and the same command continues" in errors[-1]
    assert run("extract", *command, "-o", tmp_path / "f.db")[0] == 0
    assert verify(tmp_path / "f.db") == (4, [])
    assert not (tmp_path / "f.db.parts").exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGHUP])
def test_decoders_end_with_their_parent(how, command, folder, tmp_path):
    os.truncate(folder / "1.png", 10)
    process = start("extract", *command[:-1], "1", "-o", tmp_path / "f.h5")
    mine: set[int] = set()
    while process.poll() is None and len(mine) < 2:  # A decoder, and the process that keeps track of semaphores.
        mine = children(process.pid)
        time.sleep(0.02)
    assert process.poll() is None
    process.send_signal(how)
    process.wait(timeout=60)
    for pipe in (process.stdout, process.stderr):
        pipe.close()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{one}/cmdline").exists() for one in mine) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [one for one in mine if Path(f"/proc/{one}/cmdline").exists()]


def children(pid: int) -> set[int]:
    """The processes that a process has started."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(status.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.add(int(status.parent.name))
        except (OSError, ValueError):  # It has ended meanwhile.
            continue
    return found


def test_a_picture_that_would_fill_the_memory_is_refused_within_bounds(tmp_path):
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 200_000
    code, _, errors = run("extract", tmp_path / "bomb.png", "-o", tmp_path / "f.h5", ulimit="-v 12000000")
    assert code == 2
    assert "30000x30000 is 900 million pixels, above the limit of" in errors[-1]
    assert "max_pixels" in errors[-1]
