"""From a folder of photos to a model, on rendered views with known poses."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

import superpoint_jax as sp
from benchmarks.reconstruction import PARAMS, errors, pose_errors
from benchmarks.rendered import corridor, relief, ring
from superpoint_jax import reconstruction, visualization
from superpoint_jax.bulk import BulkReport
from superpoint_jax.cli import main
from superpoint_jax.reconstruction import ReconstructionReport

pycolmap = pytest.importorskip("pycolmap")


@pytest.mark.slow
def test_a_ring_of_views_becomes_a_model_with_the_true_poses(tmp_path, capsys):
    scene = ring(np.radians(np.arange(8) * 15))
    poses = scene.write(tmp_path / "views")
    command = ["reconstruct", str(tmp_path / "views"), "-o", str(tmp_path / "model"), "--workers", "0"]
    command += ["--camera-mode", "single", "--camera-model", "PINHOLE", "--intrinsics", PARAMS]
    assert main([*command, "--json", str(tmp_path / "report.json")]) == 0
    assert "8 of 8 images registered" in capsys.readouterr().out
    model = pycolmap.Reconstruction(tmp_path / "model")
    assert ",".join(map(str, model.camera(1).params)) == PARAMS  # Known cameras stay as they are.
    found = errors(model, poses, scene.unit)
    print(found)
    assert found["registered"] == 8
    assert found["rotation_largest"] < 2
    assert found["position_largest"] < 5  # Percent of the ring's radius.
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["registered"], report["models"], report["left_out"]) == (8, [8], [])
    assert report["points"] == found["points"]
    picture = np.asarray(Image.open(tmp_path / "model" / "model.png").convert("RGB"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 250
    # The same command uses the database, here with the other mapper; other cameras are refused.
    assert main([*command, "--mapper", "global"]) == 0
    assert "8 images were done before" in capsys.readouterr().out
    assert main(["extract", "--verify", str(tmp_path / "model" / "database.db")]) == 0
    capsys.readouterr()
    assert errors(pycolmap.Reconstruction(tmp_path / "model"), poses, scene.unit)["rotation_largest"] < 2
    assert main([*command[:-4], "--workers", "0"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "camera_model was 'PINHOLE' and is None" in line


@pytest.fixture
def unrelated(photos, tmp_path):
    """Two photos that share nothing, and a file that is none."""
    (tmp_path / "photos").mkdir()
    for name in ("camera", "coffee"):
        Image.fromarray(photos[name][:100, :120]).save(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "photos" / "bad.png").write_bytes(b"no image")
    return tmp_path / "photos"


def test_without_a_model_the_code_is_2_and_the_reason_is_told(unrelated, model, tmp_path, capsys):
    sp.save_pretrained(model, tmp_path / "weights")
    command = ["reconstruct", str(unrelated), "-o", str(tmp_path / "new" / "model"), "--workers", "0"]
    command += [
        "--weights",
        str(tmp_path / "weights"),
        "--max-keypoints",
        "50",
        "--engine",
        "xla",
        "--json",
        str(tmp_path / "report.json"),
    ]
    assert main(command) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("superpoint-jax")]
    assert ["bad.png" in lines[0], "no model: no two of the 2 images share enough matches" in lines[1]] == [True, True]
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["models"], report["registered"], report["left_out"]) == ([], 0, ["camera.png", "coffee.png"])
    assert list(report["failures"]) == ["bad.png"]
    assert [path.name for path in (tmp_path / "new" / "model").iterdir()] == ["database.db"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--camera-model", "PINHOLE", "--intrinsics", "1,2"], "PINHOLE has 4 parameters (fx,fy,cx,cy), not 2"),
        (["--matches", "exhaustive", "--loops", "2"], "loops=2; 0 or more is needed, and 0 where every image"),
        (["--ratio", "2"], "ratio=2.0; above 0"),
        (["--pairs", "gone.txt"], "gone.txt: No such file"),
        (["--masks", "gone"], "masks='gone': no such folder"),
    ],
)
def test_wrong_options_are_one_line(wrong, message, unrelated, tmp_path, capsys):
    assert main(["reconstruct", str(unrelated), "-o", str(tmp_path / "model"), "--workers", "0", *wrong]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_photos_that_are_not_there_leave_no_folder(tmp_path, capsys):
    assert main(["reconstruct", str(tmp_path / "gone"), "-o", str(tmp_path / "model")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "gone: no such folder" in line
    assert not (tmp_path / "model").exists()


def test_a_weak_model_says_why():
    extraction = BulkReport(extracted=10, before=0, failures={}, shapes={}, padding=0.0, finished=True)
    firm = ReconstructionReport(extraction, (10,), (), 900, 0.8, 4.0, 300.0)
    assert firm.weaknesses == []
    assert dataclasses.replace(firm, models=(8,), left_out=("a", "b")).weaknesses == []
    assert dataclasses.replace(firm, models=(), left_out=("a",)).weaknesses == []
    weak = dataclasses.replace(firm, models=(7, 3), left_out=("a", "b", "c"), track_length=2.4, points_seen=60.0)
    left_out, models, points, tracks = weak.weaknesses
    assert "3 of 10 images are not in the model" in left_out
    assert "there are 2 models, of 7, 3 images" in models
    assert "at most 60 points" in points
    assert "seen by 2.4 images on average" in tracks


def test_the_largest_model_is_reported():
    """COLMAP's own synthetic scene of five images and forty points."""
    options = pycolmap.SyntheticDatasetOptions(num_rigs=1, num_cameras_per_rig=1, num_frames_per_rig=5, num_points3D=40)
    model = pycolmap.synthesize_dataset(options)
    names = tuple(sorted(image.name for image in model.images.values()))
    extraction = BulkReport(extracted=7, before=0, failures={"bad": "why"}, shapes={}, padding=0.0, finished=True)
    report = reconstruction._report(extraction, (*names, "bad", "lost"), [model])
    assert (report.models, report.left_out, report.points) == ((5,), ("lost",), 40)
    assert report.track_length == model.compute_mean_track_length()
    xyz, colours, poses = reconstruction._scene(model)
    assert (xyz.shape, colours.shape, poses.shape) == ((40, 3), (40, 3), (5, 3, 4))
    first = model.find_image_with_name(names[0])
    np.testing.assert_allclose(poses[0][:, 3], first.projection_center(), atol=1e-12)


