"""Training pairs: two views of a photo through random homographies, with their labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from superpoint_jax.config import CELL_PX
from superpoint_jax.detection import pixels_to_cells
from superpoint_jax.geometry import PRNGKey, in_front, inverse, sample_homographies, warp_images, warp_points
from superpoint_jax.training.augmentation import photometric
from superpoint_jax.training.labelled import Photos, as_float
from superpoint_jax.training.losses import corner_targets


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """How two views of a photo are drawn.

    Attributes:
        shape: (height, width) of a view; multiples of 8.
        scale: Smallest and largest magnification of the photo in each view.
        rotation: Standard deviation of the rotation, in radians.
        perspective: See `sample_homographies`.
        stretch: See `sample_homographies`; for the second view. The first view gets the square root.
        translation: Largest shift of the second view, as a fraction of its size.
        labelled_points: Largest number of correspondences at labelled corners.
        random_points: Number of correspondences at random positions.
        strength: Strength of the photometric changes.
    """

    shape: tuple[int, int] = (160, 208)
    scale: tuple[float, float] = (0.65, 1.5)
    rotation: float = 0.3
    perspective: float = 0.22
    stretch: float = 1.5
    translation: float = 0.15
    labelled_points: int = 128
    random_points: int = 48
    strength: float = 1.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pairs:
    """Two views per photo: the first half of the batch is view a, the second half view b of the same photos.

    Attributes:
        images: The views, in [0, 1].
        targets: Target distribution of the detector for each cell.
        valid_cells: True for cells that lie completely on the photo.
        points: Corresponding points in pixels: row i in the first half of the batch and row i in the second.
        points_mask: True for points that both views show.
        homographies: Homographies from the photo to each view.
    """

    images: Float[Array, "two_b h w 1"]
    targets: Float[Array, "two_b hc wc 65"]
    valid_cells: Bool[Array, "two_b hc wc"]
    points: Float[Array, "two_b n 2"]
    points_mask: Bool[Array, "b n"]
    homographies: Float[Array, "two_b 3 3"]


def sample_pairs(key: PRNGKey, photos: Photos, batch: int, *, config: PairConfig) -> Pairs:
    """Pairs of views of `batch` photos drawn at random."""
    pick_key, center_key, a_key, b_key, points_key, light_key = jax.random.split(key, 6)
    chosen = jax.random.randint(pick_key, (batch,), 0, photos.images.shape[0])
    images, sizes = as_float(photos.images[chosen]), photos.sizes[chosen]
    corners, corners_mask = photos.corners_xy[chosen], photos.corners_mask[chosen]

    centers = _view_centers(center_key, corners, corners_mask, config)
    sample = partial(
        sample_homographies,
        n=batch,
        shape=(images.shape[1], images.shape[2]),
        out_shape=config.shape,
        centers_xy=centers,
        scale=config.scale,
        rotation=config.rotation,
        perspective=config.perspective,
    )
    to_a = sample(a_key, stretch=config.stretch**0.5)
    to_b = sample(b_key, stretch=config.stretch, translation=config.translation)
    to_view = jnp.concatenate([to_a, to_b])

    def twice(x: Array) -> Array:
        return jnp.concatenate([x, x])

    views, valid = warp_images(twice(images), to_view, shape=config.shape, image_sizes=twice(sizes))
    views = photometric(light_key, views, strength=config.strength)
    corners_in_view = warp_points(to_view, twice(corners))
    labelled = twice(corners_mask) & in_front(to_view, twice(corners))

    points, points_mask = _photo_points(points_key, corners, corners_mask, to_a, config)
    points_in_view = warp_points(to_view, twice(points))
    seen = in_front(to_view, twice(points)) & _on_view(points_in_view, valid)
    return Pairs(
        images=views,
        targets=corner_targets(corners_in_view, labelled.astype(jnp.float32), config.shape),
        valid_cells=pixels_to_cells(valid).all(axis=-1),
        points=points_in_view,
        points_mask=points_mask & seen[:batch] & seen[batch:],
        homographies=to_view,
    )


def _view_centers(key: PRNGKey, corners: Array, corners_mask: Array, config: PairConfig) -> Array:
    """A random point of each photo near one of its corners, because views without corners teach little."""
    choice_key, offset_key = jax.random.split(key)
    batch = corners.shape[0]
    lottery = jnp.where(corners_mask, jax.random.uniform(choice_key, corners_mask.shape), 0)
    chosen = jnp.take_along_axis(corners, jnp.argmax(lottery, axis=1)[:, None, None], axis=1)[:, 0]
    reach = jnp.array([[config.shape[1], config.shape[0]]], jnp.float32) / 4
    return chosen + reach * jax.random.uniform(offset_key, (batch, 2), minval=-1.0, maxval=1.0)


def _photo_points(
    key: PRNGKey, corners: Array, corners_mask: Array, to_a: Array, config: PairConfig
) -> tuple[Array, Array]:
    """Points of the photo for the descriptor loss: random corners that view a shows, and random points of view a."""
    choice_key, anywhere_key = jax.random.split(key)
    height, width = config.shape
    in_a = warp_points(to_a, corners)
    last = jnp.array([[[width - 1, height - 1]]], jnp.float32)
    inside = jnp.all((in_a >= 0) & (in_a <= last), axis=-1)
    usable = corners_mask & inside & in_front(to_a, corners)
    lottery = jnp.where(usable, jax.random.uniform(choice_key, usable.shape), -1)
    drawn, index = jax.lax.top_k(lottery, min(config.labelled_points, lottery.shape[1]))
    labelled = jnp.take_along_axis(corners, index[..., None], axis=1)
    anywhere = jax.random.uniform(anywhere_key, (corners.shape[0], config.random_points, 2))
    anywhere = warp_points(inverse(to_a), anywhere * last)
    mask = jnp.concatenate([drawn >= 0, jnp.ones(anywhere.shape[:2], bool)], axis=1)
    return jnp.concatenate([labelled, anywhere], axis=1), mask


def _on_view(points_xy: Array, valid: Array) -> Array:
    """True where a point lies on a valid pixel, at least half a cell from the border of the view."""
    height, width = valid.shape[1:]
    border = CELL_PX // 2
    end = jnp.array([[[width - 1 - border, height - 1 - border]]], jnp.float32)
    inside = jnp.all((points_xy >= border) & (points_xy <= end), axis=-1)
    nearest = jnp.where(inside[..., None], jnp.round(points_xy), 0).astype(jnp.int32)
    return inside & jax.vmap(lambda v, p: v[p[:, 1], p[:, 0]])(valid, nearest)
