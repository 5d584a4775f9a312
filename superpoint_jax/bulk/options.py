"""The options of a run, and the report on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from superpoint_jax import openvino
from superpoint_jax.bulk.cameras import Cameras
from superpoint_jax.bulk.pairs import Matching
from superpoint_jax.bulk.reading import Frame
from superpoint_jax.config import CELL_PX, ComputeDtype, SpreadRule
from superpoint_jax.photos.pixels import check_resize
from superpoint_jax.photos.plan import Shape
from superpoint_jax.processing.loading import MAX_IMAGE_PIXELS


@dataclass(frozen=True, kw_only=True)
class BulkOptions(Matching, Cameras):
    """Options of a run; those of `Matching` and `Cameras` are for a COLMAP database.

    Attributes:
        max_keypoints: At most this many keypoints per image are kept, those with the best scores; -1 keeps all.
        keypoint_threshold: Smallest score of a keypoint; the model's own by default.
        nms_radius: Radius of the suppression, in pixels; the model's own by default.
        spread: How keypoints are spread over the image where there are too many; the model's own by default.
        resize: Images are reduced to this longer side, in pixels; 0 never reduces. By default the processor's size.
        upscale: Images whose longer side is below `resize` are also enlarged to it.
        enlarge: Factor by which images are enlarged before the network; by default the model's own.
        dtype: Compute type; the model's own by default.
        engine: What computes the network; see `superpoint_jax.openvino.choose`.
        descriptors: Type in which descriptors are kept.
        frame: The frame of the keypoints of photos with an EXIF orientation: "stored" as COLMAP and hloc take them, or
            "upright" as the photo is shown. They are found in the upright photo in any case. Masks are in this frame.
        masks: Folder of masks by COLMAP's rule: `a/b.jpg.png` for the image `a/b.jpg`. There are no keypoints where a
            mask is 0. Images without a mask are extracted whole.
        batch: Images per batch; by default 1 per device on a CPU and 32 per device otherwise.
        part: Images per part, about. When a run is killed, at most one part is lost and done again.
        max_shapes: Largest number of array shapes; each is compiled once.
        multiple: Heights and widths of arrays are multiples of this, in pixels.
        workers: Number of processes that decode; by default one per core, at most 8; 0 decodes in this process.
        devices: Number of devices of this process that are used; all by default.
        max_pixels: Larger files are refused before they are decoded.
    """

    max_keypoints: int = 1024
    keypoint_threshold: float | None = None
    nms_radius: int | None = None
    spread: SpreadRule | None = None
    resize: int | None = None
    upscale: bool = False
    enlarge: float | None = None
    dtype: ComputeDtype | None = None
    engine: openvino.Engine = "auto"
    descriptors: Literal["float16", "float32"] = "float16"
    frame: Frame = "stored"
    masks: Path | None = None
    batch: int | None = None
    part: int = 256
    max_shapes: int = 8
    multiple: int = 64
    workers: int | None = None
    devices: int | None = None
    max_pixels: int = MAX_IMAGE_PIXELS

    def __post_init__(self) -> None:
        self.check()
        if self.masks is not None and not self.masks.is_dir():
            raise ValueError(f"masks={str(self.masks)!r}: no such folder")
        if self.max_keypoints < 1 and self.max_keypoints != -1:
            raise ValueError(f"max_keypoints={self.max_keypoints}; at least 1 is needed, or -1 for all")
        check_resize(self.resize, upscale=self.upscale)
        limits = dict(part=(1, 2**20), max_shapes=(1, 2**10), multiple=(CELL_PX, 2**13), max_pixels=(1, 2**40))
        limits |= dict(batch=(1, 2**16), devices=(1, 2**16), workers=(0, 2**10))
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(f"{name}={value}; {least} to {most} is needed")


@dataclass(frozen=True)
class BulkReport:
    """What a run did.

    Attributes:
        extracted: Number of images that this run extracted.
        before: Number of images that earlier runs had extracted.
        failures: For each image that could not be read, the reason by name.
        shapes: Number of images extracted in arrays of each (height, width).
        padding: Fraction of the pixels that was padding.
        finished: Whether the output is complete; after one of several shards it is not.
        pairs_tried: Number of pairs of images that were matched for a COLMAP database.
        pairs_verified: Number of these with at least `min_verified` geometrically verified matches.
    """

    extracted: int
    before: int
    failures: Mapping[str, str]
    shapes: Mapping[Shape, int]
    padding: float
    finished: bool
    pairs_tried: int = 0
    pairs_verified: int = 0
