"""Reads image files, and Pillow images of any mode, into uint8 arrays: gray [H,W] or RGB [H,W,3]."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias, cast

import numpy as np
from jaxtyping import Shaped, UInt8

if TYPE_CHECKING:
    import PIL.Image

ImageSource: TypeAlias = str | os.PathLike[str] | IO[bytes] | io.IOBase

MAX_IMAGE_PIXELS = 2**28
"""Images with more pixels (0.8 GB as RGB) are refused unless the caller sets another limit. Pillow's own limit is lower
and would refuse images from satellites and slide scanners."""

IMAGE_SUFFIXES = (".ppm", ".pgm", ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
"""Suffixes of the files in a folder that are taken for images."""

_opening = threading.Lock()


class ImageError(ValueError):
    """An image can't be read; the message is one line and names the file."""


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The image files below a folder, sorted by name.

    Raises:
        ValueError: The folder does not exist, or holds no image file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; a folder of photos is needed")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} holds no photos ({', '.join(IMAGE_SUFFIXES)})")
    return paths


def load_image(
    source: ImageSource, *, max_pixels: int | None = MAX_IMAGE_PIXELS
) -> UInt8[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]:
    """The pixels of an image file, upright: uint8, gray [H,W] or RGB [H,W,3].

    The rotation in the EXIF data is applied. If the file holds several images, the first is read. `to_uint8` describes
    the conversion of 16 bits, palettes, transparency and CMYK.

    Args:
        source: Path, or an open binary file that can seek.
        max_pixels: Refuse larger images before they are decoded, since a small file can hold a gigantic image. None
            sets no limit.

    Raises:
        ImageError: The file is missing, a directory, unreadable, empty, truncated, damaged or not an image, or has more
            than `max_pixels`.
    """
    with _decoded(source, max_pixels) as (image, name):
        try:
            return to_uint8(image)
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error


def load_mask(
    source: ImageSource | PIL.Image.Image, *, max_pixels: int | None = MAX_IMAGE_PIXELS
) -> Shaped[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]:
    """The values of a mask, upright: gray [H,W] of whatever type the file has, so that no value becomes 0, or RGB.

    A Pillow image is used as it is. Palettes become RGB.

    Raises:
        ImageError: As `load_image`.
    """
    if not isinstance(source, str | os.PathLike) and hasattr(source, "getbands"):
        return _mask_values(cast("PIL.Image.Image", source))
    with _decoded(cast(ImageSource, source), max_pixels) as (image, name):
        try:
            return _mask_values(image)
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error


def _mask_values(image: PIL.Image.Image) -> np.ndarray:
    deep = image.mode in ("F", "I") or image.mode.startswith("I;16")
    return np.array(image) if deep else to_uint8(image)


@contextmanager
def _decoded(source: ImageSource, max_pixels: int | None) -> Iterator[tuple[PIL.Image.Image, str]]:
    """The decoded, upright image of a file, and the name of the file."""
    from PIL import ImageOps

    name = os.fspath(source) if isinstance(source, str | os.PathLike) else getattr(source, "name", "the image")
    with _open(source, name) as image:
        _check_pixels(image, name, max_pixels)
        try:
            image.load()
        # Decoders raise many kinds of errors on damaged input (OSError, SyntaxError, struct.error, ...).
        except Exception as error:
            raise ImageError(f"{name}: truncated or damaged: {_one_line(error)}") from error
        with suppress(Exception):  # If the EXIF data is damaged, the image is not rotated.
            image = ImageOps.exif_transpose(image)
        yield image, name


def read_size(source: ImageSource, *, max_pixels: int | None = MAX_IMAGE_PIXELS) -> tuple[int, int]:
    """(height, width) of the array that `load_image` returns, read from the header only.

    Raises:
        ImageError: As `load_image`, except that damaged pixels are not noticed.
    """
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else getattr(source, "name", "the image")
    with _open(source, name) as image:
        _check_pixels(image, name, max_pixels)
        turned = False
        with suppress(Exception):  # As in load_image.
            turned = image.getexif().get(ORIENTATION_TAG, 1) in (5, 6, 7, 8)
        return (image.width, image.height) if turned else (image.height, image.width)


ORIENTATION_TAG = 0x0112
"""The EXIF tag for the rotation. Its values 5 to 8 swap height and width."""


def _check_pixels(image: PIL.Image.Image, name: str, max_pixels: int | None) -> None:
    pixels = image.width * image.height
    if max_pixels is not None and pixels > max_pixels:
        raise ImageError(
            f"{name}: {image.width}x{image.height} is {pixels / 1e6:.0f} million pixels, above the limit of "
            f"{max_pixels / 1e6:.0f} million; raise max_pixels if you trust the file"
        )


def to_uint8(image: PIL.Image.Image) -> UInt8[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]:
    """A Pillow image as a uint8 array: gray [H,W] or RGB [H,W,3].

    16 bits are scaled to 8 over their full range, 0..65535. Floats must be in [0, 1]. Transparent pixels are blended
    with white, as in a browser. Palettes and CMYK become RGB; 1 bit becomes 0 and 255. The image is not rotated.

    Raises:
        ImageError: Pillow can't convert the colour space, or floats are outside [0, 1].
    """
    from PIL import Image

    mode = image.mode
    if mode in ("F", "I") or mode.startswith("I;16"):
        return _deep_gray(np.asarray(image))
    try:
        if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            opaque = mode in ("LA", "La", "L", "1")
            rgba = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            return np.array(Image.alpha_composite(white, rgba).convert("L" if opaque else "RGB"))
        return np.array(image.convert("L" if mode in ("1", "L") else "RGB"))
    except (ValueError, OSError) as error:
        raise ImageError(f"colours of mode {mode} can't be converted: {_one_line(error)}") from error


def _deep_gray(values: np.ndarray) -> np.ndarray:
    """Gray pixels of more than 8 bits as uint8, rounded."""
    if np.issubdtype(values.dtype, np.floating):
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):
            raise ImageError(f"float pixels reach from {low:g} to {high:g}; [0, 1] is needed")
        return np.round(values * 255).astype(np.uint8)
    # In some formats and versions Pillow opens 16-bit files in its 32-bit mode "I". 65535 / 257 is exactly 255.
    return np.round(np.clip(values, 0, 65535) / np.float32(257)).astype(np.uint8)


def _open(source: ImageSource, name: str) -> PIL.Image.Image:
    """The image that Pillow opens without reading its pixels; its size is not limited."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            raise ImageError(f"{name}: a directory, not an image file")
        if not path.exists():
            raise ImageError(f"{name}: no such file")
        if path.stat().st_size == 0:
            raise ImageError(f"{name}: the file is empty")
    # Pillow's limit is a global of its module. It is switched off here, because `max_pixels` is an argument.
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(cast(IO[bytes], source))
        except UnidentifiedImageError as error:
            raise ImageError(f"{name}: not an image of a format that Pillow {Image.__version__} reads") from error
        except Exception as error:  # See load_image: headers can be damaged too.
            raise ImageError(f"{name}: can't be read: {_one_line(error)}") from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