def test_a_scene_is_drawn_with_up_at_the_top():
    """A red point above a green one, seen by a camera whose y axis, down, is the world's x axis."""
    down, forward = np.array([1.0, 0, 0]), np.array([0.0, 1, 0])
    pose = np.stack([np.cross(down, forward), down, forward, np.array([0.0, -3, 0])], axis=1)
    points = np.array([[-1.0, 0, 0], [1, 0, 0]])
    axes = visualization.draw_scene(points, np.array([[255, 0, 0], [0, 255, 0]], np.uint8), pose[None])
    pixels = visualization.to_pixels(axes).astype(int)
    red = np.argwhere(pixels[..., 0] - pixels[..., 1] > 100)
    green = np.argwhere((pixels[..., 1] - pixels[..., 0] > 100) & (pixels[..., 2] < 60))
    assert len(red)
    assert len(green)
    assert red[:, 0].mean() < green[:, 0].mean() - 100


@pytest.mark.parametrize("scene", [ring(np.radians(np.arange(6) * 15)), corridor(6), relief(6)])
def test_errors_of_poses_are_those_after_the_best_similarity(scene):
    """Also where all cameras stand on a line."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    rotations, centres = (np.stack(values) for values in zip(*scene.poses, strict=True))
    centres = centres * [1, 0, 0] if scene.unit == 2 else centres

    def poses(rotations, centres):
        return np.concatenate([rotations, -rotations @ centres[:, :, None]], axis=2)

    true = poses(rotations, centres)
    found = poses(rotations @ turn, (2.5 * centres - [1, 2, 3]) @ turn)
    for errors_found in pose_errors(found, true):
        np.testing.assert_allclose(errors_found, 0, atol=1e-5)
    cos, sin = np.cos(np.radians(2)), np.sin(np.radians(2))
    found[0, :, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ found[0, :, :3]
    degrees, _ = pose_errors(found, true)
    # The other views are turned by their share, so that all agree best.
    np.testing.assert_allclose(degrees, [5 / 3, *[1 / 3] * 5], atol=1e-2)
