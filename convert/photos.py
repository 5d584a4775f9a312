"""Photos to compare on: the user's, or those that scikit-image carries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

DEFAULT = ("camera", "coffee", "chelsea", "rocket", "coins", "page")
"""Six of scikit-image's, of six sizes; half of them are no multiple of 8."""


def load_photos(paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """name: gray image [H,W], float32 in [0, 1].

    Raises:
        ValueError: A file is no image.
        OSError: It cannot be read.
        ImportError: No path is given and scikit-image is not installed.
    """
    if paths:
        return {str(path): _gray(_open(path)) for path in paths}
    try:
        from skimage import data
    except ImportError as error:
        raise ImportError("scikit-image, whose photos are the default, is not installed; give --images") from error
    return {name: _gray(Image.fromarray(getattr(data, name)())) for name in DEFAULT}


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is no image that Pillow reads; give a photo") from error


def _gray(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L"), np.float32) / np.float32(255)
