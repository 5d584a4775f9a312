"""`superpoint-jax train`: the three stages of the paper as three commands, thin over `superpoint_jax.training`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from PIL import Image

from superpoint_jax import openvino
from superpoint_jax.config import ComputeDtype, SuperPointConfig
from superpoint_jax.geometry import sample_homographies
from superpoint_jax.model import SuperPoint
from superpoint_jax.processing import ImageError, list_images, load_image
from superpoint_jax.training.adaptation import NetworkHeat, corner_heat, label_photos
from superpoint_jax.training.loop import TrainConfig, train
from superpoint_jax.training.photos import Photos, load_photos
from superpoint_jax.weights import from_pretrained, save_pretrained

MIN_CORNERS = 20
"""Photos with fewer labels teach nothing: a view of them is mostly empty."""

PACKAGE = "ours"
"""Name of the weights in the package, where a model is asked for."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a run keeps and measures on the way; does not change its result."""

    validate: Path | None = None
    """Folder of held-out photos: repeatability, matching and homographies on fixed warps of them, in metrics.csv."""
    validate_every: int = 1000
    """Steps between validations."""
    checkpoint_every: int = 250
    """Steps between checkpoints: what a kill costs at most."""

    def options(self) -> dict[str, Any]:
        """Options of `train`."""
        return dict(
            validate=None if self.validate is None else validator(self.validate),
            validate_every=self.validate_every,
            checkpoint_every=self.checkpoint_every,
        )


@dataclass(frozen=True, kw_only=True)
class MagicPoint:
    """Train the detector on synthetic shapes alone (stage 1)."""

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the run: checkpoints, metrics.csv and, at the end, the model in weights/."""
    config: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=lambda: TrainConfig(photos=0, shapes=32))
    """Of the run."""

    stop_after: int | None = None
    """End at this step of the schedule; the same command without it goes on."""
    progress: tyro.conf.OmitArgPrefixes[Progress] = field(default_factory=lambda: Progress())
    """What is kept and measured on the way."""

    def run(self) -> None:
        """Train and save."""
        config = replace(self.config, photos=0)
        model = train(
            new_model(config.seed), None, self.out, config=config, stop_after=self.stop_after, **self.progress.options()
        )
        save_pretrained(model, self.out / "weights")


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """How photos are labelled by homographic adaptation."""

    homographies: int = 40
    """Views of a photo."""
    threshold: float | None = None
    """Smallest mean heat of a label; 0.12 for corners and 0.015 for a model by default."""
    max_corners: int = 512
    """The strongest corners of a photo are kept, at most this many."""
    side: int = 480
    """Long side of the photos, in pixels."""

    def label(self, data: Path, out: Path, *, detector: str, dtype: ComputeDtype, seed: int) -> None:
        """Label the photos of a folder, and write a file of them; files that cannot be read are named and skipped."""
        images, sizes, paths = load_photos(data, side=self.side)
        corners = detector == "corners"
        heat = corner_heat
        if not corners:
            heat = NetworkHeat(openvino.choose(load_model(detector), dtype=dtype), dtype)
        corners_xy, mask = label_photos(
            jax.random.key(seed),
            images,
            sizes,
            detector=heat,
            num_homographies=self.homographies,
            threshold=self.threshold if self.threshold is not None else (0.12 if corners else 0.015),
            max_corners=self.max_corners,
        )
        names = [str(path.relative_to(data)) for path in paths]
        # Whole or not at all: who finds the file may trust it.
        partial = out.with_suffix(".partial.npz")
        np.savez(partial, images=images, sizes=sizes, corners_xy=corners_xy, corners_mask=mask, names=names)
        partial.replace(out)
        log.info("%d photos, %.0f corners a photo -> %s", len(paths), mask.sum(1).mean(), out)


@dataclass(frozen=True, kw_only=True)
class Adapt:
    """Label a folder of photos by homographic adaptation (stage 2)."""

    data: Path
    """Folder of photos."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """File of labels to write (.npz): gray photos, their sizes, corners and a mask."""
    detector: str = "corners"
    """What finds the keypoints: "corners" (Shi and Tomasi, needs no training), "ours" (those in the package), or
    a model for `from_pretrained`."""
    labelling: tyro.conf.OmitArgPrefixes[Labelling] = field(default_factory=lambda: Labelling())
    """How."""
    dtype: ComputeDtype = "float32"
    """Compute type of a model."""
    seed: int = 0

    def run(self) -> None:
        """Label and save."""
        self.labelling.label(
            self.data, self.out,
            detector=self.detector, dtype=self.dtype, seed=self.seed,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Train detector and descriptor on photos (stage 3); with --from, fine-tune any checkpoint.

    Give a folder of photos (--data), which is labelled first, or labels that `train adapt` made.
    """

    data: Path | None = None
    """Folder of photos: labelled by the model that training starts from, or else by the weights in the package; the
    labels are kept in the folder of the run."""
    labels: Path | None = None
    """File of labels, written by `superpoint-jax train adapt`; in place of --data."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the run: checkpoints, metrics.csv and, at the end, the model in weights/."""
    start: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """Model to start from: "ours" (the weights in the package), or anything that `from_pretrained` takes; random
    weights by default."""
    stop_after: int | None = None
    """End at this step of the schedule; the same command without it goes on."""
    config: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
    """Of the run."""
    labelling: tyro.conf.OmitArgPrefixes[Labelling] = field(default_factory=lambda: Labelling(homographies=16))
    """How the photos of --data are labelled."""
    progress: tyro.conf.OmitArgPrefixes[Progress] = field(default_factory=lambda: Progress())
    """What is kept and measured on the way."""

    def run(self) -> None:
        """Label if need be, train and save."""
        photos = read_labels(self._labels())
        model = new_model(self.config.seed) if self.start is None else load_model(self.start)
        trained = train(
            model, photos, self.out, config=self.config, stop_after=self.stop_after, **self.progress.options()
        )
        save_pretrained(trained, self.out / "weights")

    def _labels(self) -> Path:
        if (self.data is None) == (self.labels is None):
            raise ValueError("give either --data (a folder of photos) or --labels (what `train adapt` wrote)")
        if self.labels is not None:
            return self.labels
        assert self.data is not None
        made = self.out / "labels.npz"
        if not made.exists():
            self.out.mkdir(parents=True, exist_ok=True)
            config = self.config
            self.labelling.label(
                self.data, made,
                detector=self.start or PACKAGE, dtype=config.dtype, seed=config.seed,
            )  # fmt: skip
        return made


