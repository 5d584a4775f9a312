"""`describe`: descriptors at places that the caller chooses."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, UInt8

from superpoint_jax.config import CELL_PX, SuperPointConfig
from superpoint_jax.description import sample_descriptors
from superpoint_jax.detection import score_map
from superpoint_jax.extraction import check_values, dense_features, rules_of
from superpoint_jax.features import DenseFeatures, Keypoints
from superpoint_jax.model import SuperPoint, check_byte_order, check_images
from superpoint_jax.openvino import CompiledSuperPoint
from superpoint_jax.processing.coordinates import rescale_keypoints
from superpoint_jax.sharding import placed_like


def describe(
    model: SuperPoint | CompiledSuperPoint,
    images: Float[Array | np.ndarray, "b h w c"] | UInt8[Array | np.ndarray, "b h w c"],
    keypoints_xy: Float[Array | np.ndarray, "b k 2"],
    mask: Bool[Array | np.ndarray, "b k"] | None = None,
    *,
    image_sizes: Int[Array | np.ndarray, "b 2"] | None = None,
    **options: Any,
) -> Keypoints:
    """Descriptors and scores at given places, in the given order.

    A row whose mask is False, or whose place lies outside its image or is not finite, is padding: its mask is False and
    its values are 0. The score is that of the pixel nearest to the place, without threshold and suppression; in the
    last pixels of a side that is no multiple of 8 there is no score, and it is 0. `num_detected` counts the valid rows.

    Jitted, and works under every transformation; the descriptors are differentiable in the images and in the places.

    Args:
        model: The network with the rules that decode its output, or the result of `openvino.compile`.
        images: As in `extract`.
        keypoints_xy: (x, y) in pixels of the arrays, pixel centres at integers.
        mask: True for rows that hold a place; by default all.
        image_sizes: As in `extract`.
        **options: As in `extract`: `dtype`, `enlarge`, `sampling_rule`, ...

    Raises:
        ValueError: As in `extract`; also if the places or the mask have another shape or type.
        TypeError: An option does not exist.
    """
    check_images(images, image_sizes)
    check_values(images)
    check_places(keypoints_xy, mask, images.shape[0])
    return _describe(model, images, keypoints_xy, mask, image_sizes, rules=rules_of(model, options))


def check_places(keypoints_xy: Any, mask: Any, batch: Any) -> None:
    """Raise a ValueError if the places are not floats [B,K,2], or the mask is not bool [B,K]."""
    shape = np.shape(keypoints_xy)
    if len(shape) != 3 or shape[0] != batch or shape[2] != 2:
        hint = " (keypoints_xy[None] for a single image)" if len(shape) == 2 else ""
        raise ValueError(f"keypoints_xy have shape {shape}; ({batch}, K, 2) is needed{hint}")
    if not hasattr(keypoints_xy, "dtype") or not jnp.issubdtype(keypoints_xy.dtype, jnp.floating):
        kind = getattr(keypoints_xy, "dtype", type(keypoints_xy).__name__)
        raise ValueError(f"keypoints_xy have type {kind}; an array of floats is needed")
    check_byte_order(keypoints_xy, "keypoints_xy")
    if mask is not None and (np.shape(mask) != shape[:2] or not hasattr(mask, "dtype") or mask.dtype != bool):
        kind = getattr(mask, "dtype", type(mask).__name__)
        raise ValueError(f"mask has shape {np.shape(mask)} and type {kind}; {shape[:2]} and bool are needed")


@partial(jax.jit, static_argnames="rules")
def _describe(
    model: SuperPoint | CompiledSuperPoint,
    images: Array | np.ndarray,
    keypoints_xy: Array | np.ndarray,
    mask: Array | np.ndarray | None,
    image_sizes: Array | np.ndarray | None,
    *,
    rules: SuperPointConfig,
) -> Keypoints:
    keypoints_xy = jnp.asarray(keypoints_xy, jnp.float32)
    mask = jnp.ones(keypoints_xy.shape[:2], bool) if mask is None else jnp.asarray(mask)
    dense, _, given, seen = dense_features(model, images, image_sizes, rules=rules)
    described = placed_like(dense.logits, partial(_described, rules=rules))
    return described(dense, keypoints_xy, mask, given, seen)


def _described(
    dense: DenseFeatures, keypoints_xy: Array, mask: Array, given: Array, seen: Array, *, rules: SuperPointConfig
) -> Keypoints:
    """The keypoints of images of (height, width) `given` that the network saw at `seen`."""
    end = given[:, None, ::-1].astype(jnp.float32) - 0.5
    mask &= ((keypoints_xy >= -0.5) & (keypoints_xy < end)).all(-1)
    # Places that do not count are moved, because a derivative of what is not finite would make the others NaN.
    keypoints_xy = jnp.where(mask[..., None], keypoints_xy, 0)
    places_xy = keypoints_xy if rules.enlarge == 1 else rescale_keypoints(keypoints_xy, given, seen)
    cells_end = (seen // CELL_PX * CELL_PX)[:, None, ::-1]
    # Beyond the cells, the descriptor is that of the nearest place within them.
    within = jnp.clip(places_xy, 0, (cells_end - 1).astype(jnp.float32))
    descriptors = sample_descriptors(dense.descriptors, within, mask, seen, rule=rules.sampling_rule)
    pixels = jnp.maximum(jnp.floor(jax.lax.stop_gradient(places_xy) + 0.5).astype(jnp.int32), 0)
    scores = score_map(dense.logits, rule=rules.score_rule)
    scored = mask & (pixels < cells_end).all(-1)
    pixels = jnp.where(scored[..., None], pixels, 0)
    values = jax.vmap(lambda image, xy: image[xy[:, 1], xy[:, 0]])(scores, pixels)
    return Keypoints(
        keypoints=keypoints_xy,
        scores=jnp.where(scored, values, 0),
        descriptors=descriptors,
        mask=mask,
        num_detected=jnp.sum(mask, axis=1, dtype=jnp.int32),
        image_sizes=given,
    )
