"""`extract_images`: the keypoints of photos of any kind and size, as a list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from superpoint_jax.features import Keypoints
from superpoint_jax.model import SuperPoint
from superpoint_jax.openvino import CompiledSuperPoint
from superpoint_jax.photos.batches import default_batch, extract_batch, per_image
from superpoint_jax.photos.pixels import network_size, prepared, read_pixels, size_of
from superpoint_jax.photos.plan import Shape, make_plan
from superpoint_jax.photos.regions import check_regions, read_region
from superpoint_jax.processing.host import as_array
from superpoint_jax.processing.loading import MAX_IMAGE_PIXELS
from superpoint_jax.processing.processor import SuperPointImageProcessor, as_list
from superpoint_jax.regions import resized_region


def extract_images(
    model: SuperPoint | CompiledSuperPoint,
    images: Any,
    *,
    regions: Sequence[Any] | None = None,
    processor: SuperPointImageProcessor | None = None,
    resize: int | None = None,
    upscale: bool = False,
    pad_multiple: int = 64,
    max_shapes: int = 8,
    batch: int | None = None,
    max_pixels: int | None = MAX_IMAGE_PIXELS,
    **options: Any,
) -> list[Keypoints]:
    """The keypoints of each image, without padding, in pixels of that image as it was given.

    The images are resized and converted to gray as the weights need it, sorted into a few shapes and extracted in
    batches. The result for an image does not depend on the others. Its fields are numpy arrays: keypoints [N,2], scores
    [N], descriptors [N,D], mask [N] (all True), num_detected, and image_sizes [2], the (height, width) of the given
    image.

    Inside `jit`, use `extract` instead. If the keypoints of all images don't fit into memory, use `bulk.extract_files`.

    Args:
        model: A model, or the result of `openvino.choose` or `openvino.compile`.
        images: A list of paths, open files, Pillow images or arrays ([H,W], or [H,W,C] with 1, 3 or 4 channels; uint8,
            uint16, bool, or float in [0, 1]). A single image or an array [B,H,W,C] is also accepted. Files are turned
            upright by their EXIF data; Pillow images are used as they are.
        regions: For each image a mask of where keypoints may be, or None: an array, path or Pillow image of the image's
            size, where 0 (or False) is masked. A keypoint is kept if it lies in a pixel that is not masked, before the
            cut to `max_keypoints`.
        processor: Preprocessing of the images. By default that of the model's configuration, which comes from the
            preprocessor_config.json of the folder that the model was loaded from, if there was one.
        resize: Images are reduced to this longer side, in pixels; 0 never reduces. By default the processor's size
            (1024 for the weights in the package).
        upscale: Images whose longer side is below `resize` are also enlarged to it.
        pad_multiple: Heights and widths of arrays are multiples of this, in pixels. It changes no result.
        max_shapes: Largest number of array shapes, each of which is compiled. It changes no result.
        batch: Images per batch; by default 1 on a CPU and 32 otherwise.
        max_pixels: Larger files are refused before they are decoded.
        **options: Any option of `extract`: `max_keypoints`, `keypoint_threshold`, `nms_radius`, `dtype`, ...

    Raises:
        ImageError: A file can't be read as an image, an image is too small, or a region has another size; the message
            names it.
        ValueError: An array is not an image, or an option is out of range.
        TypeError: An option does not exist.
    """
    processor = prepared(processor or SuperPointImageProcessor.for_config(model.config), resize, upscale=upscale)
    # Paths and Pillow images are decoded later, batch by batch; everything else becomes an array now.
    sources = [
        image if isinstance(image, str | Path) or hasattr(image, "getbands") else as_array(image, max_pixels=max_pixels)
        for image in as_list(images)
    ]
    originals = [size_of(image, max_pixels=max_pixels) for image in sources]
    names = [_name(sources, index) for index in range(len(sources))]
    if regions is not None:
        check_regions(regions, originals, names)
    sizes = {index: network_size(original, processor, names[index]) for index, original in enumerate(originals)}
    rows = default_batch(jax.default_backend()) if batch is None else batch
    if rows < 1:
        raise ValueError(f"batch={batch}; at least 1 is needed")
    plan = make_plan(sizes, batch=rows, part=rows, multiple=pad_multiple, max_shapes=max_shapes)
    found: dict[int, Keypoints] = {}
    for part in plan.parts:
        for group in part:
            pixels = [read_pixels(sources[index], processor, max_pixels=max_pixels) for index in group.names]
            allowed = None
            if regions is not None:
                allowed = [_region(regions[i], originals[i], sizes[i], names[i]) for i in group.names]
            keypoints = extract_batch(
                model, pixels, group.shape, min(rows, plan.shapes[group.shape]), regions=allowed, **options
            )
            found |= zip(group.names, per_image(keypoints, [originals[i] for i in group.names]), strict=True)
    return [found[index] for index in range(len(sources))]


def _region(region: Any, original: Shape, seen: Shape, name: str) -> np.ndarray | None:
    """The region of an image as the network sees it."""
    return None if region is None else resized_region(read_region(region, original, name), seen)


def _name(sources: Sequence[Any], index: int) -> str:
    """The name of an image in messages."""
    source = sources[index]
    return str(source) if isinstance(source, str | Path) else f"image {index}"
