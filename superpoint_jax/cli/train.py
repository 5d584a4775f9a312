"""`superpoint-jax train`: the three stages of the paper as three commands, thin over `superpoint_jax.training`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from superpoint_jax.config import ComputeDtype
from superpoint_jax.evaluation.validation import photo_validator
from superpoint_jax.training.labels import (
    PACKAGE,
    Labelling,
    check_labels,
    label_folder,
    labels_source,
    load_model,
    new_model,
    read_labels,
)
from superpoint_jax.training.loop import TrainConfig, train
from superpoint_jax.weights import save_pretrained


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a run keeps and measures while it trains; does not change its result."""

    validate: Path | None = None
    """Folder of held-out photos. Repeatability, matching and homographies are measured on fixed warps of them and
    written to metrics.csv."""
    validate_every: int = 1000
    """Steps between validations."""
    checkpoint_every: int = 250
    """Steps between checkpoints; a kill costs at most this many steps."""

    def options(self) -> dict[str, Any]:
        """Options of `train`."""
        return dict(
            validate=None if self.validate is None else photo_validator(self.validate),
            validate_every=self.validate_every,
            checkpoint_every=self.checkpoint_every,
        )


@dataclass(frozen=True, kw_only=True)
class MagicPoint:
    """Train the detector on synthetic shapes only (stage 1)."""

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the run: checkpoints, metrics.csv and, at the end, the model in weights/."""
    config: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=lambda: TrainConfig(photos=0, shapes=32))
    """Configuration of the run."""

    stop_after: int | None = None
    """End at this step of the schedule; the same command without it continues."""
    progress: tyro.conf.OmitArgPrefixes[Progress] = field(default_factory=lambda: Progress())
    """What is kept and measured while it trains."""

    def run(self) -> None:
        """Train and save."""
        config = replace(self.config, photos=0)
        model = train(
            new_model(config.seed), None, self.out, config=config, stop_after=self.stop_after, **self.progress.options()
        )
        save_pretrained(model, self.out / "weights")


@dataclass(frozen=True, kw_only=True)
class Adapt:
    """Label a folder of photos by homographic adaptation (stage 2)."""

    data: Path
    """Folder of photos."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """File of labels to write (.npz): gray photos, their sizes, corners and a mask."""
    detector: str = "corners"
    """What finds the keypoints: "corners" (Shi and Tomasi, needs no training), "ours" (the weights in the package), or
    anything that `from_pretrained` takes."""
    labelling: tyro.conf.OmitArgPrefixes[Labelling] = field(default_factory=lambda: Labelling())
    """How the photos are labelled."""
    dtype: ComputeDtype = "float32"
    """Compute type of the model."""
    seed: int = 0
    """Seed of the random warps."""

    def run(self) -> None:
        """Label and save."""
        label_folder(
            self.data,
            self.out,
            labelling=self.labelling,
            detector=self.detector,
            dtype=self.dtype,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Train detector and descriptor on photos (stage 3); with --from, fine-tune any checkpoint.

    Give either a folder of photos (--data), which is labelled first, or labels that `train adapt` wrote (--labels).
    """

    data: Path | None = None
    """Folder of photos. They are labelled by the model given by --from, or else by the weights in the package; the
    labels are kept in the folder of the run."""
    labels: Path | None = None
    """File of labels, written by `superpoint-jax train adapt`; instead of --data."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the run: checkpoints, metrics.csv and, at the end, the model in weights/."""
    start: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """Model to start from: "ours" (the weights in the package), or anything that `from_pretrained` takes; random
    weights by default."""
    stop_after: int | None = None
    """End at this step of the schedule; the same command without it continues."""
    config: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
    """Configuration of the run."""
    labelling: tyro.conf.OmitArgPrefixes[Labelling] = field(default_factory=lambda: Labelling(homographies=16))
    """How the photos of --data are labelled."""
    progress: tyro.conf.OmitArgPrefixes[Progress] = field(default_factory=lambda: Progress())
    """What is kept and measured while it trains."""

    def run(self) -> None:
        """Label if necessary, train and save."""
        photos = read_labels(self._labels())
        model = new_model(self.config.seed) if self.start is None else load_model(self.start)
        trained = train(
            model, photos, self.out, config=self.config, stop_after=self.stop_after, **self.progress.options()
        )
        save_pretrained(trained, self.out / "weights")

    def _labels(self) -> Path:
        if (self.data is None) == (self.labels is None):
            raise ValueError("give either --data (a folder of photos) or --labels (a file that `train adapt` wrote)")
        if self.labels is not None:
            return self.labels
        assert self.data is not None
        made, detector = self.out / "labels.npz", self.start or PACKAGE
        options: Any = dict(labelling=self.labelling, detector=detector, dtype=self.config.dtype, seed=self.config.seed)
        if made.exists():
            check_labels(made, labels_source(self.data, **options))
        else:
            self.out.mkdir(parents=True, exist_ok=True)
            label_folder(self.data, made, **options)
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
