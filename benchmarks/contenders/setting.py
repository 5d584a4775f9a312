"""The setting of a measurement, and the data that all contenders process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Suite = Literal["network", "decoding", "end-to-end", "match", "lightglue", "preprocessing", "train-step"]


@dataclass(frozen=True)
class Setting:
    """`batch` photos of (height, width), and the largest number of keypoints per photo."""

    batch: int
    height: int
    width: int
    max_keypoints: int


class NotAvailable(Exception):
    """The reason why a contender can't take part in a suite."""


def photo(setting: Setting) -> np.ndarray:
    """Matplotlib's photo, resized, `batch` times, as float32 [B,H,W,1] in [0, 1]."""
    gray = _photo(setting.height, setting.width, "L").astype(np.float32) / 255
    return np.ascontiguousarray(np.broadcast_to(gray[None, :, :, None], (setting.batch, *gray.shape, 1)))


def camera_photo(setting: Setting) -> np.ndarray:
    """The same photo as from a camera: uint8 RGB [2H,2W,3]."""
    return _photo(2 * setting.height, 2 * setting.width, "RGB")


def descriptor_sets(setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Unit-length descriptors of two images, float32 [B,K,256] each; half of them are near one of the other image."""
    rng = np.random.default_rng(0)
    a, b, noise = rng.normal(size=(3, setting.batch, setting.max_keypoints, 256)).astype(np.float32)
    half = setting.max_keypoints // 2
    b[:, :half] = a[:, :half] + 0.5 * noise[:, :half]
    return tuple(x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))  # pyright: ignore[reportReturnType]


def keypoint_pairs(setting: Setting) -> np.ndarray:
    """Keypoints of two images, float32 [B,2,K,2], in pixels."""
    size = np.array([setting.width - 1, setting.height - 1])
    return (np.random.default_rng(1).random((setting.batch, 2, setting.max_keypoints, 2)) * size).astype(np.float32)


def training_batch(setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Images [B,H,W,1] and the class of each cell [B,H/8,W/8] in 0..64, mostly 64 (no keypoint)."""
    rng = np.random.default_rng(0)
    cells = (setting.batch, setting.height // 8, setting.width // 8)
    classes = np.where(rng.random(cells) < 0.15, rng.integers(0, 64, cells), 64)
    return photo(setting), classes.astype(np.int32)


def _photo(height: int, width: int, mode: str) -> np.ndarray:
    from matplotlib.cbook import get_sample_data
    from PIL import Image

    with Image.open(str(get_sample_data("grace_hopper.jpg", asfileobj=False))) as image:
        return np.asarray(image.convert(mode).resize((width, height), Image.Resampling.LANCZOS))
