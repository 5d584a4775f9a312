"""Options shared by several commands, with one name and one meaning everywhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

import superpoint_jax as sp
from superpoint_jax import openvino
from superpoint_jax.cli.errors import CommandError, told
from superpoint_jax.config import ComputeDtype
from superpoint_jax.photos import describe_image
from superpoint_jax.photos.batches import extract_batch
from superpoint_jax.photos.pixels import prepared, read_pixels
from superpoint_jax.photos.regions import find_mask
from superpoint_jax.processing import MAX_IMAGE_PIXELS

Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
OptionalOutput = Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="PATH")]
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]
Weights = Annotated[str | None, tyro.conf.arg(metavar="SOURCE")]


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
    dtype: ComputeDtype | None = None
    """Type that the network computes in; by default that of the weights."""

    def given(self) -> dict[str, Any]:
        """The options of the configuration that were given."""
        options = dict(
            max_keypoints=self.max_keypoints,
            keypoint_threshold=self.keypoint_threshold,
            nms_radius=self.nms_radius,
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

    def __call__(self, images: Sequence[Any], regions: Sequence[Path | None] | None = None) -> list[sp.Keypoints]:
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
