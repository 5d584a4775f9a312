"""Pseudo-labels: homographic adaptation of any detector, a network's or a classical one's.

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
from superpoint_jax.detection import score_map, select_keypoints, window_max
from superpoint_jax.geometry import PRNGKey, inverse, sample_homographies, warp_images
from superpoint_jax.model import SuperPoint, valid_mask
from superpoint_jax.openvino import CompiledSuperPoint
from superpoint_jax.training.labelled import as_float

Detector = Callable[[Array], Array]
"""Images [B,H,W,1] in [0, 1] to a heat map [B,H,W] in [0, 1]: a function, or a pytree that can be called."""

FILL_MARGIN_PX = 6
"""Detections nearer than this to where a warped image ends are not counted: the end itself looks like an edge."""


def corner_heat(
    images: Float[Array, "b h w 1"],
    *,
    radius: int = 4,
    quality: float = 0.02,
    floor: float = 1e-4,
    spread_px: float = 1.0,
) -> Float[Array, "b h w"]:
    """Corners of Shi and Tomasi as a heat map: a small bump of height 1 at each.

    A corner is the maximum of its (2 radius + 1)^2 window in the smaller eigenvalue of the structure tensor, and more
    than `quality` times the largest of the image and than `floor` (squared gray value; sensor noise stays below).

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
    """The score map of a model as a detector, in the compute type `dtype`."""

    model: SuperPoint | CompiledSuperPoint
    dtype: str = field(default="float32", metadata=dict(static=True))

    def __call__(self, images: Float[Array, "b h w 1"]) -> Float[Array, "b h w"]:
        """The heat map."""
        return score_map(self.model(images, dtype=self.dtype).logits, rule=self.model.rules.score_rule)


def homographic_adaptation(
    key: PRNGKey,
    images: Float[Array, "b h w 1"],
    image_sizes: Int[Array, "b 2"],
    *,
    detector: Detector,
    num_homographies: int = 40,
) -> Float[Array, "b h w"]:
    """How often a pixel is detected when the image is seen through random homographies: the mean heat, in [0, 1].

    The identity is always among them. Each pixel's mean is over the homographies that show it.

    Args:
        key: Source of randomness; the same key gives the same homographies.
        images: In [0, 1]; H and W multiples of 8 for a network.
        image_sizes: Valid (height, width) in the top-left corner of each.
        detector: Heat map of a batch of images.
        num_homographies: How many, the identity among them.
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
        # Back in the frame of the image: its pixel x is at H x in the view.
        both = jnp.stack([jnp.where(counted, detector(warped), 0), counted.astype(jnp.float32)], axis=-1)
        back, _ = warp_images(both, inverse(homographies))
        return (total[0] + back[..., 0], total[1] + back[..., 1]), None

    zeros = jnp.zeros((batch, height, width))
    (heat, count), _ = lax.scan(view, (zeros, zeros), jnp.arange(num_homographies))
    # A pixel seen in few views has no say: one lucky detection would be a sure label.
    return heat / jnp.maximum(count, num_homographies / 4)


@partial(jax.jit, static_argnames="max_corners")
def label_corners(
    heat: Float[Array, "b h w"],
    image_sizes: Int[Array, "b 2"],
    *,
    threshold: float | Array = 0.12,
    max_corners: int = 512,
) -> tuple[Float[Array, "b n 2"], Bool[Array, "b n"]]:
    """The peaks of an averaged heat map as corners with sub-pixel positions, and which rows are valid."""
    config = SuperPointConfig(max_keypoints=max_corners, border_rule="image", refinement="soft_argmax")
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
    """Corners of many photos by homographic adaptation, in batches, with a progress bar; see `label_corners`."""
    corners, masks = [], []
    for start in tqdm(range(0, len(images), batch), desc="labels", unit="batch"):
        # The last batch is filled up with the last photo: one compilation for all.
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
    """Gaussian smoothing of [B,H,W], separable, zeros outside."""
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
