"""The functions in exported files, from arrays to arrays: `extract` with fixed options, or `extract` and `match`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from superpoint_jax.config import CELL_PX
from superpoint_jax.extraction import extract
from superpoint_jax.features import Keypoints
from superpoint_jax.matching import Matcher, match
from superpoint_jax.model import SuperPoint

INPUTS = ("images", "image_sizes")
"""float32 [B,H,W,C] in [0, 1]; int32 [B,2], the true (height, width) of each image in the top-left corner.

In a file that matches, B pairs of images: float32 [B,2,H,W,C]; int32 [B,2,2]. ONNX files have the second input only
if they are for images of mixed sizes.
"""

OUTPUTS = ("keypoints", "scores", "descriptors", "mask")
"""float32 [B,K,2], (x, y) in pixels; float32 [B,K]; float32 [B,K,256]; bool [B,K], False for rows that are padding."""

PAIR_OUTPUTS = (*OUTPUTS, "matches", "matching_scores")
"""In a file that matches: the same of B pairs, [B,2,K,...]; int32 [B,K], row of the partner in the second image of each
keypoint of the first one, -1 where there is none; float32 [B,K], the scores of the matches, 0 where there is none."""

Features = tuple[Array, ...]
ExportedMatcher = Matcher | Literal["nearest"] | None
"""What matches in a file: a network, mutual nearest neighbours, or nothing."""


def networks_of(model: SuperPoint, matcher: ExportedMatcher) -> Any:
    """The networks of a file, as a pytree: the first argument of `function_of`."""
    return {"extractor": model, "matcher": matcher} if isinstance(matcher, Matcher) else model


def function_of(matcher: ExportedMatcher, **options: Any) -> Callable[[Any, Array, Array], Features]:
    """A function from (networks, images, image_sizes) to `OUTPUTS`, with these options of `extract`.

    With a matcher, it is a function from pairs of images to `PAIR_OUTPUTS`.
    """

    def features_of(model: SuperPoint, images: Array, image_sizes: Array) -> Keypoints:
        return extract(model, images, image_sizes=image_sizes, **options)

    def extracted(networks: Any, images: Array, image_sizes: Array) -> Features:
        features = features_of(networks, images, image_sizes)
        return tuple(getattr(features, name) for name in OUTPUTS)

    def matched(networks: Any, images: Array, image_sizes: Array) -> Features:
        model, network = (
            (networks["extractor"], networks["matcher"]) if isinstance(networks, dict) else (networks, None)
        )
        flat = features_of(model, images.reshape(-1, *images.shape[2:]), image_sizes.reshape(-1, 2))
        found = (getattr(flat, name) for name in OUTPUTS)
        keypoints, scores, descriptors, mask = (leaf.reshape(-1, 2, *leaf.shape[1:]) for leaf in found)
        matches = matched_pairs(network, keypoints, scores, descriptors, mask, image_sizes)
        return keypoints, scores, descriptors, mask, *matches

    return extracted if matcher is None else matched


def matched_pairs(
    network: Matcher | None, keypoints: Array, scores: Array, descriptors: Array, mask: Array, image_sizes: Array
) -> tuple[Array, Array]:
    """The last two of `PAIR_OUTPUTS`, from the others and the sizes of the images [B,2,2]."""

    def side(index: int) -> Keypoints:
        of_side = mask[:, index]
        return Keypoints(
            keypoints=keypoints[:, index],
            scores=scores[:, index],
            descriptors=descriptors[:, index],
            mask=of_side,
            num_detected=jnp.sum(of_side, axis=1, dtype=jnp.int32),
            image_sizes=image_sizes[:, index],
        )

    matched_by = partial(match, matcher=network)
    # A symbolic number of pairs can only be mapped over, and jax2onnx can't convert that for a LightGlue.
    found = (matched_by if isinstance(mask.shape[0], int) else jax.vmap(matched_by))(side(0), side(1))
    return found.indices, found.scores


def check_input(shape: Any, channels: int, weights: str) -> None:
    """Raise a ValueError if what is asked of a file is not possible."""
    if channels not in (1, 3):
        raise ValueError(f"channels={channels}; images are gray (1) or RGB (3)")
    if shape is not None and (len(shape) != 2 or min(shape) < CELL_PX):
        raise ValueError(f"shape={shape}; (height, width) of at least {CELL_PX} x {CELL_PX} pixels is needed")
    if weights not in ("inside", "beside"):
        raise ValueError(f"weights={weights!r}; inside or beside the file")


def input_shapes(
    batch: Any, shape: tuple[int, int], channels: int, *, pairs: bool = False
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Shapes of `INPUTS`."""
    first = (batch, 2) if pairs else (batch,)
    images = jax.ShapeDtypeStruct((*first, *shape, channels), jnp.float32)
    return images, jax.ShapeDtypeStruct((*first, 2), jnp.int32)
