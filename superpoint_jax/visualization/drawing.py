"""Pictures of keypoints, matches and tracks on photos."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from superpoint_jax.features import Keypoints
from superpoint_jax.matching import Matches
from superpoint_jax.tracking import Tracks
from superpoint_jax.visualization.canvas import BACKGROUND, CORRECT, INLIER, OUTLIER, WRONG, Image, rgb, show, unit_pt

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_keypoints(image: Image, keypoints: Keypoints, *, axes: Axes | None = None) -> Axes:
    """Axes with an image and its keypoints, larger and more yellow for a higher score.

    Sizes and colours show the square root of the score relative to the highest score, because most scores are small.
    """
    keypoints_xy, scores = _rows(keypoints)
    axes = show(image, axes)
    order = np.argsort(scores, kind="stable")  # The highest scores are drawn on top.
    strength = np.sqrt(scores / max(scores.max(initial=0), 1e-12))[order]
    unit = unit_pt(axes)
    axes.scatter(
        *keypoints_xy[order].T,
        s=(unit * (4 + 8 * strength)) ** 2,
        c=strength,
        cmap="viridis",
        vmin=0,
        vmax=1,
        linewidths=unit,
        edgecolors=BACKGROUND,
    )
    return axes


def draw_matches(
    image_a: Image,
    image_b: Image,
    keypoints_a: Keypoints,
    keypoints_b: Keypoints,
    matches: Matches,
    *,
    correct: Bool[Any, " k"] | None = None,
    inliers: Bool[Any, " k"] | None = None,
    max_lines: int | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Axes with two images side by side and one line per match.

    Lines are more yellow for a higher score. With `inliers`, the lines of other matches are gray and behind. With
    `correct`, the lines of correct matches are green and those of wrong ones orange.

    Args:
        image_a: Left image.
        image_b: Right image, aligned at the top.
        keypoints_a: Keypoints of image a.
        keypoints_b: Keypoints of image b.
        matches: Matches of a in b, of one pair.
        correct: True for each keypoint of a whose match is correct. The counts are written in the corner.
        inliers: True for each keypoint of a whose match agrees with an estimated model. The counts are written in the
            corner. It can't be combined with `correct`.
        max_lines: Draw at most this many matches, those with the highest scores. The counts are still those of all
            matches.
        axes: Axes to draw on; (x, y) are pixels of image a, and image b begins at x = width of a.
    """
    from matplotlib.colors import to_rgba

    canvas, shift = _side_by_side(image_a, image_b)
    axes = show(canvas, axes)
    rows = np.flatnonzero(_one(matches.mask))
    scores = _one(matches.scores)[rows]
    start_xy = _one(keypoints_a.keypoints, 2)[rows]
    end_xy = _one(keypoints_b.keypoints, 2)[_one(matches.indices)[rows]] + [shift, 0]
    is_correct = None if correct is None else np.asarray(correct)[rows]
    is_inlier = None if inliers is None else _one(inliers)[rows]

    order = np.argsort(scores, kind="stable")
    if is_inlier is not None:
        order = order[np.argsort(is_inlier[order], kind="stable")]  # Inliers are drawn on top.
    if max_lines is not None:
        order = order[len(order) - min(max_lines, len(order)) :]
    colors = _viridis(scores[order]) if is_correct is None else np.where(is_correct[order], CORRECT, WRONG)
    if is_inlier is not None:
        colors = np.where(is_inlier[order, None], colors, to_rgba(OUTLIER))
    axes.axvline(shift - 0.5, color=BACKGROUND, linewidth=3 * unit_pt(axes))
    _draw_lines(axes, np.stack([start_xy, end_xy], axis=1)[order], colors)
    if is_correct is not None:
        count = int(is_correct.sum())
        _legend(axes, [(CORRECT, f"{count} correct"), (WRONG, f"{len(rows) - count} wrong")])
    if is_inlier is not None:
        count = int(is_inlier.sum())
        _legend(axes, [(INLIER, f"{count} inliers"), (OUTLIER, f"{len(rows) - count} others")])
    return axes


