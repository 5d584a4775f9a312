"""`superpoint-jax match`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

import superpoint_jax as sp
from superpoint_jax import visualization
from superpoint_jax.cli.arguments import Extraction, Matching, OptionalOutput, OptionalPath, masks_of
from superpoint_jax.cli.errors import CommandError, told
from superpoint_jax.cli.saving import check_outputs, save_json, save_picture
from superpoint_jax.photos.regions import read_region
from superpoint_jax.photos.rotations import Rotations, best_rotation, turned_images
from superpoint_jax.records import matches_record

Model = Literal["homography", "fundamental", "none"]


def match(
    image_a: tyro.conf.Positional[Path],
    image_b: tyro.conf.Positional[Path],
    *,
    output: OptionalOutput = None,
    model: Model = "homography",
    threshold_px: float = 3.0,
    rotations: Rotations = 1,
    matching: tyro.conf.OmitArgPrefixes[Matching] = Matching(),
    masks: OptionalPath = None,
    extraction: tyro.conf.OmitArgPrefixes[Extraction] = Extraction(),
    max_lines: int = 200,
    json: OptionalPath = None,
) -> int:
    """Match two photos, estimate and print the geometric model that relates them, and draw the matches side by side.

    Inliers are the matches that agree with the estimated model.

    Args:
        image_a: First photo.
        image_b: Second photo.
        output: Draw both photos with one line per inlier, more yellow for a higher score, and other matches in gray.
            The suffix decides the format (.png, .jpg, .pdf, .svg).
        model: What relates the photos: "homography" for a plane or a turning camera, "fundamental" for a moving one,
            "none" to take all matches.
        threshold_px: Largest error of an inlier, in pixels.
        rotations: Also try the second photo upside down (2), or turned by each quarter of a circle (4), and take the
            matches with most inliers. For photos that may be turned; it takes the time of 3 or 5 photos instead of 2.
        matching: What matches, and what a match has to pass.
        masks: Folder with a mask for each photo by COLMAP's rule: FOLDER/b.jpg.png or FOLDER/a/b.jpg.png for a/b.jpg.
            No keypoint lies where a mask is black (0).
        extraction: How keypoints are found.
        max_lines: Draw at most this many lines, those of the best inliers, so that the photos stay visible.
        json: Write the result to this file: "images" (objects with "image", "width", "height", and "keypoints", their
            number), "model", "matrix" (a to b in pixels, centres at integers; null if none was found), and the lists
            "points_a", "points_b", "scores", "inliers" with one entry per match; "rotation_degrees" with --rotations.
    """
    if max_lines < 0:
        raise CommandError(f"max_lines={max_lines}; 0 or more is needed")
    images = image_a, image_b
    check_outputs([path for path in (output, json) if path is not None], images)
    regions = masks_of(images, masks)
    network = extraction.load()
    matched = matching.load(network.config)
    seen, allowed = list(images), regions
    if rotations > 1:
        pictures = [network.read(image) for image in images]
        seen = [pictures[0], *turned_images(pictures[1], rotations)]
        allowed = _turned_regions(regions, pictures, images, rotations)
    a, *turned = network(seen, allowed if any(regions) else None)
    with told():
        best = best_rotation(
            a, turned, matched=matched, estimate=partial(_estimate, model=model, threshold_px=threshold_px)
        )
    b, matches, estimate = best.keypoints, best.matches, best.estimate
    features = a, b
    counts = [int(found.mask.sum()) for found in features]
    total, agreeing = int(matches.mask.sum()), int(np.asarray(estimate.inliers).sum())
    print(f"{image_a} and {image_b}: {counts[0]} and {counts[1]} keypoints, {total} matches")
    if rotations > 1:
        print(f"{image_b} fits best when it is turned by {best.degrees} degrees counter-clockwise")
    if model != "none":
        if estimate.found:
            print(f"{agreeing} inliers of the {model}" + (" matrix" if model == "fundamental" else ""))
            print("\n".join("  ".join(f"{value: .8e}" for value in row) for row in np.asarray(estimate.matrix)))
        else:
            print(f"no {model} was found")
    if output is not None:
        inliers = None if model == "none" else estimate.inliers
        axes = visualization.draw_matches(
            network.read(image_a), network.read(image_b), a, b, matches, inliers=inliers, max_lines=max_lines
        )
        save_picture(axes, output)
        print(f"wrote {output}")
    record = matches_record([str(path) for path in images], features, matches, model=model, estimate=estimate)
    save_json(record | {"rotation_degrees": best.degrees}, json)
    return 0


def _turned_regions(
    masks: Sequence[Path | None], pictures: Sequence[np.ndarray], images: Sequence[Path], rotations: Rotations
) -> list[np.ndarray | None]:
    """The regions of the first photo, and of the second one as it is turned."""
    with told():
        first, second = (
            None if mask is None else read_region(mask, picture.shape[:2], str(image))
            for mask, picture, image in zip(masks, pictures, images, strict=False)
        )
    turned = [None] * rotations if second is None else turned_images(second, rotations)
    return [first, *turned]


def _estimate(a: sp.Keypoints, b: sp.Keypoints, matches: sp.Matches, model: Model, threshold_px: float) -> sp.Estimate:
    if model == "homography":
        return sp.estimate_homography(a, b, matches, threshold_px=threshold_px)
    if model == "fundamental":
        return sp.estimate_fundamental(a, b, matches, threshold_px=threshold_px)
    return sp.Estimate(matrix=np.zeros((3, 3)), inliers=np.asarray(matches.mask), found=np.zeros((), bool))
