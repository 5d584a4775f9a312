"""Matching of two photos of which one may be turned by a quarter, half or three quarters of a circle.

SuperPoint's descriptors change when a photo is turned, and match up to about 30 degrees.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Shaped

from superpoint_jax.estimation import Estimate, estimate_homography
from superpoint_jax.features import Keypoints
from superpoint_jax.matching import Matches, match, stacked
from superpoint_jax.model import SuperPoint
from superpoint_jax.openvino import CompiledSuperPoint
from superpoint_jax.photos.extract_images import extract_images
from superpoint_jax.processing.host import as_array
from superpoint_jax.processing.loading import MAX_IMAGE_PIXELS
from superpoint_jax.processing.orientation import to_stored_frame, upright

Rotations = Literal[1, 2, 4]
"""Try a photo as it is; also upside down; or turned by 0, 90, 180 and 270 degrees."""

_ORIENTATIONS = {0: 1, 90: 8, 180: 3, 270: 6}
"""Degrees counter-clockwise, and EXIF's number for a photo that is shown after it was turned so."""


@dataclass(frozen=True)
class RotatedMatch:
    """The matches of two photos, the second of which was turned.

    Attributes:
        degrees: By how much the second photo was turned, counter-clockwise.
        keypoints: Keypoints of the turned second photo, with places in pixels of the photo as it was given.
        matches: Matches of the first photo in them.
        estimate: The geometry from the first photo to the second as it was given.
    """

    degrees: int
    keypoints: Keypoints
    matches: Matches
    estimate: Estimate


def match_rotations(
    model: SuperPoint | CompiledSuperPoint,
    image_a: Any,
    image_b: Any,
    *,
    rotations: Rotations = 4,
    matched: Callable[[Keypoints, Keypoints], Matches] = match,
    estimate: Callable[[Keypoints, Keypoints, Matches], Estimate] = estimate_homography,
    max_pixels: int | None = MAX_IMAGE_PIXELS,
    **options: Any,
) -> tuple[Keypoints, RotatedMatch]:
    """The keypoints of the first photo, and its matches in the second one, turned so that most matches are inliers.

    All turned photos are extracted together, and matched in one batch. That costs as much as 5 photos instead of 2.

    Args:
        model: A model, or the result of `openvino.choose` or `openvino.compile`.
        image_a: First photo: a path, an open file, a Pillow image or an array.
        image_b: Second photo.
        rotations: How the second photo is turned: 1 not at all, 2 by 0 and 180 degrees, 4 by 0, 90, 180 and 270.
        matched: What matches a batch of one image with a batch of several: `superpoint_jax.match`, with its options set
            by `functools.partial`.
        estimate: The geometry whose inliers are counted: `estimate_homography`, `estimate_fundamental` or a function
            with their arguments.
        max_pixels: Larger files are refused before they are decoded.
        **options: Options of `extract_images`.

    Raises:
        ImageError: A file can't be read as an image.
        ValueError: An array is not an image, or an option is out of range.
        ImportError: OpenCV is not installed.
    """
    first, second = (as_array(image, max_pixels=max_pixels) for image in (image_a, image_b))
    a, *turned = extract_images(model, [first, *turned_images(second, rotations)], max_pixels=max_pixels, **options)
    return a, best_rotation(a, turned, matched=matched, estimate=estimate)


def turned_images(image: Shaped[np.ndarray, "h w *c"], rotations: Rotations) -> list[Shaped[np.ndarray, "_h _w *c"]]:
    """The image turned counter-clockwise, by 0 degrees first.

    Raises:
        ValueError: `rotations` is not 1, 2 or 4.
    """
    return [upright(image, _ORIENTATIONS[degrees]) for degrees in _degrees(rotations)]


def best_rotation(
    a: Keypoints,
    turned: Sequence[Keypoints],
    *,
    matched: Callable[[Keypoints, Keypoints], Matches] = match,
    estimate: Callable[[Keypoints, Keypoints, Matches], Estimate] = estimate_homography,
) -> RotatedMatch:
    """The matches of one image in the best of the turned ones: the one with most inliers, and the first of equals.

    The arguments are those of `rotated_matches`.
    """
    results = rotated_matches(a, turned, matched=matched, estimate=estimate)
    return max(results, key=lambda result: int(np.sum(result.estimate.inliers)))


def rotated_matches(
    a: Keypoints,
    turned: Sequence[Keypoints],
    *,
    matched: Callable[[Keypoints, Keypoints], Matches] = match,
    estimate: Callable[[Keypoints, Keypoints, Matches], Estimate] = estimate_homography,
) -> list[RotatedMatch]:
    """The matches of one image in each of the turned ones, all matched in one batch.

    Args:
        a: Keypoints of one image, as `extract_images` returns them.
        turned: Keypoints of each of `turned_images`, in pixels of the turned image.
        matched: As in `match_rotations`. It sees the places in the turned images.
        estimate: As in `match_rotations`.
    """
    batch = matched(stacked([a]), stacked(turned))
    results = []
    for index, (found, degrees) in enumerate(zip(turned, _degrees(len(turned)), strict=True)):
        matches = jax.tree.map(lambda leaf, index=index: np.asarray(leaf)[index, : len(a.mask)], batch)
        size = int(found.image_sizes[0]), int(found.image_sizes[1])
        places, stored = to_stored_frame(np.asarray(found.keypoints), size, _ORIENTATIONS[degrees])
        given: dict[str, Any] = dict(keypoints=places, image_sizes=np.array(stored, np.int32))
        found = dataclasses.replace(found, **given)
        results.append(RotatedMatch(degrees, found, matches, estimate(a, found, matches)))
    return results


def _degrees(rotations: int) -> tuple[int, ...]:
    turns = {1: (0,), 2: (0, 180), 4: (0, 90, 180, 270)}
    if rotations not in turns:
        raise ValueError(f"rotations={rotations}; 1, 2 (upside down too) or 4 (each quarter of a turn) is needed")
    return turns[rotations]
