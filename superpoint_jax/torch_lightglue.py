"""Converts keypoints into inputs of LightGlue in PyTorch, and its matches back; DLPack avoids copies of the arrays.

LightGlue's weights belong to one kind of descriptors. Those published for SuperPoint need Magic Leap's descriptors:
`from_pretrained("magic-leap-community/superpoint", config="lightglue")`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int
from typing_extensions import deprecated

from superpoint_jax.features import Keypoints
from superpoint_jax.matching import Matches


def to_torch_lightglue(
    keypoints: Keypoints, image_size: Int[Array | np.ndarray, "b 2"] | tuple[int, int] | None = None
) -> dict[str, Array]:
    """The `image0` or `image1` of cvg's LightGlue: keypoints [B,M,2], descriptors [B,M,D], image_size [B,2].

    cvg's LightGlue has no mask, so padding rows are cut off, and all images of a batch must have the same number of
    keypoints. The function does not work inside `jit`. Coordinates stay in pixels with centres at integers, as in
    LightGlue's training.

    Args:
        keypoints: Keypoints of a batch of images, or of one image, which becomes a batch of one.
        image_size: (height, width); by default that of the keypoints. The result has (width, height).

    Raises:
        ValueError: The images of a batch have different numbers of keypoints.
    """
    keypoints = _batch(keypoints)
    counts = np.asarray(keypoints.mask.sum(axis=1))
    if len(set(counts.tolist())) > 1:
        raise ValueError(
            f"the images have {counts.min()} to {counts.max()} keypoints, and LightGlue takes no mask; give one "
            f"image at a time, to_torch_lightglue(keypoints[i]), or use to_torch_lightglue_pairs, which has a mask"
        )
    # Valid rows come first.
    count = int(counts[0]) if len(counts) else 0
    sizes = keypoints.image_sizes if image_size is None else jnp.asarray(image_size, jnp.int32).reshape(-1, 2)
    return {
        "keypoints": keypoints.keypoints[:, :count],
        "descriptors": keypoints.descriptors[:, :count],
        "image_size": jnp.broadcast_to(sizes[:, ::-1], (len(counts), 2)).astype(jnp.float32),
    }


def to_torch_lightglue_pairs(a: Keypoints, b: Keypoints, image_size: tuple[int, int] | None = None) -> dict[str, Any]:
    """The arguments of `_match_image_pair`, the matching of transformers' `LightGlueForKeypointMatching`.

    They are keypoints [B,2,K,2] in pixels, descriptors [B,2,K,D], mask int32 [B,2,K], height and width. K is the larger
    K of both sides; padding rows are masked. All images have the same size.

    Args:
        a: Keypoints of the first images of the pairs: a batch, or one image.
        b: Keypoints of the second images.
        image_size: (height, width) of all images; by default that of the keypoints, which must then be the same for
            all.

    Raises:
        ValueError: The batches have different lengths, or the images have different sizes and `image_size` is missing.
    """
    a, b = _batch(a), _batch(b)
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} images and b has {len(b)}; the numbers must be equal")
    if image_size is None:
        sizes = np.unique(np.concatenate([np.asarray(a.image_sizes), np.asarray(b.image_sizes)]), axis=0)
        if len(sizes) != 1:
            raise ValueError(
                f"the images have the sizes {sizes.tolist()}; transformers' LightGlue takes only one: give image_size"
            )
        image_size = (int(sizes[0, 0]), int(sizes[0, 1]))
    rows = max(a.mask.shape[1], b.mask.shape[1])

    def pair(x: Array, y: Array) -> Array:
        sides = [jnp.pad(side, [(0, 0), (0, rows - side.shape[1])] + [(0, 0)] * (side.ndim - 2)) for side in (x, y)]
        return jnp.stack(sides, axis=1)

    return {
        "keypoints": pair(a.keypoints, b.keypoints),
        "descriptors": pair(a.descriptors, b.descriptors),
        "mask": pair(a.mask, b.mask).astype(jnp.int32),
        "height": image_size[0],
        "width": image_size[1],
    }


def from_torch_lightglue(indices: Int[Any, "b m"], scores: Float[Any, "b m"], a: Keypoints, b: Keypoints) -> Matches:
    """LightGlue's `matches0` and `matching_scores0` as `Matches` for the rows of a.

    The results of transformers hold both images of each pair: pass `matches.reshape(B, 2, -1)[:, 0]`, and the same part
    of the scores. transformers may match padding rows with each other; such matches are dropped.

    Args:
        indices: Row of the partner, -1 where there is none; any array that DLPack or numpy can read.
        scores: Scores of the matches.
        a: Keypoints of the first images, as they were given to `to_torch_lightglue`: a batch, or one image.
        b: Keypoints of the second images.

    Raises:
        ValueError: The indices do not belong to these keypoints.
    """
    if a.mask.ndim == 1:
        return from_torch_lightglue(indices, scores, _batch(a), _batch(b))[0]
    found, confidence = jnp.asarray(indices).astype(jnp.int32), jnp.asarray(scores).astype(jnp.float32)
    count, rows = a.mask.shape
    if len(found) != count or (found.shape[1] > rows and bool((found[:, rows:] >= 0).any())):
        raise ValueError(
            f"indices have shape {found.shape}, and a.mask has {a.mask.shape}: they do not belong to these keypoints"
        )
    padding = ((0, 0), (0, max(rows - found.shape[1], 0)))
    found = jnp.pad(found[:, :rows], padding, constant_values=-1)
    confidence = jnp.pad(confidence[:, :rows], padding)
    partner = jnp.clip(found, 0, b.mask.shape[1] - 1)
    mask = (found >= 0) & a.mask & jnp.take_along_axis(b.mask, partner, axis=1)
    return Matches(indices=jnp.where(mask, found, -1), scores=jnp.where(mask, confidence, 0), mask=mask)


def _batch(keypoints: Keypoints) -> Keypoints:
    return keypoints if keypoints.mask.ndim > 1 else jax.tree.map(lambda leaf: leaf[None], keypoints)


@deprecated("to_lightglue is now called to_torch_lightglue")
def to_lightglue(*arguments: Any, **options: Any) -> dict[str, Array]:
    """The old name of `to_torch_lightglue`."""
    return to_torch_lightglue(*arguments, **options)


@deprecated("to_lightglue_pairs is now called to_torch_lightglue_pairs")
def to_lightglue_pairs(*arguments: Any, **options: Any) -> dict[str, Any]:
    """The old name of `to_torch_lightglue_pairs`."""
    return to_torch_lightglue_pairs(*arguments, **options)


@deprecated("from_lightglue is now called from_torch_lightglue")
def from_lightglue(*arguments: Any, **options: Any) -> Matches:
    """The old name of `from_torch_lightglue`."""
    return from_torch_lightglue(*arguments, **options)
