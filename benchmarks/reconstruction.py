"""`python -m benchmarks.reconstruction`: reconstructions of a rendered box from a ring of views with known poses.

Each side of the box is a photo that scikit-image carries; in a second scene, all of them are the same
photo. Ours and COLMAP's SIFT get the true intrinsics and the same mapper, and are compared with the true poses.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

import superpoint_jax as sp
from benchmarks.__main__ import provenance
from superpoint_jax.bulk import BulkOptions
from superpoint_jax.lightglue.load import choose
from superpoint_jax.reconstruction import PICTURE, reconstruct

SIZE = 480, 360
"""(width, height) of a view in pixels."""
FOCAL_PX = 500.0
HALF_SIDES = np.array([1.0, 1.0, 0.75])
"""Half of the box's sides along x, y and z (up); its middle is the origin."""
RADIUS, HEIGHT = 3.8, 1.2
TEXTURE_PX = 800
FINER = 2
"""A view is rendered this many times larger, and reduced, against aliasing."""
CAMERA_MODEL = "PINHOLE"
PARAMS = f"{FOCAL_PX},{FOCAL_PX},{SIZE[0] / 2},{SIZE[1] / 2}"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Reconstruct rendered boxes from rings of views."""

    views: int = 24
    """Number of views on the ring."""
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
    for scene in ("different photos", "one photo on all sides"):
        with tempfile.TemporaryDirectory() as folder:
            photos = Path(folder) / "views"
            angles = np.arange(arguments.views) * 2 * np.pi / arguments.views
            poses = render_ring(photos, angles, repeated=scene != "different photos")
            for way, changes in ways.items():
                model = ours(photos, Path(folder) / way, arguments.max_keypoints, **changes)
                rows.append({"scene": scene, "way": way, **errors(model, poses)})
                if len(rows) == 1 and arguments.picture:
                    shutil.copy(Path(folder) / way / PICTURE, arguments.picture)
            rows.append({"scene": scene, "way": "COLMAP's SIFT", **errors(sift(photos, Path(folder)), poses)})
        for row in rows:
            if row["scene"] == scene:
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


def errors(model: Any, poses: dict[str, np.ndarray]) -> dict[str, Any]:
    """How a model differs from the true poses camera-from-world [3,4], after the best similarity of the positions.

    Rotations are in degrees, positions in percent of the ring's radius, and reprojection errors in pixels.
    """
    if model is None:
        return {"registered": 0, "images": len(poses)}
    images = [model.image(i) for i in model.reg_image_ids()]
    found = np.stack([image.cam_from_world().matrix() for image in images])
    true = np.stack([poses[image.name] for image in images])
    centres = [-np.einsum("nji,nj->ni", one[:, :, :3], one[:, :, 3]) for one in (found, true)]
    scale, turn, shift = similarity(*centres)
    positions = np.linalg.norm(scale * centres[0] @ turn.T + shift - centres[1], axis=1) / RADIUS
    between = true[:, :, :3] @ turn @ np.swapaxes(found[:, :, :3], 1, 2)
    cosines = (np.trace(between, axis1=1, axis2=2) - 1) / 2
    rotations = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
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


def similarity(a: np.ndarray, b: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """The scale, rotation and shift that bring points [N,3] closest to others. Source: Umeyama (1991)."""
    a0, b0 = a - a.mean(axis=0), b - b.mean(axis=0)
    u, strengths, vt = np.linalg.svd(b0.T @ a0)
    sign = np.array([1, 1, np.linalg.det(u @ vt)])
    turn = u * sign @ vt
    scale = float(strengths @ sign / (a0**2).sum())
    return scale, turn, b.mean(axis=0) - scale * turn @ a.mean(axis=0)


def render_ring(folder: Path, angles: np.ndarray, *, repeated: bool = False) -> dict[str, np.ndarray]:
    """Write a view from each angle, in radians, and return the poses camera-from-world [3,4] by name."""
    folder.mkdir(parents=True)
    faces = textures(repeated)
    poses: dict[str, np.ndarray] = {}
    for number, angle in enumerate(angles):
        centre = np.array([RADIUS * np.cos(angle), RADIUS * np.sin(angle), HEIGHT])
        forward = -centre / np.linalg.norm(centre)
        right = np.cross(forward, [0.0, 0, 1])
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(forward, right), forward])
        name = f"{number:02}.png"
        poses[name] = np.concatenate([rotation, -rotation @ centre[:, None]], axis=1)
        Image.fromarray(render(faces, rotation, centre)).save(folder / name)
    return poses


def textures(repeated: bool) -> list[np.ndarray]:
    """A gray photo for each side +x, +y, +z, -x, -y, -z of the box, or the same one for all of them."""
    from skimage import data

    photos = [data.coffee(), data.astronaut(), data.gravel(), data.camera(), data.coins(), data.page()]
    square = [Image.fromarray(photo).convert("L").resize((TEXTURE_PX, TEXTURE_PX)) for photo in photos]
    return [np.asarray(photo, float) for photo in ([square[0]] * 6 if repeated else square)]


def render(faces: list[np.ndarray], rotation: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """The gray view [h,w] of the box from a pose, on a gray background. The true principal point is the middle."""
    width, height = (FINER * side for side in SIZE)
    rows, columns = np.mgrid[:height, :width]
    plane = [(columns + 0.5 - width / 2) / (FINER * FOCAL_PX), (rows + 0.5 - height / 2) / (FINER * FOCAL_PX)]
    rays = np.stack([*plane, np.ones((height, width))], axis=-1) @ rotation
    with np.errstate(divide="ignore"):
        # A ray enters the box through the last of the three planes that face it.
        depths = (-np.sign(rays) * HALF_SIDES - centre) / rays
    axis = depths.argmax(axis=-1)
    points = centre + depths.max(axis=-1)[..., None] * rays
    hit = np.all(np.abs(points) <= HALF_SIDES + 1e-9, axis=-1)
    image = np.full((height, width), 110.0)
    for face, texture in enumerate(faces):
        here = hit & (axis == face % 3) & ((rays[..., face % 3] < 0) == (face < 3))
        u, v = ((points[here] / HALF_SIDES)[:, [i for i in range(3) if i != face % 3]].T + 1) / 2
        u = 1 - u if face in (1, 3) else u  # Otherwise these sides would show their photos mirrored.
        image[here] = sampled(texture, u * (TEXTURE_PX - 1), (1 - v) * (TEXTURE_PX - 1))
    return np.asarray(Image.fromarray(np.round(image).astype(np.uint8)).resize(SIZE, Image.Resampling.BOX))


def sampled(texture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear samples [N] of a texture at (x, y), in pixels whose centres are at integers."""
    i, j = (np.clip(value.astype(int), 0, TEXTURE_PX - 2) for value in (y, x))
    fy, fx = y - i, x - j
    top, bottom = (texture[i + k, j] * (1 - fx) + texture[i + k, j + 1] * fx for k in (0, 1))
    return top * (1 - fy) + bottom * fy


if __name__ == "__main__":
    main()
