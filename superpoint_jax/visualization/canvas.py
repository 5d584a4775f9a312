"""The basis of every picture: axes that fill a figure, an image on them, and the colours."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Image = Any
"""[h,w], [h,w,1] or [h,w,3], uint8 or float in [0, 1]; numpy or jax."""

CORRECT, WRONG = "#009e73", "#e69f00"
"""Okabe and Ito's bluish green and orange."""
INLIER, OUTLIER = "#73d056", "#8a8a8a"
"""A colour of viridis that stands for all of its colours in a legend, and a gray."""
BACKGROUND = "#141414"
DPI = 100
LONG_SIDE_PX = (960, 1920)
"""Smallest and largest longer side of a new figure, in pixels; smaller and larger images are scaled to it."""


def new_axes(height: int, width: int) -> Axes:
    """Axes that fill a new figure, for an image of that size: (x, y) in its pixels, centres at integers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    longer = max(height, width)
    zoom = np.clip(longer, *LONG_SIDE_PX) / longer
    # The shorter side is at least 16 pixels, also for long strips.
    size_px = np.maximum(np.round(np.array([width, height]) * zoom), 16)
    figure = Figure(figsize=tuple(size_px / DPI), dpi=DPI, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    return axes


def save(axes: Axes, path: str | os.PathLike[str]) -> None:
    """Write the figure of the axes; the suffix of the path decides the format (.png, .jpg, .pdf, .svg, ...).

    Raises:
        ValueError: Matplotlib can't write files with this suffix.
        OSError: The file can't be written.
    """
    _figure(axes).savefig(path, dpi="figure")


def to_pixels(axes: Axes) -> UInt8[np.ndarray, "h w 3"]:
    """The figure of the axes as an RGB image, for a video or a notebook."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(_figure(axes))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def show(image: Image, axes: Axes | None, zoom: int = 1, interpolation: str = "antialiased") -> Axes:
    """The axes with the image on them, where one pixel of the image is `zoom` pixels of the coordinates."""
    pixels = rgb(image)
    height, width = pixels.shape[0] * zoom, pixels.shape[1] * zoom
    axes = new_axes(height, width) if axes is None else axes
    axes.imshow(_reduced(pixels), extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation=interpolation)
    axes.set_axis_off()
    # What is drawn later, for example a keypoint at the border, must not change the view.
    axes.set_autoscale_on(False)
    return axes


def unit_pt(axes: Axes) -> float:
    """A thousandth of the longer side of the axes, in points, so that markers look alike in figures of any size."""
    box = axes.get_window_extent()
    return max(box.width, box.height) / 1000 * 72 / _figure(axes).dpi


def _reduced(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The image reduced to the largest figure, because matplotlib keeps several copies of an image as floats."""
    from PIL import Image as Pillow

    factor = max(pixels.shape) / LONG_SIDE_PX[1]
    if factor <= 1:
        return pixels
    size = tuple(max(round(side / factor), 1) for side in pixels.shape[1::-1])
    return np.asarray(Pillow.fromarray(pixels).resize(size, Pillow.Resampling.BOX))


def rgb(image: Image) -> UInt8[np.ndarray, "h w 3"]:
    """The image as three channels of bytes, from any type and number of channels."""
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise ValueError(f"the image has shape {np.shape(image)}; a single image [h,w], [h,w,1] or [h,w,3] is needed")
    if pixels.dtype != np.uint8:
        pixels = np.round(np.clip(pixels.astype(np.float32), 0, 1) * 255).astype(np.uint8)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def _figure(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("these axes have been removed from their figure")
    return figure
