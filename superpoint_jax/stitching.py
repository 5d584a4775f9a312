"""Stitching: two photos in one picture."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from superpoint_jax.geometry import exact_product, in_front, inverse, warp_images, warp_points

MAX_ENLARGEMENT = 4.0
"""If a panorama has more than this many times the area of both photos, the homography is wrong."""


def stitch_images(
    image_a: UInt8[np.ndarray, "h w *c"], image_b: UInt8[np.ndarray, "h2 w2 *c2"], homography: Float[np.ndarray, "3 3"]
) -> tuple[UInt8[np.ndarray, "h3 w3 3"], tuple[int, int]]:
    """A picture with image b warped onto image a, and (x, y) of image a's top-left corner in the picture.

    Where the images overlap they are blended; where there is neither, the picture is black. The blend weights each
    image by the distance to its own border, so that no seam is visible.

    Args:
        image_a: Gray or RGB image.
        image_b: Gray or RGB image.
        homography: From a to b, in pixels, centres at integers.

    Raises:
        ValueError: The homography would extend image b to the horizon, or far beyond image a.
    """
    a, b = _rgb(image_a), _rgb(image_b)
    to_a = inverse(jnp.asarray(homography, jnp.float32))
    # A homography is known up to a factor, whose sign is chosen so that the centre of image b has positive depth.
    height, width = b.shape[:2]
    to_a = to_a * jnp.sign(exact_product(to_a[2], jnp.array([(width - 1) / 2, (height - 1) / 2, 1.0])))
    corners = jnp.array([[0.0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]])
    if not bool(in_front(to_a, corners).all()):
        raise ValueError("the homography maps a part of the second image behind the horizon, so it can't be stitched")
    reach = np.concatenate([np.asarray(warp_points(to_a, corners)), [[0, 0], [a.shape[1] - 1, a.shape[0] - 1]]])
    low, high = np.floor(reach.min(axis=0)).astype(int), np.ceil(reach.max(axis=0)).astype(int)
    columns, rows = (high - low + 1).tolist()
    if rows * columns > MAX_ENLARGEMENT * (a[..., 0].size + b[..., 0].size):
        raise ValueError(f"the homography spreads the images over {columns}x{rows} pixels, so it is probably wrong")

    offset = (int(-low[0]), int(-low[1]))
    shift = jnp.array([[1.0, 0, offset[0]], [0, 1, offset[1]], [0, 0, 1]])
    layers = jnp.concatenate([jnp.asarray(b, jnp.float32), jnp.asarray(_weights(height, width))], axis=-1)
    warped, valid = warp_images(layers[None], exact_product(shift, to_a)[None], shape=(rows, columns))
    total = np.array(warped[0] * valid[0, ..., None])
    total[..., :3] *= total[..., 3:]
    place = (slice(offset[1], offset[1] + a.shape[0]), slice(offset[0], offset[0] + a.shape[1]))
    weights_a = _weights(*a.shape[:2])
    total[place] += np.concatenate([a * weights_a, weights_a], axis=-1)
    picture = total[..., :3] / np.maximum(total[..., 3:], 1e-6)
    return np.round(np.clip(picture, 0, 255)).astype(np.uint8), offset


def _weights(height: int, width: int) -> Float[np.ndarray, "h w 1"]:
    """The distance of each pixel to the nearest border, at least 1."""
    rows, columns = np.arange(1, height + 1), np.arange(1, width + 1)
    distance = np.minimum(np.minimum(rows, rows[::-1])[:, None], np.minimum(columns, columns[::-1])[None])
    return distance[..., None].astype(np.float32)


def _rgb(image: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    image = image if image.ndim == 3 else image[..., None]
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