Command = (
    Annotated[MagicPoint, tyro.conf.subcommand("magicpoint")]
    | Annotated[Adapt, tyro.conf.subcommand("adapt")]
    | Annotated[Joint, tyro.conf.subcommand("superpoint")]
)


def main(arguments: Sequence[str]) -> None:
    """`superpoint-jax train ARGUMENTS`."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("superpoint_jax").setLevel(logging.INFO)
    tyro.cli(Command, prog="superpoint-jax train", args=arguments).run()


def load_model(name: str) -> SuperPoint:
    """A model to start or to label with: that of the package, or one for `from_pretrained`."""
    return from_pretrained() if name == PACKAGE else from_pretrained(name)


def new_model(seed: int) -> SuperPoint:
    """Random weights with the decoding that ours are shipped with."""
    return SuperPoint(SuperPointConfig.preset("superpoint_jax"), rngs=nnx.Rngs(seed))


VALIDATION_SHAPE = (240, 320)
"""(height, width) of the middle of a photo that is validated on; the paper's evaluation is at this size."""
VALIDATION_PHOTOS = 64


def validator(folder: Path) -> Callable[[SuperPoint], dict[str, float]]:
    """From a model to its figures on the first photos of a folder and one fixed homography of each.

    Homographies are estimated where OpenCV is installed.

    Raises:
        ValueError: No photo in the folder that can be read.
    """
    from superpoint_jax.evaluation.validation import validation_metrics

    height, width = VALIDATION_SHAPE
    crops = []
    for path in list_images(folder):
        try:
            pixels = Image.fromarray(load_image(path)).convert("L")
        except ImageError as error:
            log.warning("%s; left out", error)
            continue
        zoom = max(height / pixels.height, width / pixels.width)
        size = max(width, round(pixels.width * zoom)), max(height, round(pixels.height * zoom))
        x, y = (size[0] - width) // 2, (size[1] - height) // 2
        resized = pixels.resize(size, Image.Resampling.LANCZOS)
        crops.append(np.asarray(resized.crop((x, y, x + width, y + height)), np.float32)[..., None] / 255)
        if len(crops) == VALIDATION_PHOTOS:
            break
    if not crops:
        raise ValueError(f"{folder}: no photo that can be read; --validate needs some")
    homographies = sample_homographies(jax.random.key(0), len(crops), VALIDATION_SHAPE, perspective=0.2)
    return partial(
        validation_metrics,
        images=jnp.asarray(np.stack(crops)),
        homographies=homographies,
        homography=find_spec("cv2") is not None,
    )


def read_labels(path: Path) -> Photos:
    """Labelled photos of a file that `superpoint-jax train adapt` wrote, without those that have hardly any corner."""
    with np.load(path) as file:
        missing = {"images", "sizes", "corners_xy", "corners_mask"} - set(file)
        if missing:
            raise ValueError(
                f"{path} holds no labels ({', '.join(sorted(missing))} missing); make it with `train adapt`"
            )
        use = file["corners_mask"].sum(axis=1) >= MIN_CORNERS
        if not use.any():
            raise ValueError(f"{path}: no photo has {MIN_CORNERS} corners; lower --threshold of `train adapt`")
        return Photos(
            images=jnp.asarray(file["images"][use]),
            sizes=jnp.asarray(file["sizes"][use]),
            corners_xy=jnp.asarray(file["corners_xy"][use]),
            corners_mask=jnp.asarray(file["corners_mask"][use]),
        )
