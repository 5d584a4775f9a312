"""Conversions of keypoint coordinates: between image sizes, to relative ones, and Hugging Face's post-processing.

Coordinates are (x, y) in pixels with pixel centres at integers, so an image reaches from -0.5 to width - 0.5. Sizes
are (height, width).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from superpoint_jax.features import Keypoints

PostProcessRule = Literal["exact", "huggingface"]


def rescale_keypoints(
    keypoints_xy: Float[Array, "*b k 2"] | Float[np.ndarray, "*b k 2"], from_size: Any, to_size: Any
) -> Float[Array, "*b k 2"] | Float[np.ndarray, "*b k 2"]:
    """The keypoints in pixels of the resized image: (k + 0.5) * to / from - 0.5 along each axis.

    This is exact for every resize that treats pixels as areas (Pillow, jax.image, OpenCV, torch with
    align_corners=False). Swap the two sizes to go back. Numpy arrays give numpy arrays, and jax arrays give jax arrays;
    it works under `jit`.

    Args:
        keypoints_xy: (x, y) in pixels of an image of `from_size`.
        from_size: (height, width), or an array [*b, 2] with the size of each image.
        to_size: (height, width) after the resize, or an array like `from_size`.
    """
    scale = _width_height(to_size, keypoints_xy) / _width_height(from_size, keypoints_xy)
    return (keypoints_xy + 0.5) * scale - 0.5


def relative_keypoints(
    keypoints_xy: Float[Array, "*b k 2"] | Float[np.ndarray, "*b k 2"], size: Any
) -> Float[Array, "*b k 2"] | Float[np.ndarray, "*b k 2"]:
    """The relative coordinates that transformers' SuperPoint returns: (x, y) / (width, height).

    As in transformers, the centre of the top-left pixel is (0, 0).
    """
    return keypoints_xy / _width_height(size, keypoints_xy)


def post_process_keypoint_detection(
    outputs: Keypoints | Any, target_sizes: Any, *, rule: PostProcessRule | str = "exact"
) -> list[dict[str, np.ndarray]]:
    """The keypoints without padding rows, in pixels of the original images: one dictionary per image.

    Each has "keypoints" [N,2], "scores" [N] and "descriptors" [N,D], all numpy arrays.

    Args:
        outputs: The keypoints of the model, in pixels of the images that it was given; or the output of the model of
            `superpoint_jax.huggingface`.
        target_sizes: (height, width) of each original image: a list of pairs or an array [B,2].
        rule: "exact" maps pixel centres (`rescale_keypoints`), in float32. "huggingface" gives exactly the int32
            coordinates of transformers: x / width * target width, truncated towards zero. These lie half a pixel or
            more to the top left.

    Raises:
        ValueError: `target_sizes` is not one (height, width) for each image, or the rule is not known.

    Source: "huggingface" is transformers' `post_process_keypoint_detection`; tests/parity/test_processor.py.
    """
    if rule not in ("exact", "huggingface"):
        raise ValueError(f"rule={rule!r} is not known; choose 'exact' or 'huggingface'")
    # The outputs of superpoint_jax.huggingface have relative coordinates, and convert themselves to pixels.
    outputs = getattr(outputs, "in_pixels", lambda: outputs)()
    if outputs.mask.ndim != 2:
        raise ValueError(
            f"outputs of a batch are needed [B,K]; mask has shape {outputs.mask.shape}. Index with a slice"
        )
    targets = _target_sizes(target_sizes, len(outputs.mask))
    results = []
    for found, target in zip(outputs.to_list(), targets, strict=True):
        size = found.pop("image_size")
        if rule == "exact":
            keypoints_xy = rescale_keypoints(found["keypoints"], size, target)
        else:
            relative = relative_keypoints(found["keypoints"], size)
            keypoints_xy = (relative * target[::-1].astype(np.float32)).astype(np.int32)
        results.append({**found, "keypoints": keypoints_xy})
    return results


def _target_sizes(sizes: Any, count: int) -> Int[np.ndarray, "b 2"]:
    if len(sizes) != count:
        raise ValueError(f"target_sizes has {len(sizes)} entries; {count} are needed, one (height, width) per image")
    if isinstance(sizes, Sequence) and any(np.shape(size) != (2,) for size in sizes):
        raise ValueError(f"target_sizes={sizes!r}; each entry must be the (height, width) of an image")
    array = np.asarray(sizes)
    if array.shape != (count, 2):
        raise ValueError(f"target_sizes has shape {array.shape}; ({count}, 2) is needed: (height, width) of each image")
    return array


def _width_height(size: Any, keypoints_xy: Any) -> Any:
    """(width, height) in the array library and the type of the keypoints, with a shape that broadcasts over them."""
    library = jnp if isinstance(keypoints_xy, jax.Array) else np
    size = library.asarray(size).astype(keypoints_xy.dtype)[..., None, ::-1]
    # The rank is explicit, because the tests (and careful users) forbid implicit promotion.
    return size.reshape((1,) * (keypoints_xy.ndim - size.ndim) + size.shape)
