"""Reads image files, and Pillow images of any mode, into uint8 arrays: gray [H,W] or RGB [H,W,3]."""

from __future__ import annotations

import errno
import io
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from jaxtyping import Shaped, UInt8

from superpoint_jax.files import is_url, require_regular
from superpoint_jax.processing.orientation import orientation_of, upright, upright_size

if TYPE_CHECKING:
    import PIL.Image

ImageSource: TypeAlias = str | os.PathLike[str] | IO[bytes] | io.IOBase

MAX_IMAGE_PIXELS = 2**28
"""Images with more pixels (0.8 GB as RGB) are refused unless the caller sets another limit. Pillow's own limit is lower
and would refuse images from satellites and slide scanners."""

RAW_SUFFIXES = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".pef")
"""Suffixes of raw files. Only the name tells them, because for Pillow many are TIFF files of their thumbnails."""

IMAGE_SUFFIXES = (
    ".ppm", ".pgm", ".pnm", ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2",
    ".avif", ".heic", ".heif", ".hif", ".jxl", *RAW_SUFFIXES,
)  # fmt: skip
"""Suffixes of the files in a folder that are taken for photos. Those of formats that can't be read fail by name."""

_opening = threading.Lock()


class ImageError(ValueError):
    """An image can't be read; the message is one line and names the file."""


def natural_order(name: str) -> list[str | int]:
    """A key that sorts names as people number them: 1, 2, 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def walk_images(folder: str | os.PathLike[str]) -> tuple[list[Path], dict[Path, str]]:
    """The photos below a folder in natural order, and the subfolders that can't be read, each with the reason.

    Links are followed, and each folder is visited once, whatever links there are.
    """
    unread: dict[Path, str] = {}

    def note(error: OSError) -> None:
        unread[Path(error.filename)] = _one_line(error)

    paths, visited = [], set()
    # On millions of files, Path.rglob is several times slower.
    for where, folders, files in os.walk(folder, followlinks=True, onerror=note):
        try:
            identity = os.path.realpath(where, strict=True)
        except OSError as error:
            note(error)
            continue
        folders.sort()
        if identity in visited:
            folders.clear()
            continue
        visited.add(identity)
        paths += [os.path.join(where, file) for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
    return [Path(path) for path in sorted(paths, key=natural_order)], unread


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The photos below a folder, in natural order of their names.

    Raises:
        ValueError: The folder does not exist, or holds no photo.
        OSError: A subfolder can't be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; a folder of photos is needed")
    paths, unread = walk_images(folder)
    for path, reason in unread.items():
        raise PermissionError(errno.EACCES, f"{reason}; make it readable, or move it away", str(path))
    if not paths:
        raise ValueError(f"{folder} holds no photos ({', '.join(IMAGE_SUFFIXES)})")
    return paths


def load_image(
    source: ImageSource, *, max_pixels: int | None = MAX_IMAGE_PIXELS
) -> UInt8[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]:
    """The pixels of an image file, upright: uint8, gray [H,W] or RGB [H,W,3].

    The rotation in the EXIF data is applied. If the file holds several pictures, the largest is read, or the first of
    an animation. `to_uint8` describes the conversion of 16 bits, palettes, transparency and CMYK. `formats` says which
    formats are read; raw files of cameras are developed by LibRaw.

    Args:
        source: Path, or an open binary file that can seek.
        max_pixels: Refuse larger images before they are decoded, since a small file can hold a gigantic image. None
            sets no limit.

    Raises:
        ImageError: The file is missing, a directory, unreadable, empty, truncated, damaged or not an image, or has more
            than `max_pixels`.
    """
    stored, orientation = load_stored(source, max_pixels=max_pixels)
    return upright(stored, orientation)


def load_stored(
    source: ImageSource, *, max_pixels: int | None = MAX_IMAGE_PIXELS
) -> tuple[UInt8[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"], int]:
    """The pixels as they are stored, and the orientation (see `orientation`); otherwise as `load_image`."""
    with _decoded(source, max_pixels) as (image, name):
        try:
            return to_uint8(image), orientation_of(image)
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error


def load_values(
    source: ImageSource | PIL.Image.Image, *, max_pixels: int | None = MAX_IMAGE_PIXELS
) -> Shaped[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]:
    """The values of a mask or of a map of disparities, upright: gray [H,W] of whatever type the file has, or RGB.

    So no value is rounded to another. A Pillow image is used as it is. Palettes become RGB.

    Raises:
        ImageError: As `load_image`.
    """
    if not isinstance(source, str | os.PathLike) and hasattr(source, "getbands"):
        return _values(cast("PIL.Image.Image", source))
    with _decoded(cast(ImageSource, source), max_pixels) as (image, name):
        try:
            return upright(_values(image), orientation_of(image))
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error


def _values(image: PIL.Image.Image) -> np.ndarray:
    deep = image.mode in ("F", "I") or image.mode.startswith("I;16")
    return _deep_values(image) if deep else to_uint8(image)


def _name(source: ImageSource) -> str:
    """The name of an image in messages."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else str(getattr(source, "name", "the image"))


