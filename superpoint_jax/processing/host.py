"""The steps of the processor for one image, in numpy and Pillow: read, resize, make gray, pad."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from superpoint_jax.model import LUMA, LUMA_BYTES
from superpoint_jax.processing.loading import load_image, strips, to_uint8

GrayscaleRule = Literal["luma", "huggingface"]
ImageArray: TypeAlias = UInt8[np.ndarray, "_h _w _c"] | Float32[np.ndarray, "_h _w _c"]


def as_array(image: Any, *, max_pixels: int | None = None) -> ImageArray:
    """An image of any kind that the processor takes, as an array [H,W,1 or 3], uint8 or float32.

    Raises:
        ImageError: The file can't be read as an image.
        ValueError: The array has another shape or type.
    """
    if isinstance(image, str | Path) or hasattr(image, "read"):
        pixels = load_image(image, max_pixels=max_pixels)
    elif hasattr(image, "getbands"):  # A Pillow image, recognized without importing Pillow.
        pixels = to_uint8(image)
    else:
        pixels = _checked(np.asarray(image))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def resize(image: ImageArray, size: tuple[int, int], resample: int) -> ImageArray:
    """The image resized to (height, width) `size` by Pillow's filter of this number.

    uint8 is rounded as Pillow does it; floats are not rounded.
    """
    from PIL import Image

    if size == image.shape[:2]:
        return image
    width_height, filter_ = (size[1], size[0]), Image.Resampling(resample)
    if image.dtype == np.uint8:
        resized = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).resize(width_height, filter_)
        return np.asarray(resized).reshape(*size, image.shape[2])
    # Pillow's float mode has only one channel.
    channels = [Image.fromarray(np.ascontiguousarray(channel)) for channel in np.moveaxis(image, 2, 0)]
    return np.stack([np.asarray(channel.resize(width_height, filter_)) for channel in channels], axis=2)


def to_gray(image: ImageArray, rule: GrayscaleRule) -> ImageArray:
    """The image in gray, with its own range and type; an image that is gray already is returned as it is.

    Under both rules bytes stay bytes and are rounded: a float array from 0 to 255 would mean something else to the
    network.

    Args:
        rule: "luma": one channel, 0.299 R + 0.587 G + 0.114 B, as Pillow rounds it. "huggingface": three equal
            channels, 0.2989 R + 0.5870 G + 0.1140 B, which darkens by 0.01 %.
    """
    if image.shape[2] == 1:
        return image
    if rule == "huggingface":
        if (image == image[..., :1]).all():
            return image
        gray = image[..., :1] * 0.2989 + image[..., 1:2] * 0.5870 + image[..., 2:] * 0.1140
        gray = np.round(gray) if image.dtype == np.uint8 else gray
        return np.repeat(gray.astype(image.dtype), 3, axis=2)
    if image.dtype == np.uint8:
        red, green, blue = LUMA_BYTES
        gray = np.empty((*image.shape[:2], 1), np.uint8)
        for rows in strips(*image.shape[:2]):
            wide = image[rows].astype(np.int32)
            total = red * wide[..., 0:1] + green * wide[..., 1:2] + blue * wide[..., 2:3]
            gray[rows] = (total + 2**15) >> 16
        return gray
    return np.asarray(sum(np.float32(weight) * image[..., i : i + 1] for i, weight in enumerate(LUMA)))


def pad_to_batch(
    images: list[np.ndarray], multiple: int
) -> tuple[UInt8[np.ndarray, "b h w c"] | Float32[np.ndarray, "b h w c"], Int32[np.ndarray, "b 2"]]:
    """One array [B,H,W,C] with each image in a top-left corner, and the (height, width) of each image.

    H and W are multiples of `multiple`. The padding repeats the image's last row and column: with zeros, a model that
    is not given the sizes would find keypoints along the edge. A gray image among coloured ones gets three channels.
    """
    sizes = np.array([image.shape[:2] for image in images], np.int32)
    height, width = (int(side) for side in -(-sizes.max(axis=0) // multiple) * multiple)
    types = {image.dtype for image in images}
    if len(types) > 1:
        raise ValueError("uint8 and float images in one batch have different ranges; leave do_rescale on")
    batch = np.empty((len(images), height, width, max(image.shape[2] for image in images)), types.pop())
    for target, image in zip(batch, images, strict=True):
        h, w = image.shape[:2]
        target[:] = np.pad(image, ((0, height - h), (0, width - w), (0, 0)), mode="edge")
    return batch, sizes


def check_range(pixels: np.ndarray, subject: str) -> None:
    """Raise a ValueError unless the floats are in [0, 1] or slightly outside, where filters put some.

    This must catch NaN, and values up to 255, which saturate the network.
    """
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -1 and high <= 2):
        raise ValueError(f"{subject} values from {low:g} to {high:g}; [0, 1] is needed: divide by 255?")


def _checked(array: np.ndarray) -> np.ndarray:
    """An array from the user as [H,W] or [H,W,1 or 3], uint8 or float32."""
    if array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        hint = ""
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = (
                "; this is torch's order [C,H,W]: move the channels last, with image.permute(1, 2, 0) in torch or "
                "image.transpose(1, 2, 0) in numpy"
            )
        raise ValueError(f"an image has shape {array.shape}; [H,W], [H,W,1], [H,W,3] or [H,W,4] is needed{hint}")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype == np.uint16:
        array = np.round(array / np.float32(257)).astype(np.uint8)
    elif array.dtype.name in ("bfloat16", "float16", "float32", "float64"):
        array = array.astype(np.float32)
        check_range(array, "a float image has")
    elif array.dtype != np.uint8:
        raise ValueError(f"an image has type {array.dtype}; uint8, uint16, bool, or float in [0, 1] is needed")
    if array.ndim == 3 and array.shape[2] == 4:  # Transparent pixels are blended with white, as in files.
        white = 255 if array.dtype == np.uint8 else 1
        alpha = array[..., 3:].astype(np.float32) / white
        blend = array[..., :3] * alpha + white * (1 - alpha)
        array = np.round(blend).astype(np.uint8) if array.dtype == np.uint8 else blend
    return array
