"""Changes of images before an extractor sees them: reduction in size, and warps without additional edges."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, UInt8

from superpoint_jax.estimation.opencv import require_opencv
from superpoint_jax.geometry import exact_product, warp_images


def reduce_image(
    image: UInt8[np.ndarray, "h w *c"], long_side: int | None
) -> tuple[UInt8[np.ndarray, "h2 w2 *c"], Float[np.ndarray, "3 3"]]:
    """The image reduced to a long side of at most `long_side`, and the matrix that maps its pixel centres.

    The reduction averages over areas. None or 0 never reduces.

    Raises:
        ImportError: OpenCV is not installed.
    """
    height, width = image.shape[:2]
    factor = min(1.0, long_side / max(height, width)) if long_side else 1.0
    if factor == 1:
        return image, np.eye(3)
    cv2 = require_opencv()
    new_height, new_width = (max(1, round(side * factor)) for side in (height, width))
    reduced = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA)
    x, y = new_width / width, new_height / height
    # A pixel centre k maps to (k + 0.5) * scale - 0.5.
    return reduced, np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


def to_gray(image: UInt8[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w"]:
    """The image converted to gray by Pillow."""
    if image.ndim == 2:
        return image
    from PIL import Image

    return np.asarray(Image.fromarray(image).convert("L"))


def warp_mirrored(images: Float[Array, "n h w 1"], homographies: Float[Array, "n 3 3"]) -> Float[Array, "n h w 1"]:
    """The images warped by the homographies, with their mirror images beyond their borders, up to half their size.

    So a view has no edge that the image does not have. Beyond the mirror images, the view is 0.
    """
    height, width = images.shape[1:3]
    top, left = height // 2, width // 2
    canvas = jnp.pad(images, ((0, 0), (top, top), (left, left), (0, 0)), mode="symmetric")
    return _warp_canvas(canvas, homographies, origin_xy=(left, top), shape=(height, width))


def warp_photo(
    image: UInt8[np.ndarray, "h w"], homographies: Float[Array, "n 3 3"], *, side: int
) -> Float[Array, "n side side 1"]:
    """Many views of one image, warped as by `warp_mirrored`, but with more mirror images for small images.

    All views are square, so that one compilation serves a folder of photos.

    Args:
        image: Image of at most `side` pixels in height and width.
        homographies: One homography per view.
        side: Height and width of a view.
    """
    height, width = image.shape
    before = side // 2
    after = 2 * side - before
    canvas = np.pad(image, ((before, after - height), (before, after - width)), mode="symmetric")
    values = jnp.asarray(canvas)[None, :, :, None].astype(jnp.float32) / 255
    canvases = jnp.broadcast_to(values, (len(homographies), *values.shape[1:]))
    return _warp_canvas(canvases, homographies, origin_xy=(before, before), shape=(side, side))


@partial(jax.jit, static_argnames=("origin_xy", "shape"))
def _warp_canvas(canvas: Array, homographies: Array, *, origin_xy: tuple[int, int], shape: tuple[int, int]) -> Array:
    """Views of `shape` from canvases in which the image begins at `origin_xy`."""
    to_image = jnp.array([[[1, 0, -origin_xy[0]], [0, 1, -origin_xy[1]], [0, 0, 1]]], jnp.float32)
    return warp_images(canvas, exact_product(homographies, to_image), shape=shape)[0]
