"""Labels of photos by homographic adaptation, kept in a file that training reads."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from superpoint_jax import openvino
from superpoint_jax.config import ComputeDtype, SuperPointConfig
from superpoint_jax.files import digest_of_arrays, replacing
from superpoint_jax.model import SuperPoint
from superpoint_jax.training.adaptation import NetworkHeat, corner_heat, label_photos
from superpoint_jax.training.labelled import Photos, load_photos
from superpoint_jax.training.resuming import made_from
from superpoint_jax.weights import from_pretrained

PACKAGE = "ours"
"""Name of the weights in the package, in options that name a model."""
CORNERS = "corners"
"""Name of the detector that needs no training: the corners of Shi and Tomasi."""
MIN_CORNERS = 20
"""Photos with fewer labels are not used for training, because their views are mostly empty."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """How photos are labelled by homographic adaptation."""

    homographies: int = 40
    """Views per photo."""
    threshold: float | None = None
    """Smallest mean heat of a label; by default 0.12 for "corners" and 0.015 for a model."""
    max_corners: int = 512
    """At most this many corners per photo are kept, the strongest."""
    side: int = 480
    """Long side of the photos, in pixels."""


def label_folder(
    data: Path, out: Path, *, labelling: Labelling, detector: str = CORNERS, dtype: ComputeDtype = "float32", seed: int
) -> None:
    """Label the photos of a folder and write them, in gray, with sizes, corners and a mask, to a file (.npz).

    Photos that can't be read are named in the log and left out. The file appears complete or not at all.

    Args:
        data: Folder of photos.
        out: File to write.
        labelling: How the photos are labelled.
        detector: "corners", "ours", or anything that `from_pretrained` takes.
        dtype: Compute type of the model.
        seed: Seed of the homographies.

    Raises:
        ValueError: The folder has no photo that can be read.
    """
    source = labels_source(data, labelling=labelling, detector=detector, dtype=dtype, seed=seed)
    images, sizes, paths = load_photos(data, side=labelling.side)
    heat, threshold = corner_heat, 0.12
    if detector != CORNERS:
        heat, threshold = NetworkHeat(openvino.choose(load_model(detector), dtype=dtype), dtype), 0.015
    corners_xy, mask = label_photos(
        jax.random.key(seed),
        images,
        sizes,
        detector=heat,
        num_homographies=labelling.homographies,
        threshold=threshold if labelling.threshold is None else labelling.threshold,
        max_corners=labelling.max_corners,
    )
    names = [str(path.relative_to(data)) for path in paths]
    arrays: dict[str, Any] = dict(
        images=images, sizes=sizes, corners_xy=corners_xy, corners_mask=mask, names=names, source=source
    )
    with replacing(out) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    log.info("%d photos, %.0f corners per photo -> %s", len(paths), mask.sum(1).mean(), out)


def labels_source(data: Path, *, labelling: Labelling, detector: str, dtype: ComputeDtype, seed: int) -> str:
    """What the labels of a folder are made from; see `made_from`."""
    weights = None if detector == CORNERS else digest_of_arrays(load_model(detector))
    options = dict(labelling=asdict(labelling), detector=detector, weights=weights, dtype=dtype, seed=seed)
    return made_from(data, **options)


def check_labels(path: Path, source: str) -> None:
    """Raise a ValueError if a file of labels says that it was made from something else than `labels_source` gives."""
    with np.load(path) as file:
        if "source" in file and str(file["source"]) != source:
            raise ValueError(
                f"{path} was made from other photos or with other options; remove it to label again, or give --labels"
            )


def read_labels(path: Path) -> Photos:
    """The photos of a file written by `label_folder`, without those that have fewer than `MIN_CORNERS` corners.

    Raises:
        ValueError: The file contains something else, or no photo with enough corners.
    """
    with np.load(path) as file:
        missing = {"images", "sizes", "corners_xy", "corners_mask"} - set(file)
        if missing:
            raise ValueError(
                f"{path} contains no labels ({', '.join(sorted(missing))} missing); make it with `train adapt`"
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


def load_model(name: str) -> SuperPoint:
    """The model of a name: "ours" for the weights in the package, or anything that `from_pretrained` takes."""
    return from_pretrained() if name == PACKAGE else from_pretrained(name)


def new_model(seed: int) -> SuperPoint:
    """A model with random weights, which decodes keypoints as the weights in the package do."""
    return SuperPoint(SuperPointConfig.preset("superpoint_jax"), rngs=nnx.Rngs(seed))
