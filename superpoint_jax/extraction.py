"""The complete extraction: images -> dense features -> keypoints -> descriptors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, UInt8

from superpoint_jax.config import CELL_PX, NETWORK_FIELDS, SuperPointConfig
from superpoint_jax.description import sample_descriptors
from superpoint_jax.detection import Threshold, checked_threshold, score_map, select_keypoints
from superpoint_jax.enlargement import enlarge, enlarged_shape
from superpoint_jax.features import DenseFeatures, Keypoints
from superpoint_jax.model import SuperPoint, check_images, to_gray
from superpoint_jax.openvino import CompiledSuperPoint
from superpoint_jax.processing.coordinates import rescale_keypoints
from superpoint_jax.processing.host import check_range
from superpoint_jax.refinement import RefinementHead, refine
from superpoint_jax.regions import check_region, enlarged_region
from superpoint_jax.sharding import placed_like


def extract(
    model: SuperPoint | CompiledSuperPoint,
    images: Float[Array | np.ndarray, "b h w c"] | UInt8[Array | np.ndarray, "b h w c"],
    *,
    image_sizes: Int[Array | np.ndarray, "b 2"] | None = None,
    region: Bool[Array | np.ndarray, "b h w"] | None = None,
    keypoint_threshold: Threshold | None = None,
    output_hidden_states: bool = False,
    **options: Any,
) -> Keypoints:
    """Keypoints and descriptors of a batch of images, padded to a fixed number of rows.

    The function is jitted and works under the caller's `jit`, `vmap`, `grad`, `jvp`, `scan` and any sharding. It is
    compiled once per shape, type and set of options. The result for an image is the same alone, in a batch or (with
    `image_sizes`) padded.

    Args:
        model: The network with the rules that decode its output, or the result of `openvino.compile`.
        images: 1 or 3 channels, float in [0, 1] or uint8, at least 8x8. Values in numpy arrays are checked, because
            floats from 0 to 255 saturate the network; values on a device are not. Around values that are not finite
            there are no keypoints.
        image_sizes: True (height, width) of each image, in the top-left corner of its array. The values outside are
            ignored.
        region: Mask of where keypoints may be, in pixels of the array passed in; it may be traced. A keypoint is kept
            if its pixel is True (before any refinement). That happens before the cut to K rows, so that the rows are
            filled from the region. `num_detected` counts the keypoints in the region. The network still sees the whole
            image, so the keypoints are those that the image has there without a region.
        keypoint_threshold: Smallest score of a keypoint, one for all images or one per image [B]; by default the
            model's. It may be traced, and a new value needs no compilation.
        output_hidden_states: Also return the output of each encoder block.
        **options: Any other field of `SuperPointConfig` that does not define the network, instead of the model's:
            `max_keypoints`, `nms_radius`, `dtype`, ...

    Raises:
        ValueError: The images have another shape or type or floats far outside [0, 1], or an option is out of range or
            fixed by the weights.
        TypeError: An option does not exist.
    """
    check_images(images, image_sizes)
    check_values(images)
    if region is not None:
        check_region(region, images.shape)
    rules = rules_of(model, options)
    threshold = model.keypoint_threshold[...] if keypoint_threshold is None else keypoint_threshold
    return _extract(
        model,
        images,
        image_sizes,
        region,
        checked_threshold(threshold, images.shape[0]),
        rules=rules,
        output_hidden_states=output_hidden_states,
    )


def rules_of(model: SuperPoint | CompiledSuperPoint, options: Mapping[str, Any]) -> SuperPointConfig:
    """The rules of the model with other options.

    Raises:
        ValueError: An option is out of range or fixed by the weights.
        TypeError: An option does not exist.
    """
    rules = model.rules.replace(**options)
    for name in NETWORK_FIELDS:
        given, fixed = getattr(rules, name), getattr(model.rules, name)
        if given != fixed:
            raise ValueError(f"{name}={given} can't be set here: this model has {fixed}; build another SuperPoint")
    return rules


def check_values(images: Any) -> None:
    """Raise a ValueError if a numpy array of floats reaches far outside [0, 1]."""
    if not isinstance(images, np.ndarray) or images.dtype == np.uint8:
        return
    if not (images.min() >= -1 and images.max() <= 2):  # NaN too, which is allowed and looked at more closely.
        finite = images[np.isfinite(images)]
        if finite.size:
            check_range(finite, "images have")


def decode(
    dense: DenseFeatures,
    image_sizes: Int[Array, "b 2"],
    *,
    config: SuperPointConfig,
    keypoint_threshold: Threshold | None = None,
    region: Bool[Array, "b _h _w"] | None = None,
    gray: Float[Array, "b _h2 _w2 1"] | None = None,
    head: RefinementHead | None = None,
    whole: bool = False,
) -> Keypoints:
    """Keypoints from the dense features of images of (height, width) `image_sizes`, by the rules of the configuration.

    Cells with a logit that is not finite have no keypoint, and values of descriptors that are not finite count as 0. A
    `keypoint_threshold` replaces that of the configuration, and may be traced. A `region`, at the size that the network
    saw, says where keypoints may be. The rule refinement="learned" needs the `gray` images that the network saw, and
    the refinement `head`. `whole` says that the images fill their arrays, so that no cell lies outside.
    """
    decoded = placed_like(dense.logits, partial(_decode, config=config, whole=whole))
    return decoded(dense, image_sizes, keypoint_threshold, region, gray, head)


def _decode(
    dense: DenseFeatures,
    image_sizes: Array,
    keypoint_threshold: Threshold | None,
    region: Array | None,
    gray: Array | None,
    head: RefinementHead | None,
    *,
    config: SuperPointConfig,
    whole: bool,
) -> Keypoints:
    heat = score_map(dense.logits, None if whole else image_sizes, rule=config.score_rule)
    keypoints, scores, mask, num_detected = select_keypoints(
        heat, image_sizes, config=config, keypoint_threshold=keypoint_threshold, region=region
    )
    if config.refinement == "learned":
        if gray is None or head is None:
            raise ValueError("refinement='learned' needs the images that the network saw, and a refinement head")
        with jax.named_scope("refinement"):
            keypoints = refine(head, gray, heat, keypoints, mask, image_sizes)
    # A small image may have fewer pixels than there are rows.
    used = min(keypoints.shape[1], math.prod(dense.logits.shape[1:3]) * CELL_PX**2)
    with jax.named_scope("descriptors"):
        descriptors = sample_descriptors(
            dense.descriptors, keypoints[:, :used], mask[:, :used], image_sizes, rule=config.sampling_rule
        )
    descriptors = jnp.pad(descriptors, ((0, 0), (0, keypoints.shape[1] - used), (0, 0)))
    return Keypoints(
        keypoints=keypoints,
        scores=scores,
        descriptors=descriptors,
        mask=mask,
        num_detected=num_detected,
        image_sizes=image_sizes,
        hidden_states=dense.hidden_states,
    )


@partial(jax.jit, static_argnames=("rules", "output_hidden_states"))
def _extract(
    model: SuperPoint | CompiledSuperPoint,
    images: Array | np.ndarray,
    image_sizes: Array | np.ndarray | None,
    region: Array | np.ndarray | None,
    keypoint_threshold: Threshold,
    *,
    rules: SuperPointConfig,
    output_hidden_states: bool,
) -> Keypoints:
    dense, gray, given, seen = dense_features(
        model, images, image_sizes, rules=rules, output_hidden_states=output_hidden_states
    )
    if region is not None:
        region = jnp.asarray(region)
        if rules.enlarge != 1:
            shape = enlarged_shape((images.shape[1], images.shape[2]), rules.enlarge)
            region = placed_like(dense.logits, partial(enlarged_region, shape=shape))(region, given, seen)
    found = decode(
        dense,
        seen,
        config=rules,
        keypoint_threshold=keypoint_threshold,
        region=region,
        gray=gray,
        head=model.refinement_head,
        whole=image_sizes is None,
    )
    if rules.enlarge == 1:
        return found
    keypoints_xy = jnp.where(found.mask[..., None], rescale_keypoints(found.keypoints, seen, given), 0)
    return dataclasses.replace(found, keypoints=keypoints_xy, image_sizes=given)


def whole_sizes(images: Float[Array, "b h w c"]) -> Int[Array, "b 2"]:
    """(height, width) of images that fill their arrays."""
    return jnp.broadcast_to(jnp.array(images.shape[1:3], jnp.int32), (images.shape[0], 2))


def dense_features(
    model: SuperPoint | CompiledSuperPoint,
    images: Array | np.ndarray,
    image_sizes: Array | np.ndarray | None,
    *,
    rules: SuperPointConfig,
    output_hidden_states: bool = False,
) -> tuple[DenseFeatures, Float[Array, "b _h _w 1"], Int[Array, "b 2"], Int[Array, "b 2"]]:
    """The output of the network, the gray images that it sees, and two (height, width): as given, and as it sees them.

    They differ if the rules enlarge the images.
    """
    # Converted here and not in the model, because the model only knows its own rule.
    images = to_gray(images, rules.channel_rule)
    given = placed_like(images, whole_sizes)(images) if image_sizes is None else jnp.asarray(image_sizes, jnp.int32)
    seen = given
    if rules.enlarge != 1:
        images, seen = placed_like(images, partial(enlarge, factor=rules.enlarge))(images, given)
    dense = model(
        images,
        image_sizes=None if image_sizes is None else seen,
        dtype=rules.dtype,
        output_hidden_states=output_hidden_states,
    )
    return dense, images, given, seen
