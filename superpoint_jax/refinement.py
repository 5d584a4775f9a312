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
"""The head sees the patch within this distance of the peak of a keypoint."""
PATCH_PX = 2 * PATCH_RADIUS_PX + 1
"""Side of a patch."""
REACH_PX = 2
"""Largest offset in x and in y."""
_SIDE = 2 * REACH_PX + 1
_WINDOW_PX = PATCH_PX - _SIDE + 1
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

    def __call__(self, grays: Float[Array, "n pixels"], logs: Float[Array, "n pixels"]) -> Float[Array, "n 2"]:
        """Offsets (x, y) in pixels from the middle of patches.

        The pixels of a patch lie in one axis, row by row, because a TPU pads axes of 13 to 16 and to 128.

        Args:
            grays: Gray values in [0, 1].
            logs: Logarithms of the scores of the keypoint map.
        """
        seen = _normalized(grays), _relative(logs)
        logits = lax.platform_dependent(
            self, *seen, tpu=RefinementHead._by_product, default=RefinementHead._by_convolutions
        )
        weights = jnp.exp(logits - lax.stop_gradient(jnp.max(logits, axis=1, keepdims=True)))
        # Both numerators of the soft-argmax and its denominator are one sum.
        y, x = np.indices((_SIDE, _SIDE)).reshape(2, -1) - REACH_PX
        factors = jnp.array(np.stack([x, y, np.ones_like(x)]), jnp.float32)
        sums = jnp.sum(factors[:, None] * weights[None], axis=2)
        return (sums[:2] / sums[2:]).T

    def _by_convolutions(
        self, contrasts: Float[Array, "n pixels"], relative_logs: Float[Array, "n pixels"]
    ) -> Float[Array, "n places"]:
        """The logits of the places around each peak, row by row, by the layers themselves."""
        x = jnp.stack([contrasts, relative_logs], axis=-1).reshape(-1, PATCH_PX, PATCH_PX, 2)
        x = self.conv_c(nnx.relu(self.conv_b(nnx.relu(self.conv_a(x)))))
        return x.reshape(-1, _SIDE**2)

    def _by_product(
        self, contrasts: Float[Array, "n pixels"], relative_logs: Float[Array, "n pixels"]
    ) -> Float[Array, "n places"]:
        """The same with the keypoints in the last axis, where the first convolution is one product with all of a patch.

        It multiplies twice as much. A TPU's compiler takes a third of the time for it. As in `lanes`, each product
        takes three passes of bfloat16 instead of six; that moves keypoints by up to 1e-4 px (docs/performance.md).
        """
        seen = jnp.concatenate([contrasts, relative_logs], axis=1).T
        places = [(i, _SIDE - 1 - i) for i in range(_SIDE)]
        kernel = self.conv_a.kernel[...]
        placed = jnp.stack([jnp.pad(kernel, (y, x, (0, 0), (0, 0))) for y in places for x in places])
        matrix = placed.transpose(0, 4, 3, 1, 2).reshape(-1, len(seen))
        x = _product(matrix, seen).reshape(_SIDE**2, kernel.shape[-1], -1)
        x = nnx.relu(x + _column(self.conv_a))
        x = nnx.relu(_product(self.conv_b.kernel[...][0, 0].T, x) + _column(self.conv_b))
        return (_product(self.conv_c.kernel[...][0, 0].T, x) + _column(self.conv_c))[:, 0].T


def _product(matrix: Float[Array, "o i"], x: Float[Array, "*p i n"]) -> Float[Array, "*p o n"]:
    return jnp.einsum("oi,...in->...on", matrix, x, precision=lax.Precision.HIGH)


def _column(conv: nnx.Conv) -> Float[Array, "1 c 1"]:
    assert conv.bias is not None
    return conv.bias[...][None, :, None]


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
) -> tuple[Float[Array, "b k pixels"], Float[Array, "b k pixels"]]:
    """What the head sees of each keypoint: gray values, and logarithms of scores; see `refine`."""
    gray = jnp.where(jnp.isfinite(gray), gray, 0)[..., 0]
    cells_end = image_sizes // CELL_PX * CELL_PX
    logs = jnp.log(jnp.maximum(_patches(scores, keypoints_xy, cells_end), SMALLEST_SCORE))
    return _patches(gray, keypoints_xy, image_sizes), logs


def _patches(values: Array, keypoints_xy: Array, sizes: Array) -> Array:
    """The patches [B,K,pixels] around whole pixels (x, y); beyond an area of these sizes, its border is repeated."""
    dy, dx = (np.indices((PATCH_PX, PATCH_PX), np.int32) - PATCH_RADIUS_PX).reshape(2, 1, 1, -1)
    x, y = (keypoints_xy[..., axis, None].astype(jnp.int32) for axis in (0, 1))
    rows = jnp.clip(y + dy, 0, sizes[:, :1, None] - 1)
    columns = jnp.clip(x + dx, 0, sizes[:, 1:, None] - 1)
    index = rows * values.shape[2] + columns
    return jax.vmap(lambda image, i: image[i])(values.reshape(values.shape[0], -1), index)


def _normalized(grays: Float[Array, "n pixels"]) -> Array:
    """The patches with mean 0 and contrast 1.

    Both moments are those of differences to the middle pixel. As this is one of the pixels, the variance is at least
    1/170 of the mean square, so that the subtraction is exact to 1e-5.
    """
    middle = grays.shape[1] // 2
    relative = grays - grays[:, middle : middle + 1]
    mean, mean_square = (jnp.mean(x, axis=1, keepdims=True) for x in (relative, relative**2))
    return (relative - mean) / jnp.sqrt(mean_square - mean**2 + NOISE**2)


def _relative(logs: Float[Array, "n pixels"]) -> Array:
    """The logarithms relative to that of the peak, limited and scaled to about 1."""
    middle = logs.shape[1] // 2
    return jnp.maximum(logs - logs[:, middle : middle + 1], -8) / 2 + 1
