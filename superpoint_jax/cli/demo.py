"""`superpoint-jax demo`."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import tyro

import superpoint_jax as sp
from superpoint_jax import geometry, visualization
from superpoint_jax.cli.arguments import Extraction, Output
from superpoint_jax.cli.saving import save_picture
from superpoint_jax.example import PHOTO, example_photos

THRESHOLD_PX = 3.0


def demo(*, output: Output = Path("demo.png"), extraction: tyro.conf.OmitArgPrefixes[Extraction] = Extraction()) -> int:
    """Match a photo with a warp of it by a known homography, count the correct matches, and draw them.

    The photo comes with matplotlib. Matches are mutual nearest neighbours. A match is correct if it is within 3 pixels
    of where the homography maps the keypoint.

    Args:
        output: The picture to write.
        extraction: How keypoints are found.
    """
    photo, warped, homography = example_photos()
    a, b = extraction.load()([photo, warped])
    matches = sp.match(a, b)
    expected_xy = geometry.warp_points(homography, a.keypoints)
    error_px = jnp.linalg.norm(b.keypoints[matches.indices] - expected_xy, axis=-1)
    correct = matches.mask & (error_px <= THRESHOLD_PX)
    save_picture(visualization.draw_matches(photo, warped, a, b, matches, correct=correct), output)
    print(f"{PHOTO} and a warp of it by a homography: {int(a.mask.sum())} and {int(b.mask.sum())} keypoints")
    print(f"{int(correct.sum())} of {int(matches.mask.sum())} matches are correct (within {THRESHOLD_PX:g} px)")
    print(f"wrote {output}")
    return 0
