"""The pixels that the network sees, from one image of any kind. Every caller reads its images here."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from superpoint_jax.config import CELL_PX
from superpoint_jax.photos.plan import Shape
from superpoint_jax.processing.host import as_array
from superpoint_jax.processing.loading import ImageError, read_size
from superpoint_jax.processing.processor import SuperPointImageProcessor


def prepared(
    processor: SuperPointImageProcessor, resize: int | None, *, upscale: bool = False
) -> SuperPointImageProcessor:
    """The processor with another long side, and with bytes as its result if the model divides them by 255 itself.

    Compared with floats, bytes are a quarter of the data sent between processes and to the device.

    Args:
        processor: The processor that belongs to the weights.
        resize: Images are reduced to this longer side, in pixels; 0 never reduces; None keeps the processor's size.
        upscale: Images whose longer side is below `resize` are also enlarged to it.

    Raises:
        ValueError: `resize` is smaller than one cell of the network, or `upscale` has no `resize`.
    """
    changes: dict[str, Any] = {}
    makes_floats = processor.do_grayscale and processor.grayscale_rule == "huggingface"
    if abs(processor.rescale_factor * 255 - 1) < 1e-6 and not makes_floats:
        changes["do_rescale"] = False
    check_resize(resize, upscale=upscale)
    if resize == 0:
        changes["do_resize"] = False
    elif resize is not None:
        mode = "fit" if upscale else "shrink"
        changes |= dict(size={"height": resize, "width": resize}, do_resize=True, resize_mode=mode)
    return dataclasses.replace(processor, **changes)


def check_resize(resize: int | None, *, upscale: bool = False) -> None:
    """Raise a ValueError where `prepared` can't take these."""
    if upscale and not resize:
        raise ValueError("upscale needs a resize: the long side, in pixels, that images are brought to")
    if resize and resize < CELL_PX:
        raise ValueError(f"resize={resize}; at least {CELL_PX} pixels are needed, or 0 to leave images as they are")


def size_of(image: Any, *, max_pixels: int | None = None) -> Shape:
    """(height, width) of an image before any processing; of a file, only the header is read.

    Raises:
        ImageError: A file can't be read as an image.
    """
    if isinstance(image, str | Path):
        return read_size(image, max_pixels=max_pixels)
    if hasattr(image, "getbands"):  # A Pillow image.
        return image.height, image.width
    shape = np.shape(image)
    return shape[0], shape[1]


def network_size(size: Shape, processor: SuperPointImageProcessor, name: str) -> Shape:
    """(height, width) at which the network sees an image of that size.

    Raises:
        ImageError: That is smaller than one cell of the network; the message has the name.
    """
    target = processor.target_size(*size)
    if min(target) < CELL_PX:
        raise ImageError(f"{name}: {target[1]}x{target[0]} pixels; at least {CELL_PX} are needed")
    return target


def read_pixels(
    image: Any, processor: SuperPointImageProcessor, *, max_pixels: int | None = None
) -> UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"]:
    """The pixels that the network sees: one channel if the processor converts to gray, else three.

    Raises:
        ImageError: A file can't be read as an image.
        ValueError: An array is not an image.
    """
    values = processor.preprocess([as_array(image, max_pixels=max_pixels)], return_tensors="np", pad_multiple=1)
    pixels = values.pixel_values[0]
    # The gray of Hugging Face has three equal channels.
    return pixels[..., :1] if processor.do_grayscale else np.broadcast_to(pixels, (*pixels.shape[:2], 3))
