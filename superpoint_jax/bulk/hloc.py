"""hloc's layout of features in HDF5: one group per image, named by its path, with

- `keypoints` float32 [N,2], (x, y) in pixels of the original image, pixel centres at integers, and its attribute
  `uncertainty`, in pixels (half precision, which hloc writes by default, would round coordinates beyond 2048);
- `scores` float32 [N];
- `descriptors` [D,N], float16 as hloc's, or float32;
- `image_size` int64 [2], (width, height) of the original image.

The attribute `stamp` of the group, which hloc does not read, says of which state of the file the features are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    import h5py

T = TypeVar("T")

KEYPOINTS = "/keypoints"

Stamp = tuple[int, ...]
"""The size in bytes and the time of the last change in ns of a photo, followed by those of its mask if it has one."""


@dataclass(frozen=True)
class ImageFeatures:
    """The features of one image as they are stored; `size` is (height, width)."""

    keypoints_xy: Float[np.ndarray, "n 2"]
    scores: Float[np.ndarray, " n"]
    descriptors: Float[np.ndarray, "n d"]
    size: tuple[int, int]
    uncertainty_px: float
    stamp: Stamp = ()


def write_features(file: h5py.File, name: str, features: ImageFeatures, *, descriptor_type: str = "float16") -> None:
    """Add the features of an image to a file."""
    group = file.create_group(name)
    group.create_dataset("keypoints", data=features.keypoints_xy.astype(np.float32))
    group.create_dataset("scores", data=features.scores.astype(np.float32))
    group.create_dataset("descriptors", data=np.ascontiguousarray(features.descriptors.T).astype(descriptor_type))
    group.create_dataset("image_size", data=np.array(features.size[::-1], np.int64))
    group["keypoints"].attrs["uncertainty"] = features.uncertainty_px
    group.attrs["stamp"] = np.array(features.stamp, np.int64)


def read_features(path: Path, names: Sequence[str]) -> list[ImageFeatures]:
    """The features of the named images of a file, in that order."""
    import h5py

    found = []
    with h5py.File(path, "r") as file:
        for name in names:
            group: Any = file[name]
            found.append(
                ImageFeatures(
                    keypoints_xy=group["keypoints"][()],
                    scores=group["scores"][()],
                    descriptors=np.ascontiguousarray(group["descriptors"][()].T),
                    size=_size(group),
                    uncertainty_px=float(group["keypoints"].attrs["uncertainty"]),
                    stamp=_stamp(group),
                )
            )
    return found


def names_in(path: Path) -> list[str]:
    """Names of the images in a file of hloc's layout, as hloc lists them."""
    return list(_in_groups(path, lambda group: None))


def stamps_in(path: Path) -> dict[str, Stamp]:
    """The stamp of each image in a file of hloc's layout; empty where the file has none."""
    return _in_groups(path, _stamp)


def sizes_in(path: Path) -> dict[str, tuple[int, int]]:
    """(height, width) of each image in a file of hloc's layout, in pixels."""
    return _in_groups(path, _size)


def _in_groups(path: Path, read: Callable[[Any], T]) -> dict[str, T]:
    """What `read` finds in the group of each image of a file."""
    import h5py

    with h5py.File(path, "r") as file:
        names: list[str] = []
        file.visit(names.append)
        # A folder of photos may also be called "keypoints".
        found = [name for name in names if name.endswith(KEYPOINTS) and file.get(name, getclass=True) is h5py.Dataset]
        return {name.removesuffix(KEYPOINTS): read(file[name.removesuffix(KEYPOINTS)]) for name in found}


def _size(group: Any) -> tuple[int, int]:
    width, height = group["image_size"][()].tolist()
    return height, width


def _stamp(group: Any) -> Stamp:
    return tuple(int(value) for value in group.attrs.get("stamp", ()))
