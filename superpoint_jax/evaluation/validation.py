"""Metrics for validation during training: fast, on the device, on a fixed set of photos and homographies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from superpoint_jax.estimation import estimate_homography
from superpoint_jax.evaluation.images import warp_mirrored
from superpoint_jax.evaluation.metrics import corner_error
from superpoint_jax.evaluation.report import FIGURES_PX
from superpoint_jax.extraction import extract
from superpoint_jax.features import Keypoints
from superpoint_jax.geometry import in_front, inverse, sample_homographies, warp_points
from superpoint_jax.matching import Matches, match
from superpoint_jax.model import SuperPoint
from superpoint_jax.training.labelled import photos_in
from superpoint_jax.training.metrics import filled_batches

VALIDATION_SHAPE = (240, 320)
"""(height, width) of the centre crops of photos for validation; the paper evaluates at this size."""
VALIDATION_PHOTOS = 64


def validation_metrics(
    model: SuperPoint,
    images: Float[Array, "n h w 1"],
    homographies: Float[Array, "n 3 3"],
    *,
    views: Float[Array, "n h w 1"] | None = None,
    max_keypoints: int = 300,
    keypoint_threshold: float = 0.0,
    threshold_px: float = 3.0,
    batch_size: int = 16,
    homography: bool = True,
    **options: Any,
) -> dict[str, float]:
    """Repeatability, localisation error, matching accuracy and score, homography accuracy: means over the pairs.

    The names are those of `Evaluation.summary`, and for the same keypoints the values agree within float32. The
    function is compiled once per shape of images and set of options.

    Args:
        model: A model, as for `extract`.
        images: Held-out photos of one size.
        homographies: From each photo to the view that it is compared with.
        views: The views, if they are more than warped photos (for example with changed light). By default the photos
            are warped, with mirror images beyond their borders.
        max_keypoints: Largest number of keypoints; the paper uses 300 for 240x320 pixels.
        keypoint_threshold: Smallest score of a keypoint; with 0, models are compared at the same number of keypoints.
        threshold_px: See `evaluate_pairs`.
        batch_size: Pairs on the device at a time.
        homography: Also estimate homographies, with OpenCV on the host.
        **options: Other options of `extract`.
    """
    options.update(max_keypoints=max_keypoints, keypoint_threshold=keypoint_threshold)
    parts, corner_errors = [], []
    for rows, used in filled_batches(len(images), batch_size):
        given_views = None if views is None else views[rows]
        a, b, matches = _features(model, images[rows], homographies[rows], given_views, **options)
        figures = pair_figures(a, b, matches, homographies[rows], threshold_px=threshold_px)
        parts.append({name: np.asarray(values)[:used] for name, values in figures.items()})
        if homography:
            shape = (images.shape[1], images.shape[2])
            truths = np.asarray(homographies[rows[:used]], np.float64)
            corner_errors += _corner_errors(a[:used], b[:used], matches[:used], truths, shape, threshold_px)
    means = {name: _mean(np.concatenate([part[name] for part in parts])) for name in parts[0]}
    if homography:
        for px in FIGURES_PX:
            means[f"homography_accuracy_{px}px"] = float(np.mean(np.array(corner_errors) <= px))
    return means


@jax.jit
def pair_figures(
    a: Keypoints,
    b: Keypoints,
    matches: Matches,
    homographies: Float[Array, "n 3 3"],
    *,
    threshold_px: float | Array = 3.0,
) -> dict[str, Float[Array, " n"]]:
    """The metrics of each pair that need no estimated homography; `superpoint_jax.evaluation.metrics` defines them.

    Args:
        a: Keypoints of the first images.
        b: Keypoints of the second images.
        matches: Matches of a in b.
        homographies: From the first images to the second.
        threshold_px: See `validation_metrics`.
    """
    warped_a, seen_a = _warped(homographies, a, b)
    _, seen_b = _warped(inverse(homographies), b, a)
    distances = jnp.linalg.norm(warped_a[:, :, None] - b.keypoints[:, None], axis=-1)
    distances = jnp.where(seen_a[:, :, None] & seen_b[:, None], distances, jnp.inf)
    nearest = jnp.concatenate([jnp.min(distances, axis=2), jnp.min(distances, axis=1)], axis=1)
    repeated = nearest <= threshold_px
    num_repeated = jnp.sum(repeated, axis=1)
    seen = jnp.sum(seen_a, axis=1), jnp.sum(seen_b, axis=1)

    partner = jnp.maximum(matches.indices, 0)
    partner_xy = jnp.take_along_axis(b.keypoints, partner[..., None], axis=1)
    errors = jnp.where(matches.mask, jnp.linalg.norm(warped_a - partner_xy, axis=-1), jnp.inf)
    # Behind the horizon, the mapped positions have no meaning.
    errors = jnp.where(in_front(homographies, a.keypoints), errors, jnp.inf)
    correct = (errors <= threshold_px) & seen_a & jnp.take_along_axis(seen_b, partner, axis=1)
    num_correct = jnp.sum(correct, axis=1)
    num_matches = jnp.sum(matches.mask, axis=1)
    figures = {
        "keypoints": (jnp.sum(a.mask, axis=1) + jnp.sum(b.mask, axis=1)) / 2,
        "matches": num_matches.astype(jnp.float32),
        "repeatability": num_repeated / jnp.maximum(seen[0] + seen[1], 1),
        "localization_error": jnp.where(
            num_repeated > 0, jnp.sum(jnp.where(repeated, nearest, 0), axis=1) / jnp.maximum(num_repeated, 1), jnp.nan
        ),
        "matching_score": sum(num_correct / jnp.maximum(number, 1) for number in seen) / 2,
    }
    for px in FIGURES_PX:
        figures[f"matching_accuracy_{px}px"] = jnp.sum(errors <= px, axis=1) / jnp.maximum(num_matches, 1)
    return figures


def _features(
    model: SuperPoint, images: Array, homographies: Array, views: Array | None, **options: Any
) -> tuple[Keypoints, Keypoints, Matches]:
    views = warp_mirrored(images, homographies) if views is None else views
    a, b = extract(model, images, **options), extract(model, views, **options)
    return a, b, match(a, b)


def _warped(homographies: Array, points: Keypoints, target: Keypoints) -> tuple[Array, Bool[Array, "n k"]]:
    """The keypoints mapped to the other images, and the mask of those visible there."""
    warped_xy = warp_points(homographies, points.keypoints)
    size_xy = target.image_sizes[:, None, ::-1].astype(jnp.float32)
    inside = jnp.all((warped_xy >= -0.5) & (warped_xy < size_xy - 0.5), axis=-1)
    return warped_xy, inside & points.mask & in_front(homographies, points.keypoints)


def _corner_errors(
    a: Keypoints, b: Keypoints, matches: Matches, truths: np.ndarray, shape: tuple[int, int], threshold_px: float
) -> list[float]:
    estimates = estimate_homography(a, b, matches, threshold_px=threshold_px, method="ransac")
    return [
        corner_error(np.asarray(one.matrix) if one.found else None, truth, shape)
        for one, truth in zip(estimates, truths, strict=True)
    ]


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(np.mean(known)) if len(known) else float("nan")


def photo_validator(folder: str | Path) -> Callable[[SuperPoint], dict[str, float]]:
    """A function that maps a model to its metrics on the first photos of a folder, with one fixed warp of each.

    Homographies are estimated if OpenCV is installed.

    Raises:
        ValueError: The folder has no photo that can be read.
    """
    from PIL import Image

    height, width = VALIDATION_SHAPE
    crops = []
    for _, pixels in photos_in(folder):
        zoom = max(height / pixels.height, width / pixels.width)
        size = max(width, round(pixels.width * zoom)), max(height, round(pixels.height * zoom))
        x, y = (size[0] - width) // 2, (size[1] - height) // 2
        resized = pixels.resize(size, Image.Resampling.LANCZOS)
        crops.append(np.asarray(resized.crop((x, y, x + width, y + height)), np.float32)[..., None] / 255)
        if len(crops) == VALIDATION_PHOTOS:
            break
    if not crops:
        raise ValueError(f"{folder}: none of the photos can be read; some are needed for validation")
    homographies = sample_homographies(jax.random.key(0), len(crops), VALIDATION_SHAPE, perspective=0.2)
    return partial(
        validation_metrics,
        images=jnp.asarray(np.stack(crops)),
        homographies=homographies,
        homography=find_spec("cv2") is not None,
    )
