"""Photometric changes: what light, lens and sensor do to an image. Each image of a batch gets its own random change."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from superpoint_jax.config import CELL_PX
from superpoint_jax.detection import cells_to_pixels, pixels_to_cells
from superpoint_jax.geometry import PRNGKey

KERNEL_RADIUS_PX = 3
"""Half side of the blur kernel; a Gaussian of 1.2 px has 99 % of its mass within it."""
GAMMA = 2.2
"""Linear light is a gray value to this power."""
QUANTA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)
"""Steps of the frequencies of a block at quality 50: the example in the standard (ITU-T T.81, K.1), used by libjpeg."""


def photometric(
    key: PRNGKey,
    images: Float[Array, "b h w 1"],
    *,
    strength: float = 1.0,
    degraded: float = 0.0,
    linear_noise: bool = False,
) -> Float[Array, "b h w 1"]:
    """Images in [0, 1] after random blur, shade, contrast, brightness and noise, in that order.

    Some are out of focus as well, before the shade, or compressed, after the noise.

    Args:
        key: Source of randomness.
        images: Images in [0, 1].
        strength: How strong all these changes are, from 0 for none to 1, which the weights in the package were trained
            with. It does not change what `degraded` does.
        degraded: Probability that an image is out of focus, and, independently, that it is compressed as by JPEG. It
            is static under `jit`.
        linear_noise: Add the noise of a sensor, in linear light, instead of noise of gray values; static under `jit`.
    """
    blur_key, shade_key, light_key, noise_key = jax.random.split(key, 4)
    images = blur(blur_key, images, strength=strength)
    if degraded:
        # Keys of their own, so that all other changes are those of an image that is not degraded.
        images = defocus(jax.random.fold_in(key, 4), images, fraction=degraded)
    images = shade(shade_key, images, strength=strength)
    images = light(light_key, images, strength=strength)
    noisy = add_sensor_noise if linear_noise else add_noise
    images = jnp.clip(noisy(noise_key, images, strength=strength), 0, 1)
    return compressed_randomly(jax.random.fold_in(key, 5), images, fraction=degraded) if degraded else images


def blur(key: PRNGKey, images: Float[Array, "b h w 1"], *, strength: float = 1.0) -> Float[Array, "b h w 1"]:
    """The images, a third of them blurred by a Gaussian and a sixth by motion along a line; the border is repeated."""
    kind_key, sigma_key, angle_key, length_key = jax.random.split(key, 4)
    batch = images.shape[0]
    dy, dx = _kernel_grid()

    sigma = strength * jax.random.uniform(sigma_key, (batch, 1, 1), minval=0.4, maxval=1.2)
    gaussian = jnp.exp(-(dx**2 + dy**2) / (2 * jnp.maximum(sigma, 1e-3) ** 2))
    angle = jax.random.uniform(angle_key, (batch, 1, 1), maxval=math.pi)
    length = strength * jax.random.uniform(length_key, (batch, 1, 1), minval=1.0, maxval=KERNEL_RADIUS_PX)
    along = dx * jnp.cos(angle) + dy * jnp.sin(angle)
    across = -dx * jnp.sin(angle) + dy * jnp.cos(angle)
    # A line segment with soft ends, one pixel wide.
    motion = jax.nn.relu(1 - jnp.abs(across)) * jnp.clip(length - jnp.abs(along) + 0.5, 0, 1)
    sharp = ((dx == 0) & (dy == 0)).astype(jnp.float32)

    kind = jax.random.uniform(kind_key, (batch, 1, 1))
    kernel = jnp.where(kind < 1 / 3, gaussian, jnp.where(kind < 1 / 2, motion, sharp))
    return _filtered(images, kernel)


def defocus(key: PRNGKey, images: Float[Array, "b h w 1"], *, fraction: float) -> Float[Array, "b h w 1"]:
    """The images, this fraction of them blurred by a disc with a radius of 1 to 3 pixels; the border is repeated."""
    choice_key, radius_key = jax.random.split(key)
    shape = (images.shape[0], 1, 1)
    radius = jax.random.uniform(radius_key, shape, minval=1.0, maxval=KERNEL_RADIUS_PX)
    radius = jnp.where(jax.random.uniform(choice_key, shape) < fraction, radius, 0)
    distance = jnp.linalg.norm(jnp.stack(_kernel_grid()), axis=0)
    # The edge of the disc is one pixel wide.
    return _filtered(images, jnp.clip(radius - distance + 0.5, 0, 1))


def _kernel_grid() -> tuple[Float[Array, "1 k k"], Float[Array, "1 k k"]]:
    """The offsets y and x of a kernel's pixels."""
    offsets = jnp.arange(-KERNEL_RADIUS_PX, KERNEL_RADIUS_PX + 1, dtype=jnp.float32)
    y, x = jnp.meshgrid(offsets, offsets, indexing="ij")
    return y[None], x[None]


