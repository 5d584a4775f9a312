"""Turns the images that a processor is given into a flat list of arrays [C,H,W]."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from superpoint_jax.huggingface.arrays import is_torch, to_numpy
from superpoint_jax.huggingface.options import FIRST, is_last
from superpoint_jax.processing import load_image

CHANNELS = (1, 3, 4)


def flat_images(images: Any) -> list[Any]:
    """A flat list of images, from one image, a list, a list of pairs, or batches [B,...].

    Raises:
        ValueError: There is no image.
    """
    if isinstance(images, list | tuple):
        flat = [one for image in images for one in flat_images(image)]
    elif getattr(images, "ndim", None) == 4:
        flat = list(images)
    else:
        flat = [images]
    if not flat:
        raise ValueError("no image was given; one or a list of at least one is needed")
    return flat


def as_channels_first(image: Any, input_data_format: Any = None, do_convert_rgb: bool | None = None) -> np.ndarray:
    """The image as [C,H,W], in its own type; C is 1, 3 or 4.

    Args:
        image: A Pillow image; an array or a tensor [H,W], [C,H,W] or [H,W,C]; or the path of a file, which is read as
            RGB and turned upright.
        input_data_format: Where the channels are, first or last. None guesses it from the shape, first before last.
        do_convert_rgb: Make three channels; transparent pixels are blended with white.

    Raises:
        TypeError: The image is something else.
        ValueError: The array has another shape.
        ImageError: The file can't be read as an image. A `ValueError`.
    """
    if isinstance(image, str | os.PathLike):
        image = _read(image)
    if hasattr(image, "getbands"):  # A Pillow image, recognized without importing Pillow.
        pixels, input_data_format = _pillow(image, do_convert_rgb), "channels_last"
    elif is_torch(image) or hasattr(image, "__array__"):
        pixels = to_numpy(image)
    else:
        raise TypeError(f"an image is a {type(image).__name__}; a Pillow image, an array, a tensor or a path is needed")
    if pixels.ndim == 2:
        pixels, input_data_format = pixels[None], FIRST
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise ValueError(f"an image has shape {pixels.shape}; [H,W], [C,H,W] or [H,W,C] is needed")
    if input_data_format is None and pixels.shape[0] not in CHANNELS and pixels.shape[2] not in CHANNELS:
        raise ValueError(f"an image has shape {pixels.shape}; 1, 3 or 4 channels are needed, first or last")
    last = is_last(input_data_format) if input_data_format is not None else pixels.shape[0] not in CHANNELS
    pixels = np.moveaxis(pixels, -1, 0) if last else pixels
    if pixels.shape[0] not in CHANNELS:
        raise ValueError(f"an image has {pixels.shape[0]} channels; 1, 3 or 4 are needed (see input_data_format)")
    return _rgb(pixels) if do_convert_rgb else pixels


def _read(path: str | os.PathLike[str]) -> np.ndarray:
    if str(path).startswith(("http://", "https://")):
        raise ValueError(f"{path} is a web address; fetch it first, then pass the image: nothing is downloaded here")
    pixels = load_image(path)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def _pillow(image: Any, do_convert_rgb: bool | None) -> np.ndarray:
    """The pixels of a Pillow image [H,W] or [H,W,C]. Palettes become RGB; transformers treats their indices as gray."""
    if do_convert_rgb and ("A" in image.getbands() or image.info.get("transparency") is not None):
        return np.asarray(image.convert("RGBA"))
    if do_convert_rgb or image.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV", "LA", "PA"):
        return np.asarray(image.convert("RGB"))
    return np.asarray(image)


def _rgb(pixels: np.ndarray) -> np.ndarray:
    if pixels.shape[0] == 1:
        return np.repeat(pixels, 3, axis=0)
    if pixels.shape[0] == 3:
        return pixels
    white = 255 if np.issubdtype(pixels.dtype, np.integer) else 1
    alpha = pixels[3:] / white
    blend = alpha * pixels[:3] + (1 - alpha) * white
    return (np.round(blend) if white == 255 else blend).astype(pixels.dtype)
