"""A picture of cameras and points in space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from superpoint_jax.visualization.canvas import BACKGROUND, DPI

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDE_PX = 960
MOST_POINTS = 20_000
"""At most this many points are drawn; of more, some are drawn at random."""
OUTLIERS = 0.02
"""This part of the points, on each side of each axis, does not widen the view."""
CAMERA_SIZE = 0.06
"""Depth of the pyramid of a camera, relative to the width of the view."""


def draw_scene(
    points_xyz: Float[np.ndarray, "n 3"],
    colours: UInt8[np.ndarray, "n 3"],
    poses: Float[np.ndarray, "m 3 4"],
) -> Axes:
    """Axes with points and with cameras as pyramids, from dark to yellow in their order, seen obliquely from above.

    Args:
        points_xyz: Points in the frame of the world.
        colours: Their colours, RGB.
        poses: The pose world-from-camera of each camera, whose x is to the right, y down and z forward. What is up in
            the picture is up for the cameras on average.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from mpl_toolkits.mplot3d import Axes3D

    turn = _upright(-poses[:, :, 1].mean(axis=0))
    points, poses = points_xyz @ turn.T, turn @ poses
    chosen = np.random.default_rng(0).permutation(len(points))[:MOST_POINTS]
    centres = poses[:, :, 3]
    inner = np.quantile(points, [OUTLIERS, 1 - OUTLIERS], axis=0) if len(points) else centres
    least, most = (edge(np.concatenate([inner, centres]), axis=0) for edge in (np.min, np.max))
    middle, width = (least + most) / 2, max(float(np.max(most - least)), 1e-9)

    figure = Figure(figsize=(SIDE_PX / DPI, SIDE_PX / DPI), dpi=DPI, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    axes = figure.add_axes(Axes3D(figure, (0, 0, 1, 1), auto_add_to_figure=False))
    assert isinstance(axes, Axes3D)
    axes.set_facecolor(BACKGROUND)
    axes.set_axis_off()
    axes.view_init(elev=35, azim=-60)
    chosen = chosen[np.all(np.abs(points[chosen] - middle) <= width, axis=1)]
    axes.scatter(*points[chosen].T, c=colours[chosen] / 255, s=3, linewidths=0, depthshade=False)
    depth = CAMERA_SIZE * width
    corners = depth * np.array([[-0.7, -0.5, 1], [0.7, -0.5, 1], [0.7, 0.5, 1], [-0.7, 0.5, 1]])
    outline = np.array([0, 1, 2, 3, 0])
    for pose, colour in zip(poses, mpl.colormaps["viridis"](np.linspace(0.2, 1, len(poses))), strict=True):
        ends = corners @ pose[:, :3].T + pose[:, 3]
        axes.plot(*ends[outline].T, color=colour, linewidth=1)
        for end in ends:
            axes.plot(*np.stack([pose[:, 3], end]).T, color=colour, linewidth=1)
    for set_limits, centre in zip((axes.set_xlim, axes.set_ylim, axes.set_zlim), middle, strict=True):
        set_limits(centre - 0.4 * width, centre + 0.4 * width)
    axes.set_box_aspect((1, 1, 1))
    return axes


def _upright(up: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    """A rotation that turns a direction to the z axis."""
    length = np.linalg.norm(up)
    z = up / length if length > 1e-6 else np.array([0.0, 0, 1])
    x = np.cross(z, np.eye(3)[np.argmin(np.abs(z))])
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])
