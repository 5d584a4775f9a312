"""`describe_image`: descriptors at given places of a photo of any kind and size."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from superpoint_jax.config import CELL_PX
from superpoint_jax.features import Keypoints
from superpoint_jax.model import SuperPoint
from superpoint_jax.openvino import CompiledSuperPoint
from superpoint_jax.own_keypoints import describe
from superpoint_jax.photos.pixels import network_size, prepared, read_pixels
from superpoint_jax.processing import rescale_keypoints
from superpoint_jax.processing.host import as_array
from superpoint_jax.processing.loading import MAX_IMAGE_PIXELS
from superpoint_jax.processing.processor import SuperPointImageProcessor


def describe_image(
    model: SuperPoint | CompiledSuperPoint,
    image: Any,
    keypoints_xy: Float[np.ndarray, "n 2"],
    *,
    processor: SuperPointImageProcessor | None = None,
    resize: int | None = None,
    upscale: bool = False,
    max_pixels: int | None = MAX_IMAGE_PIXELS,
    **options: Any,
) -> Keypoints:
    """Descriptors and scores at places of a photo, in the given order, as numpy arrays.

    Args:
        model: A model, or the result of `openvino.choose` or `openvino.compile`.
        image: An image of any kind that `extract_images` takes.
        keypoints_xy: (x, y) in pixels of the photo, pixel centres at integers.
        processor: As in `extract_images`.
        resize: As in `extract_images`.
        upscale: As in `extract_images`.
        max_pixels: As in `extract_images`.
        **options: Any option of `describe`.

    Raises:
        ImageError: The image can't be read, or is too small.
        ValueError: A place lies outside the photo, or is not finite; or as `describe`.
        TypeError: An option does not exist.
    """
    processor = prepared(processor or SuperPointImageProcessor.for_config(model.config), resize, upscale=upscale)
    name = str(image) if isinstance(image, str | Path) else "the image"
    pixels = as_array(image, max_pixels=max_pixels)
    original = height, width = pixels.shape[:2]
    inside = ((keypoints_xy >= -0.5) & (keypoints_xy < np.array([width, height]) - 0.5)).all(-1)
    if not inside.all():
        row = int(np.flatnonzero(~inside)[0])
        x, y = keypoints_xy[row].tolist()
        raise ValueError(f"place {row + 1}, ({x:g}, {y:g}), lies outside {name}, which has {width}x{height} pixels")
    network_size(original, processor, name)
    seen = read_pixels(pixels, processor)
    shape = seen.shape[:2]
    # A number of rows and a size that many photos share, so that few programs are compiled.
    rows = 1 << max(len(keypoints_xy) - 1, 0).bit_length()
    padded = np.zeros((1, *(-(-side // CELL_PX) * CELL_PX for side in shape), seen.shape[2]), seen.dtype)
    padded[0, : shape[0], : shape[1]] = seen
    places = np.zeros((1, rows, 2), np.float32)
    # Rounded to float32, a place next to the border may lie on it, which is outside.
    last = np.nextafter(np.array(shape[::-1], np.float32) - np.float32(0.5), np.float32(0))
    places[0, : len(keypoints_xy)] = np.minimum(rescale_keypoints(keypoints_xy, original, shape), last)
    mask = np.arange(rows)[None] < len(keypoints_xy)
    found = describe(model, padded, places, mask, image_sizes=np.array([shape], np.int32), **options)
    count = len(keypoints_xy)
    return dataclasses.replace(
        found,
        keypoints=keypoints_xy.astype(np.float32),
        scores=np.asarray(found.scores)[0, :count],
        descriptors=np.asarray(found.descriptors)[0, :count],
        mask=np.ones(count, bool),
        num_detected=np.int32(count),
        image_sizes=np.array(original, np.int32),
    )
