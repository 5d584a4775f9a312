"""What happens to images before an extractor sees them: reduced in size, or warped without an edge."""

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
    """The image with a long side of at most `long_side`, averaged over areas, and the matrix of the pixel-centre map.

    None or 0 leaves it as it is.

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
    # (k + 0.5) * scale - 0.5
    return reduced, np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


def to_gray(image: UInt8[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w"]:
    """The image in gray, by Pillow's luma."""
    if image.ndim == 2:
        return image
    from PIL import Image

    return np.asarray(Image.fromarray(image).convert("L"))


def warp_mirrored(images: Float[Array, "n h w 1"], homographies: Float[Array, "n 3 3"]) -> Float[Array, "n h w 1"]:
    """The images seen through the homographies; beyond their border, their mirror image to half their size.

    So there is no edge in a view that the image does not have. What lies still further out is 0.
    """
    height, width = images.shape[1:3]
    top, left = height // 2, width // 2
    canvas = jnp.pad(images, ((0, 0), (top, top), (left, left), (0, 0)), mode="symmetric")
    return _warp_canvas(canvas, homographies, origin_xy=(left, top), shape=(height, width))


def warp_photo(
    image: UInt8[np.ndarray, "h w"], homographies: Float[Array, "n 3 3"], *, side: int
) -> Float[Array, "n side side 1"]:
    """As `warp_mirrored`, of one image in many views, with as many mirror images as there is room for.

    The views are square whatever the image, so that one compilation does for a folder of photos.

    Args:
        image: At most `side` high and wide.
        homographies: One for each view.
        side: Of a view.
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
    """Views of `shape` of canvases in which the image begins at `origin_xy`."""
    to_image = jnp.array([[[1, 0, -origin_xy[0]], [0, 1, -origin_xy[1]], [0, 0, 1]]], jnp.float32)
    return warp_images(canvas, exact_product(homographies, to_image), shape=shape)[0]
