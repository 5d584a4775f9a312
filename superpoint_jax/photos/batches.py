"""Keypoints of a batch of images of different sizes, mapped back to pixels of each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from superpoint_jax.config import CELL_PX
from superpoint_jax.extraction import extract
from superpoint_jax.features import Keypoints
from superpoint_jax.model import SuperPoint
from superpoint_jax.openvino import CompiledSuperPoint
from superpoint_jax.photos.plan import Shape
from superpoint_jax.processing import rescale_keypoints


def default_batch(platform: str) -> int:
    """Images per batch on a device: 1 on a CPU, where more would cost memory and save no time; 32 otherwise."""
    return 1 if platform == "cpu" else 32


def extract_batch(
    network: SuperPoint | CompiledSuperPoint,
    pixels: Sequence[np.ndarray],
    shape: Shape,
    rows: int,
    *,
    place: Callable[[np.ndarray], Any] = jnp.asarray,
    regions: Sequence[np.ndarray | None] | None = None,
    **options: Any,
) -> Keypoints:
    """Keypoints of images [h,w,c], in their pixels, with a fixed number of rows. They are dispatched, not waited for.

    Args:
        network: A model, or the result of `openvino.compile`.
        pixels: At most `rows` images, none larger than `shape`.
        shape: (height, width) of the array that the images are copied into.
        rows: Number of images in the array; the images beyond those given are empty, and their keypoints have no
            meaning.
        place: Function that moves an array to the devices.
        regions: For each image a bool array [h,w], True where keypoints may be, or None.
        **options: Options of `extract`.
    """
    images = np.zeros((rows, *shape, pixels[0].shape[2]), pixels[0].dtype)
    sizes = np.full((rows, 2), CELL_PX, np.int32)
    for row, image in enumerate(pixels):
        images[row, : image.shape[0], : image.shape[1]] = image
        sizes[row] = image.shape[:2]
    if regions is not None:
        options["region"] = place(_padded_regions(regions, sizes, (rows, *shape)))
    wanted = options.pop("max_keypoints", None)
    capacity = network.rules.max_keypoints if wanted is None else wanted
    return extract(
        network,
        place(images),
        image_sizes=place(sizes),
        max_keypoints=min(capacity, shape[0] * shape[1]),  # -1, for all keypoints, stays -1.
        **options,
    )


def _padded_regions(regions: Sequence[np.ndarray | None], sizes: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The regions [rows,H,W] of a batch, everything for an image without one."""
    array = np.ones(shape, bool)
    for row, (region, (height, width)) in enumerate(zip(regions, sizes, strict=False)):
        if region is not None:
            array[row, :height, :width] = region
    return array


def per_image(found: Keypoints, originals: Sequence[Shape]) -> list[Keypoints]:
    """The valid rows of the first images of a batch, in pixels of the original images of (height, width) `originals`.

    Coordinates are mapped by pixel centres, and `image_sizes` become those of the originals. The arrays are numpy's,
    because each image has its own number of keypoints, and JAX would compile later operations for each number.
    """
    numbers = np.asarray(found.num_detected)
    results = []
    for one, number, original in zip(found.to_list(), numbers, originals, strict=False):
        keypoints_xy = rescale_keypoints(one["keypoints"], one["image_size"], original)
        arrays: dict[str, Any] = dict(
            keypoints=keypoints_xy,
            scores=one["scores"],
            descriptors=one["descriptors"],
            mask=np.ones(len(keypoints_xy), bool),
            num_detected=number,
            image_sizes=np.array(original, np.int32),
        )
        results.append(Keypoints(**arrays))
    return results
