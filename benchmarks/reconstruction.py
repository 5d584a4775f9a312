"""`python -m benchmarks.reconstruction`: reconstructions of rendered scenes from views with known poses.

The scenes are a ring of views around a box whose sides are photos, the same where all sides show one photo, a walk
along a corridor, and a flight over hills. Ours and COLMAP's SIFT get the true intrinsics and the same mapper, and are
compared with the true poses.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

import superpoint_jax as sp
from benchmarks.__main__ import provenance
from benchmarks.rendered import FOCAL_PX, SIZE, Scene, corridor, relief, ring
from superpoint_jax.bulk import BulkOptions
from superpoint_jax.lightglue.load import choose
from superpoint_jax.reconstruction import PICTURE, reconstruct

CAMERA_MODEL = "PINHOLE"
PARAMS = f"{FOCAL_PX},{FOCAL_PX},{SIZE[0] / 2},{SIZE[1] / 2}"

SceneName = Literal["box", "box with one photo", "corridor", "relief"]
SCENES: dict[SceneName, Callable[[int], Scene]] = {
    "box": lambda views: ring(np.arange(views) * 2 * np.pi / views),
    "box with one photo": lambda views: ring(np.arange(views) * 2 * np.pi / views, repeated=True),
    "corridor": corridor,
    "relief": relief,
}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Reconstruct rendered scenes."""

    views: int = 24
    """Number of views of each scene."""
    scenes: tuple[SceneName, ...] = tuple(SCENES)
    """Which scenes are rendered."""
    max_keypoints: int = 2048
    matcher: str | None = None
    """A LightGlue that is measured too: a folder, file or Hugging Face id, or "lightglue" for the one in the package.
    """
    enlarge: float | None = None
    """Also measure ours with images enlarged by this factor."""
    picture: Path | None = None
    """File for the picture of the first model."""
    json: Path | None = None
    """File to write the result to."""


def main() -> None:
    """Render the scenes, reconstruct them in each way, and print and write the errors."""
    arguments = tyro.cli(Arguments, prog="python -m benchmarks.reconstruction")
    ways: dict[str, Any] = {"nearest, ratio 0.85": {}}
    if arguments.enlarge is not None:
        ways[f"the same, enlarged {arguments.enlarge:g} times"] = {"enlarge": arguments.enlarge}
    if arguments.matcher is not None:
        ways[f"matcher {Path(arguments.matcher).name}"] = {"matcher": choose(arguments.matcher)}
    rows: list[dict[str, Any]] = []
    for name in arguments.scenes:
        scene = SCENES[name](arguments.views)
        with tempfile.TemporaryDirectory() as folder:
            photos = Path(folder) / "views"
            poses = scene.write(photos)
            for way, changes in ways.items():
                model = ours(photos, Path(folder) / way, arguments.max_keypoints, **changes)
                rows.append({"scene": name, "way": way, **errors(model, poses, scene.unit)})
                if len(rows) == 1 and arguments.picture:
                    shutil.copy(Path(folder) / way / PICTURE, arguments.picture)
            of_sift = errors(sift(photos, Path(folder)), poses, scene.unit)
            rows.append({"scene": name, "way": "COLMAP's SIFT", **of_sift})
        for row in rows:
            if row["scene"] == name:
                print(json.dumps(row), flush=True)
    if arguments.json:
        setting = {**asdict(arguments), "json": None, "picture": None}
        arguments.json.write_text(json.dumps({**provenance(), "setting": setting, "rows": rows}, indent=1) + "\n")


def ours(photos: Path, output: Path, max_keypoints: int, *, matcher: Any = None, enlarge: float | None = None) -> Any:
    """COLMAP's model from our keypoints; None if there is none."""
    import pycolmap

    options = BulkOptions(
        max_keypoints=max_keypoints,
        enlarge=enlarge,
        matches="exhaustive",
        camera_mode="single",
        camera_model=CAMERA_MODEL,
        intrinsics=PARAMS,
        workers=0,
    )
    processor = sp.SuperPointImageProcessor.from_pretrained()
    report = reconstruct(
        photos, output, model=sp.from_pretrained(), processor=processor, matcher=matcher, options=options
    )
    return pycolmap.Reconstruction(output) if report.models else None


def sift(photos: Path, output: Path) -> Any:
    """COLMAP's model from its own keypoints and matches; None if there is none."""
    import pycolmap

    pycolmap.set_random_seed(0)
    database = output / "sift.db"
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model, reader.camera_params = CAMERA_MODEL, PARAMS
    cpu = pycolmap.Device.cpu
    pycolmap.extract_features(
        database, photos, camera_mode=pycolmap.CameraMode.SINGLE, reader_options=reader, device=cpu
    )
    pycolmap.match_exhaustive(database, device=cpu)
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed = 0
    options.ba_refine_focal_length = options.ba_refine_extra_params = False
    (output / "sift").mkdir()
    models = pycolmap.incremental_mapping(database, photos, output / "sift", options=options)
    return max(models.values(), key=lambda model: model.num_reg_images(), default=None)


def errors(model: Any, poses: dict[str, np.ndarray], unit: float) -> dict[str, Any]:
    """How a model differs from the true poses camera-from-world [3,4]; see `pose_errors`.

    Rotations are in degrees, positions in percent of `unit`, and reprojection errors in pixels.
    """
    if model is None:
        return {"registered": 0, "images": len(poses)}
    images = [model.image(i) for i in model.reg_image_ids()]
    found = np.stack([image.cam_from_world().matrix() for image in images])
    true = np.stack([poses[image.name] for image in images])
    rotations, distances = pose_errors(found, true)
    positions = distances / unit
    return {
        "registered": len(images),
        "images": len(poses),
        "points": model.num_points3D(),
        "reprojection_px": round(model.compute_mean_reprojection_error(), 2),
        "track_length": round(model.compute_mean_track_length(), 1),
        "rotation_median": round(float(np.median(rotations)), 2),
        "rotation_largest": round(float(rotations.max()), 2),
        "position_median": round(100 * float(np.median(positions)), 2),
        "position_largest": round(100 * float(positions.max()), 2),
    }


def pose_errors(found: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Errors of rotations, in degrees, and of positions [N], of poses camera-from-world [N,3,4].

    The found world is turned as the rotations agree best, and then scaled and shifted as the positions do. Positions
    alone would not decide how it is turned where they lie on a line.
    """
    u, _, vt = np.linalg.svd(np.einsum("nji,njk->ik", true[:, :, :3], found[:, :, :3]))
    turn = u * np.array([1, 1, np.linalg.det(u @ vt)]) @ vt
    cosines = (np.einsum("nij,jk,nik->n", true[:, :, :3], turn, found[:, :, :3]) - 1) / 2
    turned, there = (-np.einsum("nji,nj->ni", one[:, :, :3], one[:, :, 3]) for one in (found, true))
    turned = turned @ turn.T
    turned, there = turned - turned.mean(axis=0), there - there.mean(axis=0)
    scale = (turned * there).sum() / (turned**2).sum()
    return np.degrees(np.arccos(np.clip(cosines, -1, 1))), np.linalg.norm(scale * turned - there, axis=1)


if __name__ == "__main__":
    main()
