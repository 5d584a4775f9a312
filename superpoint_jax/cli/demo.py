"""`superpoint-jax demo`."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import superpoint_jax as sp
from superpoint_jax import geometry, visualization
from superpoint_jax.cli.arguments import Engine, Output, Weights
from superpoint_jax.cli.features import load_extractor
from superpoint_jax.cli.saving import save_picture
from superpoint_jax.processing import load_image

DEMO_PHOTO = "grace_hopper.jpg"
"""In matplotlib's package; US Navy, public domain."""
DEMO_THRESHOLD_PX = 3.0


def demo(*, output: Output = Path("demo.png"), weights: Weights = None, engine: Engine = "auto") -> int:
    """Match a photo with a known homography of it, count the correct matches, and draw them.

    The photo comes with matplotlib. A match by mutual nearest neighbours is correct if it is within 3 pixels of where
    the homography brings the keypoint.

    Args:
        output: The picture to write.
        weights: Folder, file or Hugging Face id; those in the package by default.
        engine: Who computes the network; by default OpenVINO where it is installed and there is no accelerator.
    """
    features_of = load_extractor(weights, 1024, engine=engine)
    photo, warped, homography = example_photos()
    a, b = features_of(photo), features_of(warped)
    matches = sp.match(a, b)
    expected_xy = geometry.warp_points(homography, a.keypoints)
    error_px = jnp.linalg.norm(b.keypoints[matches.indices] - expected_xy, axis=-1)
    correct = matches.mask & (error_px <= DEMO_THRESHOLD_PX)
    save_picture(visualization.draw_matches(photo, warped, a, b, matches, correct=correct), output)
    print(f"{DEMO_PHOTO} and a homography of it: {int(a.mask.sum())} and {int(b.mask.sum())} keypoints")
    print(f"{int(correct.sum())} of {int(matches.mask.sum())} matches are correct (within {DEMO_THRESHOLD_PX:g} px)")
    print(f"wrote {output}")
    return 0


def example_photos() -> tuple[np.ndarray, np.ndarray, jax.Array]:
    """A photo, a homography of it, and the homography."""
    from matplotlib.cbook import get_sample_data

    photo = load_image(Path(str(get_sample_data(DEMO_PHOTO, asfileobj=False))))
    homography = demo_homography(photo.shape[0], photo.shape[1])
    return photo, _warp(photo, homography), homography


def demo_homography(height: int, width: int) -> jax.Array:
    """Turn by 15 degrees, zoom by 1.3 and tilt: all that is then in the frame is in the photo, too."""
    center = np.array([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1]])
    cos, sin = 1.3 * np.cos(np.pi / 12), 1.3 * np.sin(np.pi / 12)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0.1 / width, -0.1 / height, 1]])
    return jnp.asarray(center @ turn @ np.linalg.inv(center), jnp.float32)


def _warp(photo: np.ndarray, homography: jax.Array) -> np.ndarray:
    """The uint8 photo seen through the homography, in a frame of the same size."""
    warped, _ = geometry.warp_images(jnp.asarray(photo, jnp.float32)[None], homography[None])
    return np.round(np.asarray(warped[0])).astype(np.uint8)
