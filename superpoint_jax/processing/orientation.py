"""The two frames of a photo with EXIF data: as its pixels are stored, and upright, as it is shown.

The orientation is EXIF's number: 1 where both are the same, 2 to 4 mirrored or turned by 180 degrees, and 5 to 8 with
height and width exchanged.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Shaped

if TYPE_CHECKING:
    import PIL.Image

ORIENTATION_TAG = 0x0112

_MIRRORED_X = (2, 3, 7, 8)
_MIRRORED_Y = (3, 4, 6, 7)
_EXCHANGED = (5, 6, 7, 8)


def orientation_of(image: PIL.Image.Image) -> int:
    """The orientation of an open image, from 1 to 8; 1 if it has none or its EXIF data is damaged."""
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        return 1  # The decoder has turned it already. Source: ISO/IEC 18181-2, of Exif data.
    with suppress(Exception):  # Damaged data can raise nearly anything.
        value = int(image.getexif().get(ORIENTATION_TAG, 1))
        return value if 1 <= value <= 8 else 1
    return 1


def upright_size(stored: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(height, width) of the upright image; it is its own inverse."""
    return (stored[1], stored[0]) if orientation in _EXCHANGED else stored


def upright(stored: Shaped[np.ndarray, "h w *c"], orientation: int) -> Shaped[np.ndarray, "h2 w2 *c"]:
    """The upright pixels of an image whose pixels are given as they are stored."""
    if orientation in _MIRRORED_X:
        stored = stored[:, ::-1]
    if orientation in _MIRRORED_Y:
        stored = stored[::-1]
    return np.ascontiguousarray(stored.swapaxes(0, 1) if orientation in _EXCHANGED else stored)


def to_stored_frame(
    keypoints_xy: Float[np.ndarray, "n 2"], size: tuple[int, int], orientation: int
) -> tuple[Float[np.ndarray, "n 2"], tuple[int, int]]:
    """The places (x, y) in pixels of the stored image, and its (height, width).

    Args:
        keypoints_xy: Places in pixels of the upright image, pixel centres at integers.
        size: (height, width) of the upright image.
        orientation: EXIF's number.
    """
    height, width = stored = upright_size(size, orientation)
    x, y = keypoints_xy[:, ::-1].T if orientation in _EXCHANGED else keypoints_xy.T
    x = width - 1 - x if orientation in _MIRRORED_X else x
    y = height - 1 - y if orientation in _MIRRORED_Y else y
    return np.stack([x, y], axis=1).astype(keypoints_xy.dtype), stored
