"""Photos for the comparison: the user's, or those in scikit-image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from superpoint_jax.processing import load_image

DEFAULT = ("camera", "coffee", "chelsea", "rocket", "coins", "page")
"""Six photos of scikit-image, of six sizes; half of the sizes are not multiples of 8."""


def load_photos(paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """Gray images [H,W] by name, float32 in [0, 1].

    Raises:
        ImageError: A file can't be read as an image.
        ImportError: No path is given, and scikit-image is not installed.
    """
    if paths:
        return {str(path): _gray(load_image(path)) for path in paths}
    try:
        from skimage import data
    except ImportError as error:
        raise ImportError("scikit-image, whose photos are the default, is not installed; give --images") from error
    return {name: _gray(getattr(data, name)()) for name in DEFAULT}


def _gray(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).convert("L"), np.float32) / np.float32(255)
