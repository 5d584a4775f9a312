"""Resizing and conversion to gray on the device, for images that are already there."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, UInt8

from superpoint_jax.model import check_images, to_gray


def preprocess_on_device(
    images: Float[Array, "b h w c"] | UInt8[Array, "b h w c"],
    *,
    size: tuple[int, int] | None = None,
    do_grayscale: bool = True,
    method: str = "bilinear",
    antialias: bool = True,
) -> Float[Array, "b h2 w2 c2"]:
    """Images resized to (height, width) `size`, float32 in [0, 1]; like the processor, but on the device and jittable.

    The result is within one gray level of Pillow's filter of the same name. Pillow rounds to 8 bits twice, this only
    the luma of bytes. It does not keep the aspect ratio: choose `size` accordingly.
    `rescale_keypoints(keypoints, size, original_size)` maps keypoints back.

    Args:
        images: Images with 1 or 3 channels, float in [0, 1] or uint8.
        size: (height, width); None does not resize.
        do_grayscale: Return one channel, the luma (0.299, 0.587, 0.114); otherwise the channels stay.
        method: "bilinear", "cubic" or "lanczos3"; any method of `jax.image.resize`.
        antialias: Widen the filter when shrinking, as Pillow does. Without it, fine detail turns into false texture,
            where the detector finds false keypoints.

    Raises:
        ValueError: The images have another shape or type.
    """
    check_images(images)
    return _preprocess(images, size=size, do_grayscale=do_grayscale, method=method, antialias=antialias)


@partial(jax.jit, static_argnames=("size", "do_grayscale", "method", "antialias"))
def _preprocess(
    images: Array, *, size: tuple[int, int] | None, do_grayscale: bool, method: str, antialias: bool
) -> Array:
    # Gray comes first because it saves work; the result is the same, since resizing is linear.
    if do_grayscale:
        images = to_gray(images, "luma")
    elif images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255
    images = images.astype(jnp.float32)
    if size is None or size == images.shape[1:3]:
        return images
    shape = (images.shape[0], *size, images.shape[3])
    return jax.image.resize(images, shape, method, antialias=antialias)
