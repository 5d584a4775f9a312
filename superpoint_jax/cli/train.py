"""`superpoint-jax train`: the paper's three stages and LightGlue's training, thin over `superpoint_jax.training`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from superpoint_jax.config import CELL_PX, ComputeDtype
from superpoint_jax.evaluation.validation import photo_validator
from superpoint_jax.lightglue import LightGlue
from superpoint_jax.refinement import RefinementHead
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
from superpoint_jax.training.matcher.pairs import MatchingPairs, make_pairs
from superpoint_jax.training.matcher.run import MatcherTrainConfig, start_from, train_matcher
from superpoint_jax.training.matcher.validation import pair_validator
from superpoint_jax.training.parts import Scenery
from superpoint_jax.training.refinement.head import with_head
from superpoint_jax.training.refinement.pairs import SharedKeypoints, make_shared_keypoints
from superpoint_jax.training.refinement.run import RefinementTrainConfig, new_head, train_refinement
from superpoint_jax.training.refinement.validation import head_validator
from superpoint_jax.training.repeats.run import RepeatsTrainConfig, check_options, train_repeats
from superpoint_jax.training.repeats.views import make_shared_views
from superpoint_jax.weights import save_pretrained


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a run keeps and measures while it trains; does not change its result."""

    validate: Path | None = None
    """Folder of held-out photos. How well the averaged weights do on fixed views of them is written to metrics.csv."""
    validate_every: int = 1000
    """Steps between validations."""
    checkpoint_every: int = 250
    """Steps between checkpoints; a kill costs at most this many steps."""

    def options(self, validator: Callable[[Path], Any] = photo_validator) -> dict[str, Any]:
        """Options of the run. `validator` turns the folder into a function from a network to its metrics."""
        return dict(
            validate=None if self.validate is None else validator(self.validate),
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


@dataclass(frozen=True, kw_only=True)
class Matcher:
    """Train LightGlue for any SuperPoint, on pairs of views made of photos.

    Half of the pairs are related by a homography; the others have parallax, which decides how good the poses are that
    are estimated from the matches. The pairs are made first, and kept in the folder of the run.
    """

    data: Path
    """Folder of photos."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the run: pairs, checkpoints, metrics.csv and, at the end, the network in weights/."""
    start: Annotated[str, tyro.conf.arg(name="from")] = PACKAGE
    """Network to start from: "ours" (the matcher in the package), or a folder, file or hub id of a LightGlue. It may
    have been trained for another extractor, for example disk_lightglue.pth."""
    layers: int | None = None
    """Keep this many layers, the first ones; by default all."""
    extractor: str = PACKAGE
    """SuperPoint that the network is trained for: "ours" (the weights in the package), or anything that
    `from_pretrained` takes."""
    stop_after: int | None = None
    """End at this step of the schedule; the same command without it continues."""
    scenery: tyro.conf.OmitArgPrefixes[Scenery] = field(default_factory=Scenery)
    """How pairs are made."""
    config: tyro.conf.OmitArgPrefixes[MatcherTrainConfig] = field(default_factory=MatcherTrainConfig)
    """Configuration of the run."""
    progress: tyro.conf.OmitArgPrefixes[Progress] = field(default_factory=lambda: Progress(validate_every=500))
    """What is kept and measured while it trains."""

    def run(self) -> None:
        """Make the pairs that are missing, train and save."""
        source = None if self.start == PACKAGE else self.start
        length = load_model(self.extractor).rules.descriptor_decoder_dim
        start = start_from(source, descriptor_length=length, layers=self.layers, seed=self.config.seed)

        def pairs_of(photos: Path, name: str, scenery: Scenery, seed: int) -> MatchingPairs:
            return make_pairs(photos, self.out / name, scenery=scenery, extractor=self.extractor, seed=seed)

        def validator(photos: Path) -> Callable[[LightGlue], dict[str, float]]:
            return pair_validator(
                pairs_of(photos, "validation_pairs", replace(self.scenery, pairs=VALIDATION_PAIRS), 1)
            )

        options = self.progress.options(validator)
        pairs = pairs_of(self.data, "pairs", self.scenery, self.config.seed)
        trained = train_matcher(start, pairs, self.out, config=self.config, stop_after=self.stop_after, **options)
        trained.save_pretrained(self.out / "weights")


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """Train the second half of any SuperPoint to find keypoints that other views of the same scene repeat and match.

    The last two blocks of the encoder and both heads are trained; descriptors are kept near what they were. Half of the
    pairs of views are related by a homography, the others have parallax. What the second half sees of them is made
    first, and kept in the folder of the run: 3.5 MB per pair. --keypoints-per-view and --keypoint-threshold have no
    influence on it. A refinement head stays as it is.
    """

    data: Path
    """Folder of photos."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the run: views, checkpoints, metrics.csv and, at the end, the network in weights/."""
    extractor: str = PACKAGE
    """SuperPoint to start from: "ours" (the weights in the package), or anything that `from_pretrained` takes."""
    stop_after: int | None = None
    """End at this step of the schedule; the same command without it continues."""
    scenery: tyro.conf.OmitArgPrefixes[Scenery] = field(
        default_factory=lambda: Scenery(pairs=1280, strength=0.8, calm=0.25, extractor_dtype="float32")
    )
    """How pairs of views are made."""
    config: tyro.conf.OmitArgPrefixes[RepeatsTrainConfig] = field(default_factory=RepeatsTrainConfig)
    """Configuration of the run."""
    progress: tyro.conf.OmitArgPrefixes[Progress] = field(
        default_factory=lambda: Progress(checkpoint_every=100, validate_every=300)
    )
    """What is kept and measured while it trains."""

    def run(self) -> None:
        """Make the views that are missing, train and save."""
        check_options(self.config, *(side // CELL_PX for side in self.scenery.shape))
        options, folder, seed = self.progress.options(), self.out / "views", self.config.seed
        views = make_shared_views(self.data, folder, scenery=self.scenery, extractor=self.extractor, seed=seed)
        trained = train_repeats(
            load_model(self.extractor),
            views,
            self.out,
            config=self.config,
            stop_after=self.stop_after,
            **options,
        )
        save_pretrained(trained, self.out / "weights")


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """Train the refinement head of any SuperPoint, on keypoints that two views of a photo share.

    The other weights stay as they are. Half of the pairs of views are related by a homography, the others have
    parallax. What the head sees of the keypoints is made first, and kept in the folder of the run.
    """

    data: Path
    """Folder of photos."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the run: keypoints, checkpoints, metrics.csv and, at the end, the network with its head in weights/."""
    extractor: str = PACKAGE
    """SuperPoint that gets the head: "ours" (the weights in the package), or anything that `from_pretrained` takes."""
    stop_after: int | None = None
    """End at this step of the schedule; the same command without it continues."""
    scenery: tyro.conf.OmitArgPrefixes[Scenery] = field(
        default_factory=lambda: Scenery(pairs=1280, keypoints_per_view=600, keypoint_threshold=0.0, strength=0.7)
    )
    """How pairs of views are made."""
    config: tyro.conf.OmitArgPrefixes[RefinementTrainConfig] = field(default_factory=RefinementTrainConfig)
    """Configuration of the run."""
    progress: tyro.conf.OmitArgPrefixes[Progress] = field(default_factory=lambda: Progress(checkpoint_every=500))
    """What is kept and measured while it trains."""

    def run(self) -> None:
        """Make the keypoints that are missing, train and save."""
        model = load_model(self.extractor)

        def keypoints_of(photos: Path, name: str, scenery: Scenery, seed: int) -> SharedKeypoints:
            folder = self.out / name
            return make_shared_keypoints(photos, folder, scenery=scenery, extractor=self.extractor, seed=seed)

        def validator(photos: Path) -> Callable[[RefinementHead], dict[str, float]]:
            scenery = replace(self.scenery, pairs=VALIDATION_PAIRS)
            return head_validator(keypoints_of(photos, "validation_keypoints", scenery, self.config.seed + 1))

        options = self.progress.options(validator)
        keypoints = keypoints_of(self.data, "keypoints", self.scenery, self.config.seed)
        head = new_head(self.config.seed)
        trained = train_refinement(head, keypoints, self.out, config=self.config, stop_after=self.stop_after, **options)
        save_pretrained(with_head(model, trained), self.out / "weights")


VALIDATION_PAIRS = 128

Command = (
    Annotated[MagicPoint, tyro.conf.subcommand("magicpoint")]
    | Annotated[Adapt, tyro.conf.subcommand("adapt")]
    | Annotated[Joint, tyro.conf.subcommand("superpoint")]
    | Annotated[Repeats, tyro.conf.subcommand("repeats")]
    | Annotated[Matcher, tyro.conf.subcommand("lightglue")]
    | Annotated[Refinement, tyro.conf.subcommand("refinement")]
)


def main(arguments: Sequence[str]) -> None:
    """`superpoint-jax train ARGUMENTS`."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("superpoint_jax").setLevel(logging.INFO)
    tyro.cli(Command, prog="superpoint-jax train", args=arguments).run()
