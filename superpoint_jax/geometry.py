"""Random homographies, and warps of points and images by homographies.

A homography is a 3x3 matrix that maps (x, y, 1) of the source to the destination, in pixels, centres at integers.
Everything can be jitted and differentiated, and is computed in float32 on every platform, by `exact_product`.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Key, UInt32

from superpoint_jax.features import AnyArray

PRNGKey = Key[Array, ""] | UInt32[Array, "2"]


def exact_product(a: Float[AnyArray, "*_a"], b: Float[AnyArray, "*_b"]) -> Float[Array, "*_c"]:
    """The matrix product in float32 on every platform; an accelerator's default precision would be off by pixels."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def sample_homographies(
    key: PRNGKey,
    n: int,
    shape: tuple[int, int],
    *,
    out_shape: tuple[int, int] | None = None,
    centers_xy: Float[Array, "n 2"] | None = None,
    scale: tuple[float, float] = (0.75, 1.5),
    rotation: float = 0.3,
    perspective: float = 0.25,
    stretch: float = 1.0,
    translation: float = 0.0,
) -> Float[Array, "n 3 3"]:
    """Random homographies from an image of `shape` (height, width) to one of `out_shape`.

    Each maps `centers_xy` near the centre of the output: first a perspective change and a stretch about that point,
    then scale and rotation, then a translation.

    Args:
        key: Source of randomness.
        n: Number of homographies.
        shape: (height, width) of the source.
        out_shape: (height, width) of the destination; by default that of the source.
        centers_xy: Points of the source that are mapped to the centre, in pixels; by default the centre of the source.
        scale: Smallest and largest magnification, drawn log-uniformly.
        rotation: Standard deviation of the rotation, in radians.
        perspective: Largest change of depth towards the horizontal and vertical border of the output, as a fraction;
            symmetric about zero. It must be below 0.5, so that no point of the output is at infinity.
        stretch: Largest ratio between the magnifications along two perpendicular axes of random direction (a tilted
            plane); 1 means no stretch.
        translation: Largest shift, as a fraction of the output's size.

    Raises:
        ValueError: An option is out of range.

    Source: paper, section 5.2 (scale, rotation, symmetric perspective, translation); the stretch is ours.
    """
    if not 0 < scale[0] <= scale[1]:
        raise ValueError(f"scale={scale}; 0 < smallest <= largest is needed")
    if not 0 <= perspective < 0.5:
        raise ValueError(f"perspective={perspective}; at least 0 and less than 0.5 is needed")
    if stretch < 1:
        raise ValueError(f"stretch={stretch}; at least 1 is needed")
    height, width = out_shape or shape
    keys = jax.random.split(key, 6)

    def uniform(k: Array, low: float, high: float) -> Array:
        return jax.random.uniform(k, (n,), minval=low, maxval=high)

    zoom = jnp.exp(uniform(keys[0], math.log(scale[0]), math.log(scale[1])))
    turn = rotation * jax.random.normal(keys[1], (n,))
    ratio = jnp.exp(uniform(keys[2], 0.0, math.log(stretch)) / 2)
    axis = uniform(keys[3], 0.0, math.pi)
    depth = perspective * jax.random.uniform(keys[4], (n, 2), minval=-1.0, maxval=1.0)
    shift = translation * jax.random.uniform(keys[5], (n, 2), minval=-1.0, maxval=1.0)

    middle = jnp.array([(width - 1) / 2, (height - 1) / 2], jnp.float32)
    if centers_xy is None:
        centers_xy = jnp.broadcast_to(jnp.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2], jnp.float32), (n, 2))
    zero, one = jnp.zeros(n), jnp.ones(n)
    # The change of depth is defined at the border of the output, so it is divided by half the size of the output,
    # converted to pixels of the source.
    tilt = depth / jnp.array([[width / 2, height / 2]], jnp.float32) * zoom[:, None]
    perspective_part = _matrix([one, zero, zero, zero, one, zero, tilt[:, 0], tilt[:, 1], one])
    along = _rotation(axis)
    stretch_part = _matrix([ratio, zero, zero, zero, 1 / ratio, zero, zero, zero, one])
    zoom_part = _matrix([zoom, zero, zero, zero, zoom, zero, zero, zero, one])
    target = middle[None] + shift * jnp.array([[width, height]], jnp.float32)
    steps = [_translation(target), _rotation(turn), zoom_part, along, stretch_part, along.mT, perspective_part]
    return functools.reduce(exact_product, [*steps, _translation(-centers_xy)])


def warp_points(
    homographies: Float[AnyArray, "*b 3 3"], points_xy: Float[AnyArray, "*b n 2"]
) -> Float[Array, "*b n 2"]:
    """The points mapped by the homographies. Points on the horizon are mapped far away instead of to infinity."""
    mapped = exact_product(points_xy, homographies[..., :2].mT) + homographies[..., 2][..., None, :]
    depth = mapped[..., 2:]
    safe = jnp.where(jnp.abs(depth) < 1e-8, jnp.where(depth < 0, -1e-8, 1e-8), depth)
    return mapped[..., :2] / safe


