"""From photos of one place to cameras and points, through COLMAP's mappers."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from superpoint_jax import visualization
from superpoint_jax.bulk import BulkOptions, BulkReport, extract_files
from superpoint_jax.bulk.cameras import read_intrinsics
from superpoint_jax.bulk.colmap import silence
from superpoint_jax.bulk.sources import find_images
from superpoint_jax.bulk.writing import full_disk_explained
from superpoint_jax.files import require_room
from superpoint_jax.matching import Matcher
from superpoint_jax.model import SuperPoint
from superpoint_jax.processing import SuperPointImageProcessor

Mapper = Literal["incremental", "global"]
DATABASE, PICTURE = "database.db", "model.png"
ROOM_BYTES = 2**24
"""What must be free on the disk besides a copy of the database for the models."""
FEW_LEFT_OUT = 0.2
"""A model without more than this part of the images is called weak."""
POINTS_SEEN = 100
"""A model whose images see fewer points than this, in the median, is called weak; COLMAP needs 30 to place an image."""
TRACK_LENGTH = 3.0
"""A model is called weak if its points are seen by fewer images than this on average."""


@dataclass(frozen=True)
class ReconstructionReport:
    """What became of the photos. Without a model, its numbers are 0.

    Attributes:
        extraction: The report on the extraction and the matching.
        models: Number of images that each model has, the largest first; the largest is the one that was written.
        left_out: Names of the images that could be read and are not in the largest model.
        points: Number of points.
        reprojection_error_px: Mean distance, in pixels, between the places of keypoints and of the points that they
            belong to.
        track_length: Number of images that see a point, on average.
        points_seen: Number of points that an image sees, in the median.
    """

    extraction: BulkReport
    models: tuple[int, ...]
    left_out: tuple[str, ...]
    points: int = 0
    reprojection_error_px: float = 0.0
    track_length: float = 0.0
    points_seen: float = 0.0

    @property
    def registered(self) -> int:
        """Number of images in the largest model."""
        return self.models[0] if self.models else 0

    @property
    def weaknesses(self) -> list[str]:
        """One sentence for each reason to distrust the model."""
        if not self.models:
            return []
        found, images = list[str](), self.registered + len(self.left_out)
        if len(self.left_out) > FEW_LEFT_OUT * images:
            found.append(
                f"{len(self.left_out)} of {images} images are not in the model: they share too few matches with its "
                f"images"
            )
        if len(self.models) > 1:
            sizes = ", ".join(map(str, self.models))
            found.append(
                f"there are {len(self.models)} models, of {sizes} images, which are not connected; only the largest "
                f"is written"
            )
        if self.points_seen < POINTS_SEEN:
            found.append(f"half of the images see at most {self.points_seen:.0f} points; {POINTS_SEEN} make firm poses")
        if self.track_length < TRACK_LENGTH:
            found.append(
                f"a point is seen by {self.track_length:.1f} images on average, so few points tie the images together"
            )
        return found


def reconstruct(
    source: str | Path,
    output: str | Path,
    *,
    model: SuperPoint,
    processor: SuperPointImageProcessor,
    matcher: Matcher | None = None,
    options: BulkOptions | None = None,
    root: str | Path | None = None,
    mapper: Mapper = "incremental",
    refine_intrinsics: bool | None = None,
    progress: bool = False,
    tell: Callable[[str], object] = lambda _: None,
) -> ReconstructionReport:
    """A report on the reconstruction of a place from photos.

    OUTPUT/database.db gets keypoints and matches; what an earlier call put there is used, see `bulk.extract_files`.
    COLMAP's mapper makes models from it, and the one with most images is written to OUTPUT in COLMAP's binary format
    (cameras.bin, images.bin, points3D.bin, frames.bin, rigs.bin), with a picture, OUTPUT/model.png.
    The poses are in COLMAP's frame: x to the right, y down, z forward; the unit of length is arbitrary.

    Args:
        source: Folder, list or pattern of photos; see `bulk.sources.find_images`.
        output: Folder to write; it is made if necessary.
        model: The network that finds keypoints.
        processor: Preprocessing of the images.
        matcher: A network that matches, for example `superpoint_jax.LightGlue`; by default nearest neighbours.
        options: Options of the extraction and the matching. If they choose no pairs of images, all pairs are matched.
        root: The folder that names are relative to; see `find_images`.
        mapper: COLMAP's incremental mapper, or its global one (GLOMAP).
        refine_intrinsics: Whether the mapper adjusts focal lengths and distortions; by default unless
            `options.intrinsics` gives those of all images. On a ring of views around an object, adjusted focal lengths
            and tilted cameras explain the photos as well as the true ones.
        progress: Show a progress bar.
        tell: Called with lines of text about the extraction.

    Raises:
        ValueError: No images, or an option out of range.
        Conflict: The database was made with other options or from other photos.
        OSError: For example a full disk.
        ImportError: pycolmap or h5py is not installed.
    """
    options = options or BulkOptions()
    if not options.wanted:
        options = dataclasses.replace(options, matches="exhaustive")
    output = Path(output)
    images = find_images(source, root=root)
    if refine_intrinsics is None:
        refine_intrinsics = len(read_intrinsics(options, images.names)) < len(images.names)
    mapping = _mapping(mapper, refine_intrinsics)
    output.mkdir(parents=True, exist_ok=True)
    extraction = extract_files(
        source,
        output / DATABASE,
        model=model,
        processor=processor,
        matcher=matcher,
        options=options,
        root=root,
        shard=(0, 1),
        progress=progress,
        tell=tell,
    )
    with full_disk_explained(output), tempfile.TemporaryDirectory(prefix=".models", dir=output) as scratch:
        require_room(output, ROOM_BYTES + (output / DATABASE).stat().st_size)
        found = mapping(output / DATABASE, images.root, Path(scratch))
        found.sort(key=lambda one: one.num_reg_images(), reverse=True)
        if found:
            found[0].write(output)
            axes = visualization.draw_scene(*_scene(found[0]))
            visualization.save(axes, output / PICTURE)
    return _report(extraction, images.names, found)


def _mapping(mapper: Mapper, refine_intrinsics: bool) -> Callable[[Path, Path, Path], list[Any]]:
    """The function from (database, folder of images, folder for all models) to the models, with a fixed seed."""
    import pycolmap

    silence()
    if mapper == "incremental":
        options = pycolmap.IncrementalPipelineOptions()
        options.ba_refine_focal_length = options.ba_refine_extra_params = refine_intrinsics
        run = partial(pycolmap.incremental_mapping, options=options)
    else:
        options = pycolmap.GlobalPipelineOptions()
        adjustment = options.mapper.bundle_adjustment
        adjustment.refine_focal_length = adjustment.refine_extra_params = refine_intrinsics
        run = partial(pycolmap.global_mapping, options=options)
    options.random_seed = 0
    return lambda database, images, folder: list(run(database, images, folder).values())


def _report(extraction: BulkReport, names: tuple[str, ...], models: list[Any]) -> ReconstructionReport:
    """The report on models, the largest first."""
    readable = [name for name in names if name not in extraction.failures]
    if not models:
        return ReconstructionReport(extraction, (), tuple(readable))
    best = models[0]
    seen = {image.name: image.num_points3D for image in _registered(best)}
    return ReconstructionReport(
        extraction,
        models=tuple(one.num_reg_images() for one in models),
        left_out=tuple(name for name in readable if name not in seen),
        points=best.num_points3D(),
        reprojection_error_px=best.compute_mean_reprojection_error(),
        track_length=best.compute_mean_track_length(),
        points_seen=float(np.median(list(seen.values()))),
    )


def _registered(model: Any) -> list[Any]:
    """The images of a model that have a pose, in the order of their names."""
    return sorted((model.image(i) for i in model.reg_image_ids()), key=lambda image: image.name)


def _scene(model: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points [N,3], their colours uint8 [N,3], and the poses world-from-camera [M,3,4] of a model."""
    points = list(model.points3D.values())
    xyz = np.array([point.xyz for point in points]).reshape(-1, 3)
    colours = np.array([point.color for point in points], np.uint8).reshape(-1, 3)
    poses = [image.cam_from_world().inverse().matrix() for image in _registered(model)]
    return xyz, colours, np.array(poses)
