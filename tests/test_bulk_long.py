"""What takes minutes: a run killed again and again, and a reconstruction of features from files."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import superpoint_jax as sp
from superpoint_jax.bulk import BulkOptions, extract_files
from superpoint_jax.bulk.hloc import names_in
from tests.room import render_views
from tests.test_bulk import assert_equal_files

pytestmark = pytest.mark.slow

KILLS = 20
REPOSITORY = Path(__file__).parents[1]
COMMAND = [sys.executable, "-c", "import sys; from superpoint_jax.cli import main; sys.exit(main())", "extract"]


def test_killed_at_twenty_random_moments_nothing_is_lost_twice_or_damaged(photos, model, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(120):
        height, width = rng.integers(60, 200, 2)
        Image.fromarray(photos["camera"][i : i + height, i : i + width]).save(folder / f"{i}.png")
    sp.save_pretrained(model, tmp_path / "weights")
    options = ["--weights", str(tmp_path / "weights"), "--max-keypoints", "200", "--part", "6", "--batch", "3"]
    options += ["--workers", "1"]

    def command(output):
        return [*COMMAND, str(folder), "-o", str(tmp_path / output), *options]

    def started(output):
        """The process, once it has begun to keep parts."""
        process = subprocess.Popen(command(output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (tmp_path / f"{output}.parts" / "lock").exists():
            time.sleep(0.01)
        return process

    process, beginning = started("whole.h5"), time.monotonic()
    assert process.wait(timeout=300) == 0
    length = time.monotonic() - beginning
    chance, interrupted, progress = random.Random(0), 0, []
    parts = tmp_path / "f.h5.parts"
    for _ in range(KILLS):
        process = started("f.h5")
        try:
            process.wait(timeout=chance.uniform(0, 0.5) * length)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            interrupted += 1
        process.wait()
        progress.append(sum(len(names_in(path)) for path in parts.glob("part-*.h5")) if parts.exists() else 120)
        if (tmp_path / "f.h5").exists() and not parts.exists():
            assert_equal_files(tmp_path / "f.h5", tmp_path / "whole.h5")
            (tmp_path / "f.h5").unlink()  # Done; the next kill meets a run from the beginning.
    subprocess.run(command("f.h5"), check=True, capture_output=True, timeout=300)
    print(f"{interrupted} of {KILLS} killed; images done after each: {progress}")
    assert interrupted > KILLS / 2
    assert any(0 < count < 120 for count in progress)
    assert_equal_files(tmp_path / "f.h5", tmp_path / "whole.h5")
    assert not list(tmp_path.glob("*.parts"))
    assert not list(tmp_path.glob(".*.tmp"))


def test_colmap_reconstructs_a_rendered_room_from_our_database(photos, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")

    folder = tmp_path / "views"
    centres = render_views(folder, photos)
    report = extract_files(
        folder,
        tmp_path / "room.db",
        model=sp.from_pretrained(),
        processor=sp.SuperPointImageProcessor(),
        options=BulkOptions(max_keypoints=800, matches="exhaustive", workers=0, devices=1),
    )
    assert report.extracted == 8
    (tmp_path / "sparse").mkdir()
    models = pycolmap.incremental_mapping(tmp_path / "room.db", folder, tmp_path / "sparse")
    best = max(models.values(), key=lambda model: model.num_reg_images())
    print(
        json.dumps(
            {
                "registered": best.num_reg_images(),
                "points": best.num_points3D(),
                "error": best.compute_mean_reprojection_error(),
            }
        )
    )
    assert best.num_reg_images() == 8
    # Up to a similarity the cameras stand where they were rendered from.
    found = np.array([best.find_image_with_name(name).projection_center() for name in sorted(centres)])
    true = np.array([centres[name] for name in sorted(centres)])
    a, b = found - found.mean(0), true - true.mean(0)
    u, scales, vt = np.linalg.svd(a.T @ b)
    sign = np.diag([1, 1, np.linalg.det(u @ vt)])
    aligned = a @ u @ sign @ vt * (scales @ np.diag(sign)) / (a**2).sum()
    assert np.linalg.norm(aligned - b, axis=1).max() < 0.05 * np.linalg.norm(b, axis=1).max()


def test_two_ray_nodes_with_an_actor_killed_give_what_one_machine_gives(photos, model, tmp_path):
    """The driver runs in a process of its own: Ray and this process's warnings as errors do not go together."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(60):
        height, width = rng.integers(60, 200, 2)
        Image.fromarray(photos["camera"][i : i + height, i : i + width]).save(folder / f"{i}.png")
    (folder / "bad.png").write_bytes(b"no image")
    sp.save_pretrained(model, tmp_path / "weights")
    script = REPOSITORY / "tests" / "ray_driver.py"
    finished = subprocess.run(
        [sys.executable, str(script), str(folder), str(tmp_path / "ray.h5"), str(tmp_path / "weights")],
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "XLA_FLAGS": ""},
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    report = json.loads(next(line for line in finished.stdout.splitlines() if line.startswith("{")))  # Ray talks, too.
    print(report)
    assert report["failures"] == ["bad.png"]
    assert report["killed"] > 0
    assert len(report["nodes"]) == 2
    assert_equal_files(tmp_path / "ray.h5", tmp_path / "one.h5")
    assert not (tmp_path / "ray.h5.parts").exists()
