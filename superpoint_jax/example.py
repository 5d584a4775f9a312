"""A photo, which comes with matplotlib, and a warp of it by a homography, for demonstrations."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, UInt8

from superpoint_jax.geometry import warp_images
from superpoint_jax.processing import load_image

PHOTO = "grace_hopper.jpg"
"""File in matplotlib's package; US Navy, public domain."""


def example_photos() -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 3"], Float[Array, "3 3"]]:
    """A photo, the photo warped by a homography to an image of the same size, and the homography."""
    from matplotlib.cbook import get_sample_data

    photo = load_image(Path(str(get_sample_data(PHOTO, asfileobj=False))))
    homography = example_homography(photo.shape[0], photo.shape[1])
    warped, _ = warp_images(jnp.asarray(photo, jnp.float32)[None], homography[None])
    return photo, np.round(np.asarray(warped[0])).astype(np.uint8), homography


def example_homography(height: int, width: int) -> jax.Array:
    """A homography that turns by 15 degrees, zooms by 1.3 and tilts, so that the photo fills the whole result."""
    center = np.array([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1]])
    cos, sin = 1.3 * np.cos(np.pi / 12), 1.3 * np.sin(np.pi / 12)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0.1 / width, -0.1 / height, 1]])
    return jnp.asarray(center @ turn @ np.linalg.inv(center), jnp.float32)
