"""The network: images in, keypoint logits and dense descriptors out. Nothing after the heads.

Source: DeTone, Malisiewicz, Rabinovich, "SuperPoint: Self-Supervised Interest Point Detection and Description" (2018),
section 3; names of the submodules are those of Hugging Face's port, so that weights map one to one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int, UInt8

from superpoint_jax.config import CELL_PX, SuperPointConfig
from superpoint_jax.convolution import Layer, conv, conv_blocks
from superpoint_jax.features import DenseFeatures

if TYPE_CHECKING:
    from superpoint_jax.config import ChannelRule

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601 weights of red, green, blue."""


def _conv_layer(features_in: int, features_out: int, size: int, rngs: nnx.Rngs) -> nnx.Conv:
    # nnx.Conv holds the parameters; `convolution` computes.
    return nnx.Conv(
        features_in, features_out, (size, size), kernel_init=nnx.initializers.he_normal(), padding="SAME", rngs=rngs
    )


def _norm_layer(features: int, config: SuperPointConfig, rngs: nnx.Rngs) -> nnx.BatchNorm | None:
    if not config.batch_norm:
        return None
    return nnx.BatchNorm(features, use_running_average=True, epsilon=config.batch_norm_eps, rngs=rngs)


def affine_of(norm: nnx.BatchNorm | None) -> tuple[Array, Array] | None:
    """Scale and shift that a batch normalisation with its running statistics amounts to."""
    if norm is None:
        return None
    assert norm.scale is not None
    assert norm.bias is not None
    scale = norm.scale[...] * jax.lax.rsqrt(norm.var[...] + norm.epsilon)
    return scale, norm.bias[...] - norm.mean[...] * scale


class ConvBlock(nnx.Module):
    """Two 3x3 convolutions with ReLU, each with batch norm after it where the variant has it, perhaps a pooling."""

    def __init__(
        self, features_in: int, features_out: int, *, pool: bool, config: SuperPointConfig, rngs: nnx.Rngs
    ) -> None:
        self.pool = pool
        self.conv_a = _conv_layer(features_in, features_out, 3, rngs)
        self.conv_b = _conv_layer(features_out, features_out, 3, rngs)
        self.norm_a = _norm_layer(features_out, config, rngs)
        self.norm_b = _norm_layer(features_out, config, rngs)

    def layers(self) -> list[Layer]:
        """Kernel, bias, scale and shift of its convolutions, in order."""
        return [
            (layer.kernel[...], _bias(layer), affine_of(norm))
            for layer, norm in ((self.conv_a, self.norm_a), (self.conv_b, self.norm_b))
        ]

    def __call__(
        self, x: Float[Array, "b h w c"], valid_sizes: Int[Array, "b 2"] | None = None
    ) -> Float[Array, "b h2 w2 c2"]:
        """`valid_sizes` (height, width): what lies outside is zero in the output."""
        return conv_blocks(x, [self.layers()], pools=[self.pool], valid_sizes=valid_sizes)


class Encoder(nnx.Module):
    """Four blocks; the first three halve height and width."""

    def __init__(self, config: SuperPointConfig, rngs: nnx.Rngs) -> None:
        sizes = (1, *config.encoder_hidden_sizes)
        last = len(sizes) - 2
        self.conv_blocks = nnx.List(
            [ConvBlock(sizes[i], sizes[i + 1], pool=i < last, config=config, rngs=rngs) for i in range(last + 1)]
        )

    def __call__(
        self, x: Float[Array, "b h w 1"], image_sizes: Int[Array, "b 2"] | None = None
    ) -> Float[Array, "b _h _w _c"]:
        """Output of the last block. What lies outside of `image_sizes` (height, width) is zero in it."""
        layers = [block.layers() for block in self.conv_blocks]
        return conv_blocks(x, layers, pools=[block.pool for block in self.conv_blocks], valid_sizes=image_sizes)

    def hidden_states(
        self, x: Float[Array, "b h w 1"], image_sizes: Int[Array, "b 2"] | None = None
    ) -> tuple[Float[Array, "b _h _w _c"], ...]:
        """Output of every block, finest first."""
        hidden_states = []
        for block in self.conv_blocks:
            x = block(x, image_sizes)
            if block.pool and image_sizes is not None:
                image_sizes = image_sizes // 2
            hidden_states.append(x)
        return tuple(hidden_states)


