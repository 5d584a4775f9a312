"""The refinement head: a small network that moves each keypoint to a better place, by less than 2 pixels.

It looks at the pixels of the image and at the score map around the peak of a keypoint. So it sees more than the score
map, whose peaks are placed from features of cells of 8 pixels, and it works with every engine of the dense network.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from superpoint_jax.config import CELL_PX

PATCH_RADIUS_PX = 6
"""The head sees a patch of 13x13 pixels around the peak of a keypoint."""
REACH_PX = 2
"""Largest offset in x and in y."""
_WINDOW_PX = 2 * (PATCH_RADIUS_PX - REACH_PX) + 1
_HIDDEN = (64, 32)
SMALLEST_SCORE = 1e-8
"""Smaller scores count as this, so that their logarithm is finite."""
NOISE = 2 / 255
"""Added to the contrast of a patch, so that the noise of an even area is not amplified."""


class RefinementHead(nnx.Module):
    """For each place within `REACH_PX` of a peak, the logit that the keypoint belongs there; then a soft-argmax.

    The logit of a place is computed from the window of 9x9 pixels around it. It has 12,545 parameters, less
    than 1 % of the network's.

    Source: the idea is that of Kim, Pollefeys, Barath, "Learning to Make Keypoints Sub-Pixel Accurate" (2024); layers
    and training are ours (docs/training.md).
    """

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        channels = (2, *_HIDDEN, 1)
        self.conv_a, self.conv_b, self.conv_c = (
            nnx.Conv(
                channels[i],
                channels[i + 1],
                (size, size),
                padding="VALID",
                # As in the network: float32 means float32 on every platform.
                precision=lax.Precision.HIGHEST,
                kernel_init=nnx.initializers.he_normal(),
                rngs=rngs,
            )
            for i, size in enumerate((_WINDOW_PX, 1, 1))
        )

    def __call__(self, grays: Float[Array, "n p p"], logs: Float[Array, "n p p"]) -> Float[Array, "n 2"]:
        """Offsets (x, y) in pixels from the middle of patches.

        Args:
            grays: Gray values in [0, 1].
            logs: Logarithms of the scores of the keypoint map.
        """
        # The rows of a patch in one axis, because a TPU pads axes of 13 to 16 and to 128.
        flat = _normalized(grays.reshape(len(grays), -1)), _relative(logs.reshape(len(logs), -1))
        x = jnp.stack(flat, axis=-1).reshape(*grays.shape, 2)
        logits = self.conv_c(nnx.relu(self.conv_b(nnx.relu(self.conv_a(x)))))
        side = 2 * REACH_PX + 1
        weights = jax.nn.softmax(logits.reshape(-1, side * side)).reshape(-1, side, side)
        steps = jnp.arange(-REACH_PX, REACH_PX + 1, dtype=jnp.float32)[None]
        return jnp.stack([jnp.sum(jnp.sum(weights, axis=axis) * steps, axis=-1) for axis in (1, 2)], axis=-1)


def refine(
    head: RefinementHead,
    gray: Float[Array, "b h w 1"],
    scores: Float[Array, "b h2 w2"],
    keypoints_xy: Float[Array, "b k 2"],
    mask: Bool[Array, "b k"],
    image_sizes: Int[Array, "b 2"],
) -> Float[Array, "b k 2"]:
    """Keypoints moved by the head; rows where the mask is False are 0, and no keypoint leaves its image.

    The result is differentiable in the images and in the scores.

    Args:
        head: The head.
        gray: Images in [0, 1], as the network saw them. What lies outside `image_sizes` has no influence.
        scores: Score maps.
        keypoints_xy: Whole pixels: the peaks of the score maps.
        mask: True for keypoints.
        image_sizes: (height, width) of each image.
    """
    grays, logs = head_inputs(gray, scores, keypoints_xy, image_sizes)
    moved = keypoints_xy + jax.vmap(head)(grays, logs)
    last = (image_sizes[:, None, ::-1] - 1).astype(moved.dtype)
    return jnp.where(mask[..., None], jnp.clip(moved, 0, last), 0)


def head_inputs(
    gray: Float[Array, "b h w 1"],
    scores: Float[Array, "b h2 w2"],
    keypoints_xy: Float[Array, "b k 2"],
    image_sizes: Int[Array, "b 2"],
) -> tuple[Float[Array, "b k p p"], Float[Array, "b k p p"]]:
    """What the head sees of each keypoint: gray values, and logarithms of scores; see `refine`."""
    gray = jnp.where(jnp.isfinite(gray), gray, 0)[..., 0]
    cells_end = image_sizes // CELL_PX * CELL_PX
    logs = jnp.log(jnp.maximum(_patches(scores, keypoints_xy, cells_end), SMALLEST_SCORE))
    return _patches(gray, keypoints_xy, image_sizes), logs


def _patches(values: Array, keypoints_xy: Array, sizes: Array) -> Array:
    """The patches [B,K,P,P] around whole pixels (x, y); beyond an area of these sizes, its border is repeated."""
    side = 2 * PATCH_RADIUS_PX + 1
    dy, dx = (np.indices((side, side), np.int32) - PATCH_RADIUS_PX).reshape(2, 1, 1, -1)
    x, y = (keypoints_xy[..., axis].astype(jnp.int32)[..., None] for axis in (0, 1))
    rows = jnp.clip(y + dy, 0, sizes[:, :1, None] - 1)
    columns = jnp.clip(x + dx, 0, sizes[:, 1:, None] - 1)
    index = rows * values.shape[2] + columns
    found = jax.vmap(lambda image, i: image[i])(values.reshape(values.shape[0], -1), index)
    return found.reshape(*index.shape[:2], side, side)


def _normalized(grays: Float[Array, "n p"]) -> Array:
    """The patches with mean 0 and contrast 1."""
    centred = grays - jnp.mean(grays, axis=1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, axis=1, keepdims=True) + NOISE**2)


def _relative(logs: Float[Array, "n p"]) -> Array:
    """The logarithms relative to that of the peak, limited and scaled to about 1."""
    middle = logs.shape[1] // 2
    peak = logs[:, middle : middle + 1]
    return jnp.maximum(logs - peak, -8) / 2 + 1