def _filtered(images: Float[Array, "b h w 1"], kernel: Float[Array, "b k k"]) -> Float[Array, "b h w 1"]:
    """Each image filtered by its own kernel, whose sum is made 1."""
    r = KERNEL_RADIUS_PX
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
    """The images with Gaussian noise, of which one part is constant and one grows with the gray value."""
    level_key, speckle_key, noise_key = jax.random.split(key, 3)
    shape = (images.shape[0], 1, 1, 1)
    # Squared, so that most images have little noise.
    level = strength * 0.06 * jax.random.uniform(level_key, shape) ** 2
    speckle = strength * 0.06 * jax.random.uniform(speckle_key, shape) ** 2
    return images + (level + speckle * images) * jax.random.normal(noise_key, images.shape)


def add_sensor_noise(
    key: PRNGKey, images: Float[Array, "b h w 1"], *, strength: float = 1.0
) -> Float[Array, "b h w 1"]:
    """The images with the noise of a sensor, which measures linear light, the gray value to the power `GAMMA`.

    Its variance is that of reading, which is constant, plus that of photons, which grows with the light. So gray values
    have more noise where they are dark.
    """
    level_key, photon_key, noise_key = jax.random.split(key, 3)
    shape = (images.shape[0], 1, 1, 1)
    # Squared, so that most images have little noise. Photons at a gray value of 0.5 give at most 0.06 of gray.
    reading = strength * 0.01 * jax.random.uniform(level_key, shape) ** 2
    photons = strength * 0.13 * jax.random.uniform(photon_key, shape) ** 2
    energy = jnp.clip(images, 0, 1) ** GAMMA
    deviation = jnp.sqrt(reading**2 + photons**2 * energy)
    return jnp.maximum(energy + deviation * jax.random.normal(noise_key, images.shape), 0) ** (1 / GAMMA)


def compressed_randomly(key: PRNGKey, images: Float[Array, "b h w 1"], *, fraction: float) -> Float[Array, "b h w 1"]:
    """The images, this fraction of them compressed with a quality of 5 to 60, in blocks that begin anywhere."""
    choice_key, quality_key, place_key = jax.random.split(key, 3)
    batch = images.shape[0]
    # Even on a logarithmic scale.
    quality = jnp.exp(jax.random.uniform(quality_key, (batch,), minval=math.log(5), maxval=math.log(60)))
    places = jax.random.randint(place_key, (batch, 2), 0, CELL_PX)

    def of_image(image: Array, quality: Array, place: Array) -> Array:
        """The image compressed with a part of a block before its first row and column, which repeats its border."""
        rows, columns = (
            jnp.clip(jnp.arange(side + CELL_PX) - first, 0, side - 1)
            for side, first in zip(image.shape[:2], place, strict=True)
        )
        moved = compressed(image[rows][:, columns][None], quality[None])[0]
        return lax.dynamic_slice(moved, (*place, 0), image.shape)

    chosen = jax.random.uniform(choice_key, (batch, 1, 1, 1)) < fraction
    return jnp.where(chosen, jax.vmap(of_image)(images, quality, places), images)


def compressed(images: Float[Array, "b h w 1"], quality: Float[Array, " b"]) -> Float[Array, "b h w 1"]:
    """Gray images in [0, 1] as they are after JPEG compression; the gradient is zero.

    Args:
        images: Images, whose gray values are rounded to 256.
        quality: Quality of each image on libjpeg's scale, 1 to 100.
    """
    height, width = images.shape[1:3]
    more = (0, 0), (0, -height % CELL_PX), (0, -width % CELL_PX)
    levels = jnp.pad(jnp.round(images[..., 0] * 255) - 128, more, mode="edge")
    step, place = np.mgrid[:CELL_PX, :CELL_PX]
    cosines = np.where(step == 0, np.sqrt(0.5), 1) / 2 * np.cos((2 * place + 1) * step * np.pi / (2 * CELL_PX))
    # One row for each frequency of a block, one column for each of its pixels. A block of JPEG is as large as a cell.
    basis = jnp.asarray(np.kron(cosines, cosines), jnp.float32)
    product = partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    quanta = quanta_of(quality).reshape(-1, 1, 1, CELL_PX**2)
    kept = jnp.round(product("byxp,fp->byxf", pixels_to_cells(levels), basis) / quanta) * quanta
    levels = cells_to_pixels(product("byxf,fp->byxp", kept, basis))
    return jnp.clip(jnp.round(levels + 128), 0, 255)[:, :height, :width, None] / 255


def quanta_of(quality: Float[Array, " b"]) -> Float[Array, "b 8 8"]:
    """Steps of the frequencies of a block, by libjpeg's rule for qualities of 1 to 100."""
    percent = jnp.where(quality < 50, jnp.floor(5000 / quality), 200 - 2 * quality)[:, None, None]
    return jnp.clip(jnp.floor((QUANTA[None] * percent + 50) / 100), 1, 255)