class KeypointDecoder(nnx.Module):
    """The detector head: 65 logits a cell."""

    def __init__(self, config: SuperPointConfig, rngs: nnx.Rngs) -> None:
        self.conv_score_a = _conv_layer(config.encoder_hidden_sizes[-1], config.decoder_hidden_size, 3, rngs)
        self.conv_score_b = _conv_layer(config.decoder_hidden_size, config.keypoint_decoder_dim, 1, rngs)
        self.norm_score_a = _norm_layer(config.decoder_hidden_size, config, rngs)
        self.norm_score_b = _norm_layer(config.keypoint_decoder_dim, config, rngs)

    def __call__(self, encoded: Float[Array, "b h w c"]) -> Float[Array, "b h w 65"]:
        return _head(encoded, self.conv_score_a, self.norm_score_a, self.conv_score_b, self.norm_score_b)


class DescriptorDecoder(nnx.Module):
    """The descriptor head: a unit vector a cell."""

    def __init__(self, config: SuperPointConfig, rngs: nnx.Rngs) -> None:
        self.conv_descriptor_a = _conv_layer(config.encoder_hidden_sizes[-1], config.decoder_hidden_size, 3, rngs)
        self.conv_descriptor_b = _conv_layer(config.decoder_hidden_size, config.descriptor_decoder_dim, 1, rngs)
        self.norm_descriptor_a = _norm_layer(config.decoder_hidden_size, config, rngs)
        self.norm_descriptor_b = _norm_layer(config.descriptor_decoder_dim, config, rngs)

    def __call__(self, encoded: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        return normalize(
            _head(
                encoded,
                self.conv_descriptor_a,
                self.norm_descriptor_a,
                self.conv_descriptor_b,
                self.norm_descriptor_b,
            )
        )


class SuperPoint(nnx.Module):
    """SuperPoint's encoder and two heads.

    A pytree: pass it as an argument to plain `jax.jit`, `jax.vmap` or `jax.grad`. Batch normalisation, where a variant
    has it, always uses its running statistics, so a call changes nothing in the model; fine-tuning keeps them.

    Attributes:
        config: What it is and how its output is decoded. Static.
        origin: "magicleap" where the weights are Magic Leap's or were trained from them, so that the licence stays with
            them when they are saved; else None. Static.
    """

    def __init__(self, config: SuperPointConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.origin: str | None = None
        self.encoder = Encoder(config, rngs)
        self.keypoint_decoder = KeypointDecoder(config, rngs)
        self.descriptor_decoder = DescriptorDecoder(config, rngs)

    def __call__(
        self,
        images: Float[Array | np.ndarray, "b h w c"] | UInt8[Array | np.ndarray, "b h w c"],
        *,
        image_sizes: Int[Array | np.ndarray, "b 2"] | None = None,
        dtype: str | None = None,
        output_hidden_states: bool = False,
    ) -> DenseFeatures:
        """Logits and unit-length descriptors, float32, one a cell of 8x8 pixels; sizes floor.

        Args:
            images: 1 or 3 channels, float in [0, 1] or uint8.
            image_sizes: True (height, width) of each image, which lies in the top-left corner of its array. What lies
                outside is ignored, whatever it holds, and the result equals that of the image alone.
            dtype: Compute type of the convolutions; the config's by default.
            output_hidden_states: Also return the output of each encoder block.

        Raises:
            ValueError: Shape, type or number of channels is not as above, sizes that are not within the array (where
                they are a numpy array), or an unknown `dtype`.
        """
        check_images(images, image_sizes)
        config = self.config if dtype is None else self.config.replace(dtype=dtype)
        gray = to_gray(images, config.channel_rule).astype(config.dtype)
        if image_sizes is not None:
            image_sizes = jnp.asarray(image_sizes, jnp.int32)
            gray = jnp.where(valid_mask(image_sizes, (gray.shape[1], gray.shape[2]))[..., None], gray, 0)
        hidden_states = self.encoder.hidden_states(gray, image_sizes) if output_hidden_states else None
        encoded = self.encoder(gray, image_sizes) if hidden_states is None else hidden_states[-1]
        return DenseFeatures(
            logits=self.keypoint_decoder(encoded),
            descriptors=self.descriptor_decoder(encoded),
            hidden_states=hidden_states,
        )


def check_images(images: Any, image_sizes: Any = None) -> None:
    """Raise a ValueError that says what is wrong with the images and what is needed, before anything is traced."""
    shape = getattr(images, "shape", None)
    if shape is None:
        raise ValueError(f"images are a {type(images).__name__}; an array [B,H,W,1 or 3] is needed (see the processor)")
    if len(shape) != 4:
        raise ValueError(f"images have shape {tuple(shape)}; [B,H,W,1 or 3] is needed (images[None] for a single one)")
    if shape[3] not in (1, 3):
        hint = "; move the channels last" if shape[1] in (1, 3) else ""
        raise ValueError(f"images have shape {tuple(shape)}; [B,H,W,1 or 3] is needed{hint}")
    for name, size in (("height", shape[1]), ("width", shape[2])):
        if size < CELL_PX:
            raise ValueError(f"images have {name} {size}; SuperPoint needs at least {CELL_PX} px")
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images have type {images.dtype}; float in [0, 1] or uint8 is needed")
    if shape[0] < 1:
        raise ValueError("the batch is empty; at least one image is needed")
    if image_sizes is not None:
        _check_sizes(image_sizes, shape)


def _check_sizes(sizes: Any, shape: tuple[Any, ...]) -> None:
    """Values are checked too, unless they are traced."""
    if not hasattr(sizes, "dtype"):
        raise ValueError(f"image_sizes are a {type(sizes).__name__}; an array of integers [B,2] is needed")
    if sizes.shape != (shape[0], 2):
        raise ValueError(f"image_sizes have shape {sizes.shape}; ({shape[0]}, 2) is needed: (height, width)")
    if not jnp.issubdtype(sizes.dtype, jnp.integer):
        raise ValueError(f"image_sizes have type {sizes.dtype}; integers are needed")
    # A device array is not waited for: it would stall the caller's pipeline.
    if isinstance(sizes, np.ndarray) and ((sizes < CELL_PX) | (sizes > np.array(shape[1:3]))).any():
        low, high = sizes.min(0), sizes.max(0)
        raise ValueError(f"image_sizes reach from {low} to {high}; {CELL_PX} to {shape[1:3]} is needed")


def to_gray(
    images: Float[Array | np.ndarray, "b h w c"] | UInt8[Array | np.ndarray, "b h w c"], rule: ChannelRule
) -> Float[Array, "b h w 1"]:
    """One float channel in [0, 1]: the luma (ITU-R BT.601) or the first channel; uint8 is divided by 255."""
    images = jnp.asarray(images)
    scale = 255 if images.dtype == jnp.uint8 else 1
    images = images.astype(jnp.float32) if images.dtype == jnp.uint8 else images
    if images.shape[-1] == 1 or rule == "first":
        gray = images[..., :1]
    else:
        red, green, blue = LUMA
        gray = red * images[..., 0:1] + green * images[..., 1:2] + blue * images[..., 2:3]
    return gray / scale


def valid_mask(sizes: Int[Array, "b 2"], shape: tuple[int, int]) -> Bool[Array, "b h w"]:
    """True in the top-left (height, width) of each image."""
    rows, columns = jnp.arange(shape[0])[None, :, None], jnp.arange(shape[1])[None, None, :]
    return (rows < sizes[:, :1, None]) & (columns < sizes[:, 1:, None])


def normalize(vectors: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Unit length over the last axis; vectors shorter than 1e-12 are divided by 1e-12. Differentiable at 0."""
    squared = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    # Not jnp.maximum(sqrt(.), eps): the gradient of sqrt at 0 would be NaN.
    safe = jnp.maximum(squared, 1e-24)
    return vectors * (1 / jnp.sqrt(safe))


def _bias(layer: nnx.Conv) -> Array:
    assert layer.bias is not None
    return layer.bias[...]


def _head(
    encoded: Array,
    conv_a: nnx.Conv,
    norm_a: nnx.BatchNorm | None,
    conv_b: nnx.Conv,
    norm_b: nnx.BatchNorm | None,
) -> Array:
    hidden = conv(encoded, conv_a.kernel[...], _bias(conv_a), relu=True, affine=affine_of(norm_a))
    # Logits and descriptors leave in float32 whatever the compute type: bfloat16 scores tie.
    return conv(hidden, conv_b.kernel[...], _bias(conv_b), affine=affine_of(norm_b), out_dtype=jnp.float32)
