"""Pictures of the dense outputs of the network: score map and descriptor map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from superpoint_jax.config import CELL_PX
from superpoint_jax.visualization.canvas import Image, rgb, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_score_map(scores: Float[Any, "h w"], *, image: Image | None = None, axes: Axes | None = None) -> Axes:
    """Axes with the cube root of the score of each pixel as a heat map; drawn over the image if one is given."""
    from matplotlib import colormaps

    scores = np.asarray(scores, np.float32)
    strength = np.cbrt(np.maximum(scores, 0) / max(float(scores.max()), 1e-12))
    if image is None:
        return show(colormaps["viridis"](strength)[..., :3], axes)
    # Peaks are single pixels, which are hard to see: they are enlarged to 3x3 pixels, and the photo is dimmed.
    padded = np.pad(strength, 1)
    strength = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).max(axis=(2, 3))
    backdrop = 0.6 / 255 * np.repeat(rgb(image).mean(axis=2, dtype=np.float32)[..., None], 3, axis=2)
    return show(backdrop + strength[..., None] * (colormaps["viridis"](strength)[..., :3] - backdrop), axes)


def draw_descriptor_map(descriptors: Float[Any, "h w d"], *, axes: Axes | None = None) -> Axes:
    """Axes with the dense descriptors of one image, coloured by their three principal components.

    Cells with similar colours have similar descriptors. In the perceptual colour space Oklab, the first component is
    lightness, the second blue to yellow, the third green to red. So people who can't distinguish red from green lose
    only the weakest component. A cell is 8x8 pixels of the image.
    """
    values = np.asarray(descriptors, np.float64)
    height, width, dim = values.shape
    flat = values.reshape(-1, dim) - values.mean(axis=(0, 1))
    _, axes_of_variance = np.linalg.eigh(flat.T @ flat)
    components = flat @ axes_of_variance[:, : -4 if dim > 3 else None : -1]
    components = np.pad(components, ((0, 0), (0, 3 - components.shape[1])))
    low, high = np.percentile(components, [2, 98], axis=0)
    unit = np.clip((components - low) / np.maximum(high - low, 1e-12), 0, 1)
    lab = np.stack([0.35 + 0.5 * unit[:, 0], 0.16 * unit[:, 2] - 0.08, 0.3 * unit[:, 1] - 0.15], axis=1)
    return show(_oklab_to_srgb(lab).reshape(height, width, 3), axes, zoom=CELL_PX, interpolation="bicubic")


def _oklab_to_srgb(lab: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """The colours in sRGB, clipped to [0, 1].

    Source: B. Ottosson, "A perceptual color space for image processing", 2020; the transfer curve is IEC 61966-2-1.
    """
    to_lms = np.array(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip((lab @ to_lms.T) ** 3 @ to_rgb.T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
