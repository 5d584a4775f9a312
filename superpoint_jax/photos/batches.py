"""A batch of images of different sizes through the network, and its keypoints back to pixels of each image."""

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
    """Images per batch on a device: one on a CPU, where more of them take memory and save no time; 32 otherwise."""
    return 1 if platform == "cpu" else 32


def extract_batch(
    network: SuperPoint | CompiledSuperPoint,
    pixels: Sequence[np.ndarray],
    shape: Shape,
    rows: int,
    *,
    place: Callable[[np.ndarray], Any] = jnp.asarray,
    **options: Any,
) -> Keypoints:
    """Keypoints of images [h,w,c], in pixels of these, with a fixed number of rows. Dispatched, not waited for.

    Args:
        network: A model, or what `openvino.compile` makes of it.
        pixels: At most `rows` images, none larger than `shape`.
        shape: (height, width) of the array that they are laid into.
        rows: Images in the array; those above the number of images are empty, and what is found in them is to be left.
        place: Brings an array to the devices.
        **options: For `extract`.
    """
    images = np.zeros((rows, *shape, pixels[0].shape[2]), pixels[0].dtype)
    sizes = np.full((rows, 2), CELL_PX, np.int32)
    for row, image in enumerate(pixels):
        images[row, : image.shape[0], : image.shape[1]] = image
        sizes[row] = image.shape[:2]
    wanted = options.pop("max_keypoints", None)
    capacity = network.rules.max_keypoints if wanted is None else wanted
    return extract(
        network,
        place(images),
        image_sizes=place(sizes),
        max_keypoints=min(capacity, shape[0] * shape[1]),  # -1, all, stays
        **options,
    )


def per_image(found: Keypoints, originals: Sequence[Shape]) -> list[Keypoints]:
    """The valid rows of the first images of a batch, in pixels of the original images of (height, width) `originals`.

    Coordinates are mapped by pixel centres; `image_sizes` become the originals'. The arrays are numpy's: every image
    has another number of keypoints, and on the device each number would compile what is done with it.
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
