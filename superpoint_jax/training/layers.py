"""Layers for training on a CPU, where XLA is slow at two gradients: of a convolution's kernel and of a pooling.

They compute what the network's own layers compute. On two cores, for 16 images of 120x160 with 64 channels in float32,
the gradient of the kernel takes 260 ms instead of 780, and that of the pooling 40 ms instead of 250.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jaxtyping import Float

from superpoint_jax.model import SuperPoint

STRIP_BYTES = 2**21
"""Size of the working set of a strip of rows, which fits the second-level caches of two or more cores."""


def for_training(model: SuperPoint) -> SuperPoint:
    """The model with the layers that are fastest where JAX computes by default: those of this module on a CPU."""
    return for_training_on_cpu(model) if jax.default_backend() == "cpu" else model


def for_training_on_cpu(model: SuperPoint) -> SuperPoint:
    """The model with the same arrays and with the layers of this module instead of its own."""
    model = nnx.merge(*nnx.split(model))
    for block in model.encoder.conv_blocks:
        block.max_pool = max_pool_of_slices
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.Conv):
            module.conv_general_dilated = _conv_general_dilated
    return model


def max_pool_of_slices(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """`max_pool` of the network, without a window operation. Equal maxima share the gradient."""
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    return functools.reduce(jnp.maximum, [x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)])


@jax.custom_vjp
def conv(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c c2"]) -> Float[Array, "b h w c2"]:
    """3x3 convolution with zero padding to the same size."""
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=lax.Precision.HIGHEST
    )


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return conv(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    return conv(gradient, jnp.swapaxes(kernel[::-1, ::-1], 2, 3)), kernel_gradient(x, gradient).astype(kernel.dtype)


conv.defvjp(_forward, _backward)


def _conv_general_dilated(x: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    """The result of `conv`, called instead of `lax.conv_general_dilated`, whose other arguments never change here."""
    if kernel.shape[:2] == (1, 1):
        return jnp.matmul(x, kernel[0, 0], precision=lax.Precision.HIGHEST)
    return conv(x, kernel)


def kernel_gradient(x: Float[Array, "b h w c"], gradient: Float[Array, "b h w c2"]) -> Float[Array, "3 3 c c2"]:
    """Gradient of the kernel of `conv`, from the gradient of its output, as nine matrix products in float32.

    The images are stacked vertically with a row of zeros between them, and processed in strips of rows.
    """
    width, channels, features = x.shape[2], x.shape[3], gradient.shape[3]
    if channels == 1:
        return _kernel_gradient_of_gray(x, gradient)
    x, gradient = (_one_image(array.astype(jnp.float32)) for array in (x, gradient))
    rows = max(1, STRIP_BYTES // (4 * 3 * width * (channels + features)))
    count = -(-len(x) // rows)
    missing = count * rows - len(x)
    x = jnp.pad(x, ((1, 1 + missing), (0, 0), (0, 0)))
    gradient = jnp.pad(gradient, ((0, missing), (1, 1), (0, 0)))

    def add_strip(total: Array, index: Array) -> tuple[Array, None]:
        x_strip = lax.dynamic_slice_in_dim(x, index * rows, rows + 2)
        gradient_strip = lax.dynamic_slice_in_dim(gradient, index * rows, rows)
        # A shift of the gradient to the right stands for a shift of x to the left, so the taps are in reverse order.
        taps = jnp.concatenate([gradient_strip[:, j : j + width] for j in (2, 1, 0)], axis=-1).reshape(-1, 3 * features)
        shifted = [x_strip[i : i + rows].reshape(-1, channels) for i in range(3)]
        products = [lax.dot(rows_of_x.T, taps, precision=lax.Precision.HIGHEST) for rows_of_x in shifted]
        return total + jnp.stack(products), None

    zeros = jnp.zeros_like(gradient, shape=(3, channels, 3 * features))
    total, _ = lax.scan(add_strip, zeros, jnp.arange(count))
    return jnp.swapaxes(total.reshape(3, channels, 3, features), 1, 2)


def _one_image(images: Float[Array, "b h w c"]) -> Float[Array, "h2 w c"]:
    batch, height, width, channels = images.shape
    return jnp.pad(images, ((0, 0), (0, 1), (0, 0), (0, 0))).reshape(batch * (height + 1), width, channels)


def _kernel_gradient_of_gray(
    x: Float[Array, "b h w 1"], gradient: Float[Array, "b h w c2"]
) -> Float[Array, "3 3 1 c2"]:
    """The kernel gradient for one channel, as one matrix product, because the nine shifted images are small."""
    _, height, width, features = gradient.shape
    padded = jnp.pad(x[..., 0].astype(jnp.float32), ((0, 0), (1, 1), (1, 1)))
    shifted = [padded[:, i : i + height, j : j + width].reshape(-1) for i in range(3) for j in range(3)]
    taps = gradient.astype(jnp.float32).reshape(-1, features)
    return lax.dot(jnp.stack(shifted), taps, precision=lax.Precision.HIGHEST).reshape(3, 3, 1, features)
