"""Options shared by several commands, with one name and one meaning everywhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

import superpoint_jax as sp
from superpoint_jax import openvino
from superpoint_jax.cli.errors import CommandError, told
from superpoint_jax.config import ComputeDtype, SpreadRule
from superpoint_jax.lightglue import LightGlue
from superpoint_jax.lightglue.load import choose
from superpoint_jax.matching.thresholds import RATIO_APART
from superpoint_jax.photos import describe_image
from superpoint_jax.photos.batches import extract_batch
from superpoint_jax.photos.pixels import prepared, read_pixels
from superpoint_jax.photos.regions import find_mask
from superpoint_jax.processing import MAX_IMAGE_PIXELS

Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
OptionalOutput = Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="PATH")]
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]
Weights = Annotated[str | None, tyro.conf.arg(metavar="SOURCE")]
Matcher = Annotated[str, tyro.conf.arg(metavar="nearest|lightglue|SOURCE")]
Limit = float | Literal["auto"] | None


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Which weights, and which keypoints."""

    weights: Weights = None
    """Folder, file or Hugging Face id; by default the weights in the package."""
    max_keypoints: int = 1024
    """Keep at most this many keypoints per image, those with the best scores; -1 keeps all."""
    keypoint_threshold: float | None = None
    """Smallest score of a keypoint; by default that of the weights."""
    nms_radius: int | None = None
    """If two keypoints are within this distance, in pixels, the one with the better score stays; by default that of
    the weights."""
    spread: SpreadRule | None = None
    """Which keypoints are kept where there are more than --max-keypoints: those with the best scores ("none"), or the
    best of each cell of a grid in turn ("grid"), so that they cover the photo."""
    dtype: ComputeDtype | None = None
    """Type that the network computes in; by default that of the weights."""

    def given(self) -> dict[str, Any]:
        """The options of the configuration that were given."""
        options = dict(
            max_keypoints=self.max_keypoints,
            keypoint_threshold=self.keypoint_threshold,
            nms_radius=self.nms_radius,
            spread=self.spread,
            dtype=self.dtype,
        )
        return {name: value for name, value in options.items() if value is not None}

    def model(self) -> sp.SuperPoint:
        """The weights with these options."""
        with told():
            return sp.from_pretrained(self.weights, **self.given())


@dataclass(frozen=True, kw_only=True)
class Extraction(Decoding):
    """How keypoints are found in photos."""

    resize: Annotated[int | None, tyro.conf.arg(aliases=["--long-side"])] = None
    """Reduce images to this longer side, in pixels; 0 never reduces. By default the size that belongs to the weights.
    """
    upscale: bool = False
    """Also enlarge images whose longer side is below --resize to it."""
    enlarge: float | None = None
    """Enlarge images by this factor before the network, for more exact positions; 2 takes four times as long."""
    engine: openvino.Engine = "auto"
    """What computes the network; by default OpenVINO where it is installed and there is no accelerator."""
    max_pixels: int = MAX_IMAGE_PIXELS
    """Larger photos are refused before they are decoded."""

    def given(self) -> dict[str, Any]:
        """Options of the configuration that were given."""
        return super().given() | ({} if self.enlarge is None else {"enlarge": self.enlarge})

    def load(self) -> Network:
        """The network with the processor of its photos. What computes the network is printed on stderr."""
        model = self.model()
        with told():
            processor = sp.SuperPointImageProcessor.for_weights(self.weights, model.config)
            network = openvino.choose(model, self.engine)
        print(openvino.describe(network), file=sys.stderr)
        return Network(network, processor, self.resize, self.upscale, self.max_pixels)