def in_front(homographies: Float[AnyArray, "*b 3 3"], points_xy: Float[AnyArray, "*b n 2"]) -> Bool[Array, "*b n"]:
    """True for points on the visible side of the horizon, where the depth is positive."""
    depth = exact_product(points_xy, homographies[..., 2, :2, None]) + homographies[..., 2, 2][..., None, None]
    return depth[..., 0] > 0


def inverse(homographies: Float[Array, "*b 3 3"]) -> Float[Array, "*b 3 3"]:
    """The inverse homographies, by the adjugate, without a linear solver."""
    a, b, c = homographies[..., 0, :], homographies[..., 1, :], homographies[..., 2, :]
    adjugate = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], axis=-1)
    return adjugate / jnp.sum(a * jnp.cross(b, c), axis=-1)[..., None, None]


def warp_images(
    images: Float[Array, "b h w c"],
    homographies: Float[Array, "b 3 3"],
    *,
    shape: tuple[int, int] | None = None,
    image_sizes: Int[Array, "b 2"] | None = None,
) -> tuple[Float[Array, "b h2 w2 c"], Bool[Array, "b h2 w2"]]:
    """The images warped by the homographies, and the mask of valid pixels.

    The interpolation is bilinear. Pixels whose source lies outside the image are 0 and invalid. There is no smoothing,
    so for reductions below half size, blur the images first.

    Args:
        images: Source images.
        homographies: From each source to its destination.
        shape: (height, width) of the destination; by default that of the source.
        image_sizes: (height, width) of the valid area in the top-left corner of each source.
    """
    batch, height, width, channels = images.shape
    rows, columns = shape or (height, width)
    grid = jnp.broadcast_to(pixel_grid((rows, columns)).reshape(-1, 2), (batch, rows * columns, 2))
    back = inverse(homographies)
    source_xy = warp_points(back, grid)
    sizes = jnp.broadcast_to(jnp.array([height, width]), (batch, 2)) if image_sizes is None else image_sizes
    last = (sizes[:, None, ::-1] - 1).astype(jnp.float32)
    # On the visible side of the horizon, the third coordinate has the sign of the determinant of the inverse.
    visible = in_front(back * jnp.sign(jnp.linalg.det(back))[:, None, None], grid)
    valid = visible & jnp.all((source_xy >= 0) & (source_xy <= last), axis=-1)
    warped = jax.vmap(sample_bilinear)(images, jnp.clip(source_xy, 0, last))
    warped = jnp.where(valid[..., None], warped, 0)
    return warped.reshape(batch, rows, columns, channels), valid.reshape(batch, rows, columns)


def pixel_grid(shape: tuple[int, ...]) -> Float[Array, "h w 2"]:
    """The positions (x, y) of the pixels of an array of (height, width) `shape`."""
    x, y = jnp.meshgrid(jnp.arange(shape[1], dtype=jnp.float32), jnp.arange(shape[0], dtype=jnp.float32))
    return jnp.stack([x, y], axis=-1)


def sample_bilinear(image: Float[Array, "h w c"], points_xy: Float[Array, "n 2"]) -> Float[Array, "n c"]:
    """Bilinear values of the image at the points; points outside are moved to the border."""
    height, width, channels = image.shape
    points_xy = jnp.clip(points_xy, 0, jnp.array([[width - 1, height - 1]], jnp.float32))
    low = jnp.floor(jax.lax.stop_gradient(points_xy))
    fx, fy = jnp.moveaxis(points_xy - low, -1, 0)[..., None]
    x, y = jnp.moveaxis(low.astype(jnp.int32), -1, 0)
    right, below = jnp.minimum(x + 1, width - 1), jnp.minimum(y + 1, height - 1)
    flat = image.reshape(-1, channels)
    top = flat[y * width + x] * (1 - fx) + flat[y * width + right] * fx
    bottom = flat[below * width + x] * (1 - fx) + flat[below * width + right] * fx
    return top * (1 - fy) + bottom * fy


def _matrix(entries: list[Array]) -> Array:
    return jnp.stack(entries, axis=-1).reshape(-1, 3, 3)


def _rotation(angle: Array) -> Array:
    cos, sin, zero, one = jnp.cos(angle), jnp.sin(angle), jnp.zeros_like(angle), jnp.ones_like(angle)
    return _matrix([cos, -sin, zero, sin, cos, zero, zero, zero, one])


def _translation(offset_xy: Array) -> Array:
    zero, one = jnp.zeros(offset_xy.shape[0]), jnp.ones(offset_xy.shape[0])
    return _matrix([one, zero, offset_xy[:, 0], zero, one, offset_xy[:, 1], zero, zero, one])
