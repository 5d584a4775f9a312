"""To LightGlue, which lives in PyTorch, and back: its tensors as arrays that DLPack hands over without a copy.

LightGlue's weights belong to one kind of descriptors: those published for SuperPoint go with Magic Leap's, so
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
    """What cvg/LightGlue takes for its `image0` or `image1`: keypoints [B,M,2], descriptors [B,M,D], image_size [B,2].

    It knows no mask, so padding rows are cut off; images of a batch must have equally many valid rows for that. Not for
    inside `jit`. Coordinates stay pixels, centres at integers, as LightGlue was trained with.

    Args:
        keypoints: Of a batch of images, or of one, which becomes a batch of one.
        image_size: (height, width), as everywhere here; by default the keypoints'. Comes out as (width, height).

    Raises:
        ValueError: Images of a batch that have different numbers of keypoints.
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
    """What the matching of transformers' `LightGlueForKeypointMatching` takes: `_match_image_pair(**tensors)`.

    keypoints [B,2,K,2] in pixels, descriptors [B,2,K,D], mask int32 [B,2,K], height and width. K is the larger of both
    sides; padding rows are masked. It knows one size for all images.

    Args:
        a: First images of the pairs, a batch or one.
        b: Second images.
        image_size: (height, width) of all; by default that of the keypoints, which must then be the same for all.

    Raises:
        ValueError: Batches of different lengths, or images of different sizes and no `image_size`.
    """
    a, b = _batch(a), _batch(b)
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} images and b has {len(b)}; pairs need equally many")
    if image_size is None:
        sizes = np.unique(np.concatenate([np.asarray(a.image_sizes), np.asarray(b.image_sizes)]), axis=0)
        if len(sizes) != 1:
            raise ValueError(
                f"the images have the sizes {sizes.tolist()}; transformers' LightGlue knows one: give image_size"
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
    """LightGlue's answer as `Matches` of a's rows: its matches0 and matching_scores0.

    Transformers' have both images of a pair in turn: `matches.reshape(B, 2, -1)[:, 0]`, and the scores alike. It may
    match padding with padding; that is dropped here.

    Args:
        indices: Row of the partner, -1 where none; any array that DLPack or numpy understands.
        scores: Of the matches.
        a: The first images' keypoints, as they were given to `to_torch_lightglue`: a batch, or one.
        b: The second images'.

    Raises:
        ValueError: An answer that is not of these keypoints.
    """
    if a.mask.ndim == 1:
        return from_torch_lightglue(indices, scores, _batch(a), _batch(b))[0]
    found, confidence = jnp.asarray(indices).astype(jnp.int32), jnp.asarray(scores).astype(jnp.float32)
    count, rows = a.mask.shape
    if len(found) != count or (found.shape[1] > rows and bool((found[:, rows:] >= 0).any())):
        raise ValueError(f"indices have shape {found.shape}, and a's mask {a.mask.shape}: not of these keypoints")
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
