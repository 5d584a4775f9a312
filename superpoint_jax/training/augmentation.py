"""Photometric changes: what light, lens and sensor do to an image. Each image of a batch gets its own random change."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from superpoint_jax.geometry import PRNGKey

KERNEL_RADIUS_PX = 3
"""Half side of the blur kernel; a Gaussian of 1.2 px has 99 % of its mass within it."""


def photometric(key: PRNGKey, images: Float[Array, "b h w 1"], *, strength: float = 1.0) -> Float[Array, "b h w 1"]:
    """Images in [0, 1] after random blur, shade, contrast, brightness and noise, in that order.

    Args:
        key: Source of randomness.
        images: Images in [0, 1].
        strength: 0 changes nothing; 1 is the strength that the weights in the package were trained with.
    """
    blur_key, shade_key, light_key, noise_key = jax.random.split(key, 4)
    images = blur(blur_key, images, strength=strength)
    images = shade(shade_key, images, strength=strength)
    images = light(light_key, images, strength=strength)
    return jnp.clip(add_noise(noise_key, images, strength=strength), 0, 1)


def blur(key: PRNGKey, images: Float[Array, "b h w 1"], *, strength: float = 1.0) -> Float[Array, "b h w 1"]:
    """The images, a third of them blurred by a Gaussian and a sixth by motion along a line; the border is repeated."""
    kind_key, sigma_key, angle_key, length_key = jax.random.split(key, 4)
    batch = images.shape[0]
    r = KERNEL_RADIUS_PX
    offsets = jnp.arange(-r, r + 1, dtype=jnp.float32)
    dy, dx = (d[None] for d in jnp.meshgrid(offsets, offsets, indexing="ij"))

    sigma = strength * jax.random.uniform(sigma_key, (batch, 1, 1), minval=0.4, maxval=1.2)
    gaussian = jnp.exp(-(dx**2 + dy**2) / (2 * jnp.maximum(sigma, 1e-3) ** 2))
    angle = jax.random.uniform(angle_key, (batch, 1, 1), maxval=math.pi)
    length = strength * jax.random.uniform(length_key, (batch, 1, 1), minval=1.0, maxval=r)
    along = dx * jnp.cos(angle) + dy * jnp.sin(angle)
    across = -dx * jnp.sin(angle) + dy * jnp.cos(angle)
    # A line segment with soft ends, one pixel wide.
    motion = jax.nn.relu(1 - jnp.abs(across)) * jnp.clip(length - jnp.abs(along) + 0.5, 0, 1)
    sharp = ((dx == 0) & (dy == 0)).astype(jnp.float32)

    kind = jax.random.uniform(kind_key, (batch, 1, 1))
    kernel = jnp.where(kind < 1 / 3, gaussian, jnp.where(kind < 1 / 2, motion, sharp))
    kernel = kernel / jnp.sum(kernel, axis=(1, 2), keepdims=True)
    padded = jnp.pad(images, ((0, 0), (r, r), (r, r), (0, 0)), mode="edge")
    height, width = images.shape[1:3]
    total = jnp.zeros_like(images)
    for y in range(2 * r + 1):
        for x in range(2 * r + 1):
            total = total + kernel[:, y, x, None, None, None] * padded[:, y : y + height, x : x + width]
    return total


def shade(key: PRNGKey, images: Float[Array, "b h w 1"], *, strength: float = 1.0) -> Float[Array, "b h w 1"]:
    """The images with a smooth shadow or highlight: multiplied by 1 + a exp(-distance^2), with a of either sign."""
    center_key, size_key, depth_key = jax.random.split(key, 3)
    batch, height, width, _ = images.shape
    center = jax.random.uniform(center_key, (batch, 2))
    size = jax.random.uniform(size_key, (batch, 2), minval=0.15, maxval=0.7)
    depth = strength * jax.random.uniform(depth_key, (batch, 1, 1, 1), minval=-0.5, maxval=0.3)
    y = (jnp.arange(height, dtype=jnp.float32)[None] / height - center[:, :1]) / size[:, :1]
    x = (jnp.arange(width, dtype=jnp.float32)[None] / width - center[:, 1:]) / size[:, 1:]
    return images * (1 + depth * jnp.exp(-(y[:, :, None, None] ** 2) - x[:, None, :, None] ** 2))


def light(key: PRNGKey, images: Float[Array, "b h w 1"], *, strength: float = 1.0) -> Float[Array, "b h w 1"]:
    """The images with changed contrast about the mean, gamma and brightness, drawn independently."""
    contrast_key, gamma_key, brightness_key = jax.random.split(key, 3)
    shape = (images.shape[0], 1, 1, 1)
    contrast = 1 + strength * jax.random.uniform(contrast_key, shape, minval=-0.5, maxval=0.5)
    gamma = jnp.exp(strength * jax.random.uniform(gamma_key, shape, minval=-0.4, maxval=0.4))
    brightness = strength * jax.random.uniform(brightness_key, shape, minval=-0.2, maxval=0.2)
    mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
    changed = jnp.clip(mean + contrast * (images - mean), 1e-4, 1)
    return jnp.clip(changed**gamma + brightness, 0, 1)


def add_noise(key: PRNGKey, images: Float[Array, "b h w 1"], *, strength: float = 1.0) -> Float[Array, "b h w 1"]:
    """The images with Gaussian sensor noise, of which one part is constant and one grows with the gray value."""
    level_key, speckle_key, noise_key = jax.random.split(key, 3)
    shape = (images.shape[0], 1, 1, 1)
    # Squared, so that most images have little noise.
    level = strength * 0.06 * jax.random.uniform(level_key, shape) ** 2
    speckle = strength * 0.06 * jax.random.uniform(speckle_key, shape) ** 2
    return images + (level + speckle * images) * jax.random.normal(noise_key, images.shape)