@dataclass(frozen=True, kw_only=True)
class Matching:
    """What matches keypoints, and what a match has to pass. None leaves a test out."""

    matcher: Matcher = "nearest"
    """What matches: "nearest" for mutual nearest neighbours of descriptors, "lightglue" for the network in the package,
    or a folder, file or Hugging Face id of a LightGlue that was trained for the weights."""
    ratio: Limit = "auto"
    """Lowe's ratio test: the distance to the nearest descriptor must be less than this times the distance to the second
    nearest. "auto" is 0.85 for `extract` and `reconstruct`, and no test elsewhere."""
    ratio_apart: Limit = "auto"
    """How far from the nearest the second nearest keypoint must be for the ratio test, as a fraction of the longer side
    of the photo. "auto" is 0.01; 0 is Lowe's own test."""
    max_distance: Limit = "auto"
    """Largest L2 distance between the descriptors of a match. "auto" is 0.7 for `track`, and no limit elsewhere."""
    min_score: Limit = "auto"
    """Smallest score of a match: the cosine of two descriptors, or the probability of a network. "auto" is that of the
    network, and no limit for nearest neighbours."""

    def network(self, extractor: sp.SuperPointConfig | None = None) -> LightGlue | None:
        """The network that matches keypoints, for an extractor if one is given; None for nearest neighbours."""
        useless = [
            f"--{name.replace('_', '-')}"
            for name in ("ratio", "ratio_apart", "max_distance")
            if getattr(self, name) != "auto"
        ]
        if useless and self.matcher != "nearest":
            raise CommandError(
                f"{' and '.join(useless)}: for nearest neighbours only; with --matcher {self.matcher}, give --min-score"
            )
        with told():
            matcher = choose(self.matcher)
        if matcher is not None and extractor is not None:
            lengths = matcher.rules.input_dim, extractor.descriptor_decoder_dim
            if lengths[0] != lengths[1]:
                raise CommandError(
                    f"--matcher {self.matcher} takes descriptors of length {lengths[0]}, and those of the weights have "
                    f"{lengths[1]}: it was trained for another extractor"
                )
        return matcher

    def tests(self) -> dict[str, Any]:
        """The tests that were given, and what belongs to them, under their names in `superpoint_jax.match`."""
        apart = self.ratio_apart
        if apart == "auto" and self.ratio not in ("auto", None):
            apart = RATIO_APART
        tests = dict(ratio=self.ratio, ratio_apart=apart, max_distance=self.max_distance, min_score=self.min_score)
        return {name: value for name, value in tests.items() if value != "auto"}

    def load(self, extractor: sp.SuperPointConfig) -> Callable[[sp.Keypoints, sp.Keypoints], sp.Matches]:
        """The function that matches two images."""
        return partial(sp.match, matcher=self.network(extractor), **self.tests())


@dataclass(frozen=True)
class Network:
    """A network with its weights, engine and processor."""

    network: sp.SuperPoint | openvino.CompiledSuperPoint
    processor: sp.SuperPointImageProcessor
    resize: int | None
    upscale: bool = False
    max_pixels: int = MAX_IMAGE_PIXELS

    def read(self, image: Path) -> np.ndarray:
        """The upright pixels of a photo; see `superpoint_jax.load_image`."""
        with told():
            return sp.load_image(image, max_pixels=self.max_pixels)

    @property
    def config(self) -> sp.SuperPointConfig:
        """The configuration of the network."""
        return self.network.config

    def __call__(self, images: Sequence[Any], regions: Sequence[Any] | None = None) -> list[sp.Keypoints]:
        """The keypoints of images; see `superpoint_jax.extract_images`."""
        with told():
            return sp.extract_images(
                self.network,
                images,
                regions=regions,
                processor=self.processor,
                resize=self.resize,
                upscale=self.upscale,
                max_pixels=self.max_pixels,
            )

    def describe(self, image: Path, keypoints_xy: np.ndarray) -> sp.Keypoints:
        """Descriptors at places of a photo; see `superpoint_jax.photos.describe_image`."""
        with told():
            return describe_image(
                self.network,
                image,
                keypoints_xy,
                processor=self.processor,
                resize=self.resize,
                upscale=self.upscale,
                max_pixels=self.max_pixels,
            )

    def frame(self, pixels: np.ndarray) -> sp.Keypoints:
        """The keypoints of a frame at its own size, with a fixed number of rows."""
        seen = read_pixels(pixels, prepared(self.processor, 0))
        return extract_batch(self.network, [seen], seen.shape[:2], 1)[0]


def masks_of(images: Sequence[Path], folder: Path | None) -> list[Path | None]:
    """The mask of each photo in a folder by COLMAP's rule, or None.

    The name of a photo within the folder is its path, or the end of its path. If no photo has a mask, stderr says so.
    """
    if folder is None:
        return [None] * len(images)
    if not folder.is_dir():
        raise CommandError(f"{folder}: no such folder")
    found = []
    for image in images:
        parts = [part for part in image.parts if part not in (image.anchor, "..")]
        ends = (find_mask(folder, "/".join(parts[i:])) for i in range(len(parts)))
        found.append(next((mask for mask in ends if mask is not None), None))
    if not any(found):
        print(f"no photo has a mask in {folder}; that of {images[0]} is {folder / images[0].name}.png", file=sys.stderr)
    return found
