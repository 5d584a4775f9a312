"""`superpoint-jax match`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from superpoint_jax import visualization
from superpoint_jax.cli.arguments import Engine, OptionalOutput, OptionalPath, Weights
from superpoint_jax.cli.errors import CommandError, told
from superpoint_jax.cli.pair import MatchedPair, match_images
from superpoint_jax.cli.saving import check_outputs, save_json, save_picture
from superpoint_jax.estimation import Estimate, estimate_fundamental, estimate_homography

Model = Literal["homography", "fundamental", "none"]


def match(
    image_a: tyro.conf.Positional[Path],
    image_b: tyro.conf.Positional[Path],
    *,
    output: OptionalOutput = None,
    model: Model = "homography",
    threshold_px: float = 3.0,
    ratio: float | None = None,
    max_distance: float | None = None,
    weights: Weights = None,
    engine: Engine = "auto",
    max_keypoints: int = 1024,
    max_lines: int = 200,
    json: OptionalPath = None,
) -> int:
    """Match two images, estimate what relates them, print it, and draw the matches side by side.

    Matches are mutual nearest neighbours. Inliers are those that agree with the estimated model.

    Args:
        image_a: First image.
        image_b: Second image.
        output: Draw both images and a line for each inlier, more yellow for a higher similarity; other matches in
            gray. The suffix says how (.png, .jpg, .pdf, .svg).
        model: What relates the images: "homography" for a plane or a turning camera, "fundamental" for a moving one,
            "none" to take all matches.
        threshold_px: Largest error of an inlier, in pixels.
        ratio: Lowe's test, 0.8 say: the second nearest must be that much farther.
        max_distance: Largest L2 distance of two descriptors.
        weights: Folder, file or Hugging Face id; those in the package by default.
        engine: Who computes the network; by default OpenVINO where it is installed and there is no accelerator.
        max_keypoints: Keep the best of each image; -1 keeps all.
        max_lines: Draw the best inliers only, at most so many lines: all would hide the images.
        json: Write the result to this file: "images" (objects of "image", "width", "height", "keypoints" (their
            number)), "model", "matrix" (a to b in pixels, centres at integers; null where none was found), and the
            lists "points_a", "points_b", "scores", "inliers", an entry a match.
    """
    if max_lines < 0:
        raise CommandError(f"max_lines={max_lines}; 0 or more is needed")
    outputs = [path for path in (output, json) if path is not None]
    check_outputs(outputs, (image_a, image_b))
    pair = match_images(image_a, image_b, weights, max_keypoints, ratio=ratio, max_distance=max_distance, engine=engine)
    estimate = _estimate(pair, model, threshold_px)
    counts = [int(features.mask.sum()) for features in pair.features]
    total, agreeing = int(pair.matches.mask.sum()), int(np.asarray(estimate.inliers).sum())
    print(f"{image_a} and {image_b}: {counts[0]} and {counts[1]} keypoints, {total} matches")
    if model != "none":
        if estimate.found:
            print(f"{agreeing} inliers of the {model}" + (" matrix" if model == "fundamental" else ""))
            print("\n".join("  ".join(f"{value: .8e}" for value in row) for row in np.asarray(estimate.matrix)))
        else:
            print(f"no {model} was found")
    if output is not None:
        inliers = None if model == "none" else estimate.inliers
        axes = visualization.draw_matches(
            *pair.pixels, *pair.features, pair.matches, inliers=inliers, max_lines=max_lines
        )
        save_picture(axes, output)
        print(f"wrote {output}")
    save_json(matched_entry((image_a, image_b), counts, pair, model, estimate), json)
    return 0


def _estimate(pair: MatchedPair, model: Model, threshold_px: float) -> Estimate:
    with told():
        if model == "homography":
            return estimate_homography(*pair.features, pair.matches, threshold_px=threshold_px)
        if model == "fundamental":
            return estimate_fundamental(*pair.features, pair.matches, threshold_px=threshold_px)
    mask = np.asarray(pair.matches.mask)
    return Estimate(matrix=np.zeros((3, 3)), inliers=mask, found=np.zeros((), bool))


def matched_entry(
    images: Sequence[Path], counts: list[int], pair: MatchedPair, model: Model, estimate: Estimate
) -> dict[str, Any]:
    """The JSON file; see `match`."""
    rows = np.flatnonzero(np.asarray(pair.matches.mask))
    partners = np.asarray(pair.matches.indices)[rows]
    points = [
        np.asarray(features.keypoints, np.float64)[index].round(3).tolist()
        for features, index in zip(pair.features, (rows, partners), strict=True)
    ]
    return {
        "images": [
            {"image": str(path), "width": pixels.shape[1], "height": pixels.shape[0], "keypoints": count}
            for path, pixels, count in zip(images, pair.pixels, counts, strict=True)
        ],
        "model": model,
        "matrix": np.asarray(estimate.matrix).tolist() if estimate.found else None,
        "points_a": points[0],
        "points_b": points[1],
        "scores": np.asarray(pair.matches.scores, np.float64)[rows].round(6).tolist(),
        "inliers": np.asarray(estimate.inliers)[rows].tolist(),
    }
