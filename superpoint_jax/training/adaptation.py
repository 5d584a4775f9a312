"""Pseudo-labels by homographic adaptation of any detector, a network or a classical one.

Source: paper, section 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int, UInt8
from tqdm import tqdm

from superpoint_jax.config import SuperPointConfig
from superpoint_jax.detection import border_mask, score_map, select_keypoints, window_max
from superpoint_jax.geometry import PRNGKey, inverse, sample_homographies, warp_images
from superpoint_jax.model import SuperPoint, valid_mask
from superpoint_jax.openvino import CompiledSuperPoint
from superpoint_jax.training.labelled import as_float

Detector = Callable[[Array], Array]
"""Maps images [B,H,W,1] in [0, 1] to heat maps [B,H,W] in [0, 1]: a function, or a pytree that can be called."""

FILL_MARGIN_PX = 6
"""Detections nearer than this to the border of a warped image are not counted, because the border looks like an edge.
"""


def corner_heat(
    images: Float[Array, "b h w 1"],
    *,
    radius: int = 4,
    quality: float = 0.02,
    floor: float = 1e-4,
    spread_px: float = 1.0,
) -> Float[Array, "b h w"]:
    """A heat map of the corners of Shi and Tomasi, with a small bump of height 1 at each corner.

    The measure is the smaller eigenvalue of the structure tensor. A corner is a pixel where it is the maximum of the
    (2 radius + 1)^2 window, above `quality` times its maximum over the image, and above `floor` (squared gray value,
    more than sensor noise reaches).

    Source: Shi and Tomasi, "Good Features to Track" (1994).
    """
    gray = images[..., 0]
    dx = jnp.pad(gray[:, :, 2:] - gray[:, :, :-2], ((0, 0), (0, 0), (1, 1))) / 2
    dy = jnp.pad(gray[:, 2:] - gray[:, :-2], ((0, 0), (1, 1), (0, 0))) / 2
    xx, xy, yy = (_smooth(product, 1.5) for product in (dx * dx, dx * dy, dy * dy))
    smaller = (xx + yy) / 2 - jnp.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    strongest = jnp.max(smaller, axis=(1, 2), keepdims=True)
    corner = (smaller == window_max(smaller, radius)) & (smaller > jnp.maximum(quality * strongest, floor))
    bumps = _smooth(corner.astype(jnp.float32), spread_px)
    return bumps * (2 * jnp.pi * spread_px**2)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NetworkHeat:
    """A detector whose heat map is the score map of a model, in the compute type `dtype`."""

    model: SuperPoint | CompiledSuperPoint
    dtype: str = field(default="float32", metadata=dict(static=True))

    def __call__(self, images: Float[Array, "b h w 1"]) -> Float[Array, "b h w"]:
        """The heat maps."""
        return score_map(self.model(images, dtype=self.dtype).logits, rule=self.model.rules.score_rule)


def homographic_adaptation(
    key: PRNGKey,
    images: Float[Array, "b h w 1"],
    image_sizes: Int[Array, "b 2"],
    *,
    detector: Detector,
    num_homographies: int = 40,
) -> Float[Array, "b h w"]:
    """The mean heat of each pixel, in [0, 1], over random views of the image through homographies.

    The first view is the image itself. The mean of a pixel is taken over the views that show it.

    Args:
        key: Source of randomness; the same key gives the same homographies.
        images: Images in [0, 1]; for a network, H and W are multiples of 8.
        image_sizes: (height, width) of the valid area in the top-left corner of each image.
        detector: The detector.
        num_homographies: Number of views, including the image itself.
    """
    if not isinstance(detector, NetworkHeat):
        detector = jax.tree_util.Partial(detector)
    return _adapt(key, images, image_sizes, detector, num_homographies=num_homographies)


@partial(jax.jit, static_argnames="num_homographies")
def _adapt(key: PRNGKey, images: Array, image_sizes: Array, detector: Detector, *, num_homographies: int) -> Array:
    batch, height, width, _ = images.shape
    images = jnp.where(valid_mask(image_sizes, (height, width))[..., None], images, 0)

    def view(total: tuple[Array, Array], step: Array) -> tuple[tuple[Array, Array], None]:
        random = sample_homographies(
            jax.random.fold_in(key, step),
            batch,
            (height, width),
            scale=(0.7, 1.6),
            rotation=0.5,
            perspective=0.2,
            stretch=1.3,
            translation=0.1,
        )
        homographies = jnp.where(step == 0, jnp.eye(3)[None], random)
        warped, valid = warp_images(images, homographies, image_sizes=image_sizes)
        counted = _shrink(valid, FILL_MARGIN_PX)
        # Warped back to the image, whose pixel x is at H x in the view.
        both = jnp.stack([jnp.where(counted, detector(warped), 0), counted.astype(jnp.float32)], axis=-1)
        back, _ = warp_images(both, inverse(homographies))
        return (total[0] + back[..., 0], total[1] + back[..., 1]), None

    zeros = jnp.zeros((batch, height, width))
    (heat, count), _ = lax.scan(view, (zeros, zeros), jnp.arange(num_homographies))
    # A pixel seen in few views must not become a certain label by one lucky detection.
    return heat / jnp.maximum(count, num_homographies / 4)


@partial(jax.jit, static_argnames="max_corners")
def label_corners(
    heat: Float[Array, "b h w"],
    image_sizes: Int[Array, "b 2"],
    *,
    threshold: float | Array = 0.12,
    max_corners: int = 512,
) -> tuple[Float[Array, "b n 2"], Bool[Array, "b n"]]:
    """Corners at the peaks of an averaged heat map, with sub-pixel positions, and the mask of valid rows."""
    config = SuperPointConfig(max_keypoints=max_corners, border_rule="image", refinement="soft_argmax")
    heat = jnp.where(border_mask((heat.shape[1], heat.shape[2]), image_sizes, 0, rule="cells"), heat, 0)
    corners_xy, _, mask, _ = select_keypoints(heat, image_sizes, config=config, keypoint_threshold=threshold)
    return corners_xy, mask


def label_photos(
    key: PRNGKey,
    images: UInt8[np.ndarray, "n h w"],
    image_sizes: Int[np.ndarray, "n 2"],
    *,
    detector: Detector,
    num_homographies: int = 40,
    threshold: float = 0.12,
    max_corners: int = 512,
    batch: int = 8,
) -> tuple[Float[np.ndarray, "n p 2"], Bool[np.ndarray, "n p"]]:
    """Corners of many photos and their mask, by homographic adaptation in batches; see `label_corners`."""
    corners, masks = [], []
    for start in tqdm(range(0, len(images), batch), desc="labels", unit="batch"):
        # The last batch is filled with copies of the last photo, so that one compilation serves all batches.
        index = np.minimum(np.arange(start, start + batch), len(images) - 1)
        sizes = jnp.asarray(image_sizes[index])
        heat = homographic_adaptation(
            jax.random.fold_in(key, start),
            as_float(jnp.asarray(images[index])),
            sizes,
            detector=detector,
            num_homographies=num_homographies,
        )
        corners_xy, mask = label_corners(heat, sizes, threshold=threshold, max_corners=max_corners)
        count = min(batch, len(images) - start)
        corners.append(np.asarray(corners_xy)[:count])
        masks.append(np.asarray(mask)[:count])
    return np.concatenate(corners), np.concatenate(masks)


def _shrink(valid: Array, margin_px: int) -> Array:
    return window_max(1 - valid.astype(jnp.float32), margin_px) == 0


def _smooth(x: Array, sigma: float) -> Array:
    """[B,H,W] smoothed by a separable Gaussian, with zeros outside."""
    radius = round(3 * sigma)
    offsets = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    kernel = jnp.exp(-(offsets**2) / (2 * sigma**2))
    kernel = kernel / jnp.sum(kernel)
    for axis in (1, 2):
        padding = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        padded, length = jnp.pad(x, padding), x.shape[axis]
        shifted = [lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(2 * radius + 1)]
        x = sum((kernel[i] * part for i, part in enumerate(shifted)), start=jnp.zeros_like(x))
    return x