def draw_tracks(image: Image, tracks: Tracks, *, min_age: int = 1, axes: Axes | None = None) -> Axes:
    """Axes with a frame and the path of each keypoint in earlier frames; older tracks are thicker and more yellow.

    Args:
        image: The newest frame.
        tracks: Tracks of one sequence in the newest frame.
        min_age: Tracks younger than this many frames are not drawn.
        axes: Axes to draw on.
    """
    from matplotlib.collections import LineCollection

    ages, points_xy = _one(tracks.ages), _one(tracks.points_xy, 3)
    rows = np.flatnonzero(_one(tracks.mask) & (ages >= min_age))
    rows = rows[np.argsort(ages[rows], kind="stable")]  # The oldest tracks are drawn on top.
    length = points_xy.shape[1]
    # Tracks that fill all remembered positions have the full colour.
    strength = np.minimum(ages[rows] / max(length - 1, 1), 1)
    axes = show(image, axes)
    unit, colors = unit_pt(axes), _viridis(strength, (0.0, 1.0))
    lines = [points_xy[row, : min(ages[row] + 1, length)] for row in rows]
    axes.add_collection(LineCollection(lines, colors=BACKGROUND, linewidths=3.5 * unit, alpha=0.6))
    axes.add_collection(LineCollection(lines, colors=colors, linewidths=(1 + strength) * unit))
    axes.scatter(*points_xy[rows, 0].T, s=(6 * unit) ** 2, c=colors, linewidths=0.5 * unit, edgecolors=BACKGROUND)
    return axes


def _side_by_side(image_a: Image, image_b: Image) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
    """Both images on one dark canvas, and the x at which the second begins."""
    left, right = rgb(image_a), rgb(image_b)
    canvas = np.full(
        (max(len(left), len(right)), left.shape[1] + right.shape[1], 3), int(BACKGROUND[1:3], 16), np.uint8
    )
    canvas[: len(left), : left.shape[1]] = left
    canvas[: len(right), left.shape[1] :] = right
    return canvas, left.shape[1]


def _rows(keypoints: Keypoints) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
    mask = _one(keypoints.mask)
    return _one(keypoints.keypoints, 2)[mask], _one(keypoints.scores)[mask]


def _one(values: Shaped[Any, "*_shape"], ndim: int = 1) -> np.ndarray:
    """The values of a single image, with or without a batch axis of length 1."""
    array = np.asarray(values)
    if array.ndim == ndim + 1 and len(array) == 1:
        return array[0]
    if array.ndim != ndim:
        raise ValueError(f"a batch of shape {array.shape} was given; one image is drawn at a time: features[i]")
    return array


def _viridis(scores: Float[np.ndarray, " n"], span: tuple[float, float] | None = None) -> np.ndarray:
    """Colours of the scores over a span, by default from the lowest to the highest score.

    The darkest fifth of viridis is left out, because it can't be seen on a photo.
    """
    from matplotlib import colormaps

    low, high = span or (scores.min(initial=np.inf), scores.max(initial=-np.inf))
    return colormaps["viridis"](0.2 + 0.8 * (scores - low) / max(high - low, 1e-12))


def _draw_lines(axes: Axes, segments_xy: Float[np.ndarray, "n 2 2"], colors: np.ndarray) -> None:
    from matplotlib.collections import LineCollection

    unit = unit_pt(axes)
    # The more lines there are, the more transparent they are.
    crowd = np.clip(200 / max(len(segments_xy), 1), 0.3, 1)
    axes.add_collection(
        LineCollection(list(segments_xy), colors=colors, linewidths=1.2 * unit, alpha=0.35 + 0.5 * crowd)
    )
    axes.scatter(*segments_xy.reshape(-1, 2).T, s=(3 * unit) ** 2, c=np.repeat(colors, 2, axis=0), linewidths=0)


def _legend(axes: Axes, entries: list[tuple[str, str]]) -> None:
    """Draw a legend in the lower left corner, with a dot of each colour and its text."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], linestyle="", marker="o", color=color, label=text) for color, text in entries]
    legend = axes.legend(
        handles=handles,
        loc="lower left",
        ncols=len(handles),
        fontsize=16 * unit_pt(axes),
        labelcolor="white",
        facecolor=BACKGROUND,
        edgecolor="none",
        framealpha=0.8,
        handletextpad=0.2,
        columnspacing=1.2,
    )
    legend.set_zorder(10)
