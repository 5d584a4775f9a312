"""`superpoint-jax stitch`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tyro
from PIL import Image

import superpoint_jax as sp
from superpoint_jax.cli.arguments import Extraction, Matching, OptionalPath, Output
from superpoint_jax.cli.errors import CommandError, told
from superpoint_jax.cli.saving import check_outputs, save_json
from superpoint_jax.stitching import stitch_images


def stitch(
    image_a: tyro.conf.Positional[Path],
    image_b: tyro.conf.Positional[Path],
    *,
    output: Output,
    threshold_px: float = 3.0,
    matching: tyro.conf.OmitArgPrefixes[Matching] = Matching(),
    extraction: tyro.conf.OmitArgPrefixes[Extraction] = Extraction(max_keypoints=2048),
    json: OptionalPath = None,
) -> int:
    """Warp the second photo onto the first by the homography between them, and blend both into one picture.

    This works for a camera that only turned, or for a flat scene; otherwise objects in the foreground appear twice.

    Args:
        image_a: The photo that stays as it is.
        image_b: The photo that is warped.
        output: The picture to write; its suffix decides the format, any that Pillow writes.
        threshold_px: Largest error of an inlier, in pixels.
        matching: What matches, and what a match has to pass.
        extraction: How keypoints are found.
        json: Write to this file: "homography" (a to b, in pixels, centres at integers), "inliers" and "matches" (their
            numbers), "width" and "height" of the picture, "offset" ((x, y) of the first photo's corner in the picture).
    """
    check_outputs([path for path in (output, json) if path is not None], (image_a, image_b))
    if output.suffix.lower() not in Image.registered_extensions():
        raise CommandError(f"{output}: Pillow can't write files with this suffix")
    network = extraction.load()
    matched = matching.load(network.config)
    a, b = network([image_a, image_b])
    with told():
        matches = matched(a, b)
        estimate = sp.estimate_homography(a, b, matches, threshold_px=threshold_px)
        total, inliers = int(matches.mask.sum()), int(estimate.inliers.sum())
        if not estimate.found:
            raise CommandError(f"{image_a} and {image_b}: no homography was found in {total} matches")
        picture, offset = stitch_images(network.read(image_a), network.read(image_b), np.asarray(estimate.matrix))
        Image.fromarray(picture).save(output)
    height, width = picture.shape[:2]
    print(f"{image_a} and {image_b}: {inliers} inliers of {total} matches, {width}x{height} -> {output}")
    content = {
        "homography": np.asarray(estimate.matrix).tolist(),
        "inliers": inliers,
        "matches": total,
        "width": width,
        "height": height,
        "offset": list(offset),
    }
    save_json(content, json)
    return 0