@contextmanager
def _decoded(source: ImageSource, max_pixels: int | None) -> Iterator[tuple[PIL.Image.Image, str]]:
    """The decoded image of a file as it is stored, and the name of the file."""
    name = _name(source)
    with _opened(source, name, max_pixels) as image:
        try:
            image.load()
        # Decoders raise many kinds of errors on damaged input (OSError, SyntaxError, struct.error, ...).
        except Exception as error:
            raise ImageError(f"{name}: truncated or damaged: {_one_line(error)}") from error
        yield image, name


def read_size(source: ImageSource, *, max_pixels: int | None = MAX_IMAGE_PIXELS) -> tuple[int, int]:
    """(height, width) of the array that `load_image` returns, read from the header only.

    Raises:
        ImageError: As `load_image`, except that damaged pixels are not noticed.
    """
    name = _name(source)
    with _opened(source, name, max_pixels) as image:
        return upright_size((image.height, image.width), orientation_of(image))


def _check_pixels(size: tuple[int, int], name: str, max_pixels: int | None) -> None:
    height, width = size
    pixels = width * height
    if max_pixels is not None and pixels > max_pixels:
        raise ImageError(
            f"{name}: {width}x{height} is {pixels / 1e6:.0f} million pixels, above the limit of "
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
        return _deep_gray(_deep_values(image))
    try:
        if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            opaque = mode in ("LA", "La", "L", "1")
            pixels = np.empty((image.height, image.width) if opaque else (image.height, image.width, 3), np.uint8)
            for rows in strips(image.height, image.width):
                rgba = image.crop((0, rows.start, image.width, rows.stop)).convert("RGBA")
                white = Image.new("RGBA", rgba.size, "white")
                pixels[rows] = np.asarray(Image.alpha_composite(white, rgba).convert("L" if opaque else "RGB"))
            return pixels
        wanted = "L" if mode in ("1", "L") else "RGB"
        return np.array(image if mode == wanted else image.convert(wanted))
    except (ValueError, OSError) as error:
        raise ImageError(f"colours of mode {mode} can't be converted: {_one_line(error)}") from error


def strips(height: int, width: int) -> Iterator[slice]:
    """The rows of an image in strips of about 2^22 pixels, for work that needs many bytes per pixel."""
    step = max(1, 2**22 // width)
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def _deep_values(image: PIL.Image.Image) -> np.ndarray:
    """The values of a gray image of more than 8 bits, larger ones brighter."""
    values = np.array(image)
    # Pillow itself inverts TIFF files in which 0 is white, but not those of 16 bits.
    white_is_zero = image.mode.startswith("I;16") and getattr(image, "tag_v2", {}).get(PHOTOMETRIC_TAG) == 0
    return 65535 - values if white_is_zero else values


PHOTOMETRIC_TAG = 262


def _deep_gray(values: np.ndarray) -> np.ndarray:
    """Gray pixels of more than 8 bits as uint8, rounded."""
    if np.issubdtype(values.dtype, np.floating):
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):
            raise ImageError(f"float pixels reach from {low:g} to {high:g}; [0, 1] is needed")
        return np.round(values * 255).astype(np.uint8)
    # In some formats and versions Pillow opens 16-bit files in its 32-bit mode "I". 65535 / 257 is exactly 255.
    return np.round(np.clip(values, 0, 65535) / np.float32(257)).astype(np.uint8)


@contextmanager
def _opened(source: ImageSource, name: str, max_pixels: int | None) -> Iterator[PIL.Image.Image]:
    """The image that Pillow opens without reading its pixels; it has at most `max_pixels`."""
    from superpoint_jax.processing.formats import jxl_size

    path = Path(source) if isinstance(source, str | os.PathLike) else None
    if path is not None:
        _check_file(path, name)
    with path.open("rb") if path is not None else nullcontext(source) as file:
        if (size := jxl_size(file)) is not None:
            _check_pixels(size, name, max_pixels)
        with _recognized(file, name) as image:
            _check_pixels((image.height, image.width), name, max_pixels)
            yield image


def _check_file(path: Path, name: str) -> None:
    try:
        require_regular(path)
        empty = path.stat().st_size == 0
    except FileNotFoundError as error:
        if is_url(name):
            raise ImageError(f"{name}: a URL is not opened; download the file and give its path") from error
        raise ImageError(f"{name}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: the name has a null character.
        raise ImageError(f"{name}: {_one_line(error)}") from error
    if empty:
        raise ImageError(f"{name}: the file is empty")


def _recognized(file: Any, name: str) -> PIL.Image.Image:
    """The image in an open file, at its largest picture; its size is not limited."""
    from PIL import Image, UnidentifiedImageError

    from superpoint_jax.processing.formats import RawImage, formats, missing_package, seek_largest

    # Pillow's limit is a global of its module. It is switched off here, because `max_pixels` is an argument.
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            if name.lower().endswith(RAW_SUFFIXES):
                return RawImage(file)
            image = Image.open(file, formats=formats())
            seek_largest(image)
            return image
        except UnidentifiedImageError as error:
            hint = missing_package(file) or f"not an image of a format that is read here ({', '.join(formats())})"
            raise ImageError(f"{name}: {hint}") from error
        except Exception as error:  # See load_image: headers can be damaged too.
            raise ImageError(f"{name}: can't be read: {_one_line(error)}") from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if error.args and isinstance(error.args[0], bytes):  # LibRaw's messages.
        return error.args[0].decode(errors="replace")
    return " ".join(str(error).split()) or type(error).__name__
