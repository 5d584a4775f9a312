"""The formats that Pillow reads here, and what opens those that it does not read by itself.

HEIC, JPEG XL and the raw files of cameras need the packages of the extra [photos].
"""

from __future__ import annotations

import functools
import io
from contextlib import suppress
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image, ImageFile

from superpoint_jax.processing.orientation import ORIENTATION_TAG

FORMATS = ("PPM", "PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "AVIF", "HEIF", "JXL")
"""Names in Pillow of the formats that are read, where Pillow has them. Other formats are never opened, because some of
them start programs (EPS) or read other files."""

EXTRA = "pip install 'superpoint-jax[photos]'"


@functools.cache
def formats() -> list[str]:
    """The formats that Pillow reads here, after those of installed packages were added."""
    Image.init()
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    with suppress(ImportError):
        import pillow_jxl  # noqa: F401 (adds its format when it is imported)
    return [format for format in FORMATS if format in Image.OPEN]


def missing_package(file: Any) -> str | None:
    """What to install to read an open binary file that Pillow did not recognize, if its first bytes tell that."""
    file.seek(0)
    head = file.read(12)
    if head[4:8] == b"ftyp" and "HEIF" not in formats():
        return f"HEIC needs pillow-heif: {EXTRA}"
    if _is_jxl(head) and "JXL" not in formats():
        return f"JPEG XL needs pillow-jxl-plugin: {EXTRA}"
    return None


def seek_largest(image: Image.Image) -> None:
    """Go to the largest picture of a file that holds several pages, or a photo and its thumbnails.

    Without a larger one it stays at the one that Pillow opens. Animations have pictures of one size.
    """
    if image.format not in ("TIFF", "MPO", "HEIF"):
        return
    best, most = image.tell(), image.width * image.height
    with suppress(Exception):  # What is behind a damaged page is not looked at.
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            if image.width * image.height > most:
                best, most = number, image.width * image.height
    image.seek(best)


class RawImage(ImageFile.ImageFile):
    """A raw file, developed by LibRaw with the white balance of the camera, as Pillow's other images are.

    Its size is known before it is developed.
    """

    format = "RAW"

    def _open(self) -> None:
        try:
            import rawpy
        except ImportError as error:
            raise ImportError(f"raw files need rawpy: {EXTRA}") from error
        assert self.fp is not None
        self.fp.seek(0)
        self._raw: Any = rawpy.imread(cast(BinaryIO, self.fp))
        sizes = self._raw.sizes
        self._mode, self._size = "RGB", (sizes.iwidth, sizes.iheight)
        self.getexif()[ORIENTATION_TAG] = {3: 3, 5: 8, 6: 6}.get(sizes.flip, 1)

    def load(self) -> Any:
        """Develop the pixels, as they are stored."""
        if self._raw is not None:
            with self._raw as raw:
                pixels = raw.postprocess(use_camera_wb=True, user_flip=0, output_bps=8)
            self._raw, self.im = None, Image.fromarray(np.ascontiguousarray(pixels)).im
            self._size = self.im.size
        return self.im.pixel_access(self.readonly)


def _is_jxl(head: bytes) -> bool:
    return head[:2] == b"\xff\x0a" or head[:12] == b"\0\0\0\x0cJXL \r\n\x87\n"


def jxl_size(file: Any) -> tuple[int, int] | None:
    """(height, width) in the header of an open binary file in JPEG XL; None for other files.

    The plugin of Pillow decodes a file when it opens it, so that its size has to be judged before.

    Source: ISO/IEC 18181-1 (size header) and 18181-2 (boxes).
    """
    file.seek(0)
    head = file.read(12)
    if not _is_jxl(head):
        return None
    if head[:2] == b"\xff\x0a":
        file.seek(2)
        return _size_header(file.read(12))
    while len(box := file.read(8)) == 8:
        length, kind = int.from_bytes(box[:4]), box[4:]
        used = 8
        if length == 1:
            length, used = int.from_bytes(file.read(8)), 16
        if kind in (b"jxlc", b"jxlp"):
            file.seek(2 if kind == b"jxlc" else 6, io.SEEK_CUR)
            return _size_header(file.read(12))
        if length < used:
            break
        file.seek(length - used, io.SEEK_CUR)
    return None


def _size_header(data: bytes) -> tuple[int, int]:
    bits = int.from_bytes(data, "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    height, ratio = side(), take(3)
    if ratio == 0:
        return height, side()
    over, under = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return height, height * over // under
