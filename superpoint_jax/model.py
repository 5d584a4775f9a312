"""The network, from images to keypoint logits and dense descriptors, without the decoding after the heads.

Source: DeTone, Malisiewicz, Rabinovich, "SuperPoint: Self-Supervised Interest Point Detection and Description" (2018),
section 3. The names of the submodules are those of Hugging Face's port, so that weights map one to one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax
from jaxtyping import Bool, Float, Int, UInt8

from superpoint_jax import lanes
from superpoint_jax.config import CELL_PX, SuperPointConfig
from superpoint_jax.features import DenseFeatures
from superpoint_jax.refinement import RefinementHead
from superpoint_jax.sharding import placed_like

if TYPE_CHECKING:
    from superpoint_jax.config import ChannelRule

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601 weights of red, green, blue."""
LUMA_BYTES = (19595, 38470, 7471)
"""The same weights in units of 1/65536, as in Pillow: integers, so that every platform rounds in the same way."""


class Constant(nnx.Variable):
    """A number that is part of a model but not a parameter; its gradient is zero."""


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """2x2 max pooling; an odd last row or column is dropped."""
    return nnx.max_pool(x, window_shape=(2, 2), strides=(2, 2))


class ConvBlock(nnx.Module):
    """Two 3x3 convolutions, each with a ReLU and, in some variants, batch norm; most blocks end in a pooling.

    Attributes:
        max_pool: The pooling function, `max_pool` or another form of it. Static.
    """

    def __init__(
        self, features_in: int, features_out: int, *, pool: bool, config: SuperPointConfig, rngs: nnx.Rngs
    ) -> None:
        self.pool = pool
        self.max_pool = max_pool
        self.conv_a = _conv(features_in, features_out, 3, rngs)
        self.conv_b = _conv(features_out, features_out, 3, rngs)
        self.norm_a = _norm(features_out, config, rngs)
        self.norm_b = _norm(features_out, config, rngs)

    def __call__(
        self, x: Float[Array, "b h w c"], valid_sizes: Int[Array, "b 2"] | None = None
    ) -> Float[Array, "b h2 w2 c2"]:
        """The output of the block.

        `valid_sizes` are the (height, width) of each image in the top-left corner of `x`. Values outside are set to
        zero after every layer, so that they act like the zero padding of an unpadded image.
        """
        if self.pool and lanes.fits(self.conv_b.out_features):
            return _for_the_platform(self, x, valid_sizes)
        return self.plain(x, valid_sizes)

    def plain(self, x: Array, valid_sizes: Array | None) -> Array:
        """The output by the layers themselves."""
        for conv, norm in ((self.conv_a, self.norm_a), (self.conv_b, self.norm_b)):
            # Batch norm comes after the ReLU, so it can't be folded into the convolution before.
            x = zero_outside(_normalize_channels(nnx.relu(conv(x)), norm), valid_sizes)
        if not self.pool:
            return x
        # An odd last row or column is dropped, so the valid sizes are also rounded down.
        return zero_outside(self.max_pool(x), None if valid_sizes is None else valid_sizes // 2)

    def in_lanes(self, x: Array, valid_sizes: Array | None, *, differentiable: bool = True) -> Array:
        """The output in the form that is fast on a TPU; that for derivatives takes longer, and its derivative less."""

        def after(conv: nnx.Conv, norm: nnx.BatchNorm | None) -> Callable[[Array], Array]:
            assert conv.bias is not None
            per_group = functools.partial(lanes.per_group, features=conv.out_features)
            bias = per_group(conv.bias[...].astype(x.dtype))[None, None, None]
            if norm is not None:
                graph, state = nnx.split(norm)
                norm = nnx.merge(graph, jax.tree.map(per_group, state))
            return lambda x: _normalize_channels(nnx.relu(x + bias), norm)

        both = after(self.conv_a, self.norm_a), after(self.conv_b, self.norm_b)
        kernels = self.conv_a.kernel[...], self.conv_b.kernel[...]
        return lanes.block(x, valid_sizes, kernels, both, differentiable=differentiable)


@jax.custom_jvp
def _in_lanes(block: ConvBlock, x: Array, valid_sizes: Array | None) -> Array:
    return block.in_lanes(x, valid_sizes, differentiable=False)


@_in_lanes.defjvp
def _derivative_of_the_other_form(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    return jax.jvp(ConvBlock.in_lanes, primals, tangents)


@jax.jit
def _for_the_platform(block: ConvBlock, x: Array, valid_sizes: Array | None) -> Array:
    tpu = placed_like(x, _in_lanes)  # It reshapes, which must be told on a mesh of explicit axes.
    return lax.platform_dependent(block, x, valid_sizes, tpu=tpu, default=ConvBlock.plain)


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
    ) -> tuple[Float[Array, "b _h _w _c"], ...]:
        """Output of every block, finest first. Values outside `image_sizes` (height, width) are zero."""
        hidden_states = []
        for i, block in enumerate(self.conv_blocks):
            with jax.named_scope(f"block_{i + 1}"):
                x = block(x, image_sizes)
            if block.pool and image_sizes is not None:
                image_sizes = image_sizes // 2
            hidden_states.append(x)
        return tuple(hidden_states)


class KeypointDecoder(nnx.Module):
    """The detector head: 65 logits per cell."""

    def __init__(self, config: SuperPointConfig, rngs: nnx.Rngs) -> None:
        self.conv_score_a = _conv(config.encoder_hidden_sizes[-1], config.decoder_hidden_size, 3, rngs)
        self.conv_score_b = _conv(config.decoder_hidden_size, config.keypoint_decoder_dim, 1, rngs)
        self.norm_score_a = _norm(config.decoder_hidden_size, config, rngs)
        self.norm_score_b = _norm(config.keypoint_decoder_dim, config, rngs)

    def __call__(self, encoded: Float[Array, "b h w c"]) -> Float[Array, "b h w 65"]:
        return self.logits(_normalize_channels(nnx.relu(self.conv_score_a(encoded)), self.norm_score_a))

    def logits(self, hidden: Float[Array, "b h w c"]) -> Float[Array, "b h w 65"]:
        """The output of the last layer, in float32 for every compute type, because scores in bfloat16 would tie."""
        return _normalize_channels(self.conv_score_b(hidden.astype(jnp.float32)), self.norm_score_b)


class DescriptorDecoder(nnx.Module):
    """The descriptor head: one unit vector per cell."""

    def __init__(self, config: SuperPointConfig, rngs: nnx.Rngs) -> None:
        self.conv_descriptor_a = _conv(config.encoder_hidden_sizes[-1], config.decoder_hidden_size, 3, rngs)
        self.conv_descriptor_b = _conv(config.decoder_hidden_size, config.descriptor_decoder_dim, 1, rngs)
        self.norm_descriptor_a = _norm(config.decoder_hidden_size, config, rngs)
        self.norm_descriptor_b = _norm(config.descriptor_decoder_dim, config, rngs)

    def __call__(self, encoded: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        x = _normalize_channels(nnx.relu(self.conv_descriptor_a(encoded)), self.norm_descriptor_a)
        return normalize(_normalize_channels(self.conv_descriptor_b(x.astype(jnp.float32)), self.norm_descriptor_b))


class SuperPoint(nnx.Module):
    """The encoder and the two heads of SuperPoint.

    It is a pytree, which can be an argument of plain `jax.jit`, `jax.vmap` or `jax.grad`. Its leaves are the
    parameters, the running statistics of batch norm in variants that have it, and two constants. Its tree definition is
    the architecture and the rules that decode its output. Batch norm always uses its running statistics, so a call does
    not change the model, and the statistics get no gradient.

    Attributes:
        rules: The configuration without the threshold, which is a value and not a rule. Static.
        keypoint_threshold: Smallest score of a keypoint, float32 [].
        magic_leap: Not 0 if the weights are Magic Leap's or were made from them, float32 []. It is a leaf, so that it
            stays with the weights under `jit` and in averages of models, and so does their licence.
        refinement_head: What refines the keypoints, in variants that have it. The network itself does not use it.
    """

    def __init__(self, config: SuperPointConfig, *, rngs: nnx.Rngs) -> None:
        self.rules = config.replace(keypoint_threshold=_NO_THRESHOLD)
        self.keypoint_threshold = Constant(jnp.float32(config.keypoint_threshold))
        self.magic_leap = Constant(jnp.float32(0))
        self.encoder = Encoder(config, rngs)
        self.keypoint_decoder = KeypointDecoder(config, rngs)
        self.descriptor_decoder = DescriptorDecoder(config, rngs)
        self.refinement_head = RefinementHead(rngs=rngs) if config.refinement_head else None

    @property
    def config(self) -> SuperPointConfig:
        """The configuration. While the model is traced, use `rules` and `keypoint_threshold` instead."""
        # The shortest decimal number that gives this float32: 0.005 instead of 0.004999999888241291.
        return self.rules.replace(keypoint_threshold=float(str(np.asarray(self.keypoint_threshold[...]))))

    @property
    def origin(self) -> str | None:
        """ "magicleap" if the licence of Magic Leap's weights applies, else None. It does not work inside `jit`."""
        return "magicleap" if np.any(np.asarray(self.magic_leap[...])) else None

    def __call__(
        self,
        images: Float[Array | np.ndarray, "b h w c"] | UInt8[Array | np.ndarray, "b h w c"],
        *,
        image_sizes: Int[Array | np.ndarray, "b 2"] | None = None,
        dtype: str | None = None,
        output_hidden_states: bool = False,
    ) -> DenseFeatures:
        """Logits and descriptors of unit length, float32, for each whole cell of 8x8 pixels.

        Cells are NaN if a pixel in their field of view is not finite.

        Args:
            images: 1 or 3 channels, float in [0, 1] or uint8.
            image_sizes: True (height, width) of each image, in the top-left corner of its array. The values outside are
                ignored, and the result is that of the unpadded image.
            dtype: Compute type of the convolutions; by default that of the configuration.
            output_hidden_states: Also return the output of each encoder block.

        Raises:
            ValueError: The shape, the type or the number of channels is not as above, sizes in a numpy array are larger
                than the image array or smaller than a cell, or `dtype` is unknown.
        """
        check_images(images, image_sizes)
        rules = self.rules if dtype is None else self.rules.replace(dtype=dtype)
        if image_sizes is not None:
            image_sizes = jnp.asarray(image_sizes, jnp.int32)
        gray, finite = finite_part(zero_outside(to_gray(images, rules.channel_rule), image_sizes))
        hidden_states = self.encoder(gray.astype(rules.dtype), image_sizes)
        with jax.named_scope("detector_head"):
            logits = jnp.where(finite, self.keypoint_decoder(hidden_states[-1]), jnp.nan)
        with jax.named_scope("descriptor_head"):
            descriptors = jnp.where(finite, self.descriptor_decoder(hidden_states[-1]), jnp.nan)
        return DenseFeatures(
            logits=logits,
            descriptors=descriptors,
            hidden_states=hidden_states if output_hidden_states else None,
        )


_NO_THRESHOLD = 0.0
"""Placeholder for the threshold in `SuperPoint.rules`."""


def _conv(features_in: int, features_out: int, size: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(
        features_in,
        features_out,
        (size, size),
        padding="SAME",
        # float32 means float32 on every platform, without TF32. Only the `lanes` for a TPU are a little less exact.
        precision=lax.Precision.HIGHEST,
        kernel_init=nnx.initializers.he_normal(),
        promote_dtype=_in_type_of_input,
        rngs=rngs,
    )


def _norm(features: int, config: SuperPointConfig, rngs: nnx.Rngs) -> nnx.BatchNorm | None:
    if not config.batch_norm:
        return None
    return nnx.BatchNorm(
        features,
        use_running_average=True,
        epsilon=config.batch_norm_eps,
        promote_dtype=_statistics_as_constants,
        rngs=rngs,
    )


def _in_type_of_input(arrays: Any, /, *, dtype: Any = None, inexact: bool = True) -> Any:
    """The arrays in the type of the activations, so that only the cast of the image chooses the compute type."""
    return tuple(array.astype(arrays[0].dtype) for array in arrays)


def _statistics_as_constants(arrays: Any, /, *, dtype: Any = None, inexact: bool = True) -> Any:
    """The arrays of a batch norm in float32, with running statistics that get no gradient."""
    x, mean, var, scale, bias = (array.astype(jnp.float32) for array in arrays)
    return x, lax.stop_gradient(mean), lax.stop_gradient(var), scale, bias


def _normalize_channels(x: Array, norm: nnx.BatchNorm | None) -> Array:
    return x if norm is None else norm(x).astype(x.dtype)


def check_images(images: Any, image_sizes: Any = None) -> None:
    """Raise a ValueError that says what is needed if the images are not as needed, before anything is traced."""
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
    check_byte_order(images, "images")
    if image_sizes is not None:
        _check_sizes(image_sizes, shape)


def check_byte_order(array: Any, name: str) -> None:
    """Raise a ValueError if the bytes of a numpy array are in the order of another processor, which JAX misreads."""
    if isinstance(array, np.ndarray) and not array.dtype.isnative:
        native = array.dtype.newbyteorder("=")
        raise ValueError(f"{name} have type {array.dtype.str}, in another byte order; give {name}.astype('{native}')")


def _check_sizes(sizes: Any, shape: tuple[Any, ...]) -> None:
    """Raise a ValueError if the sizes are not as needed; values are only checked in numpy arrays."""
    if not hasattr(sizes, "dtype"):
        raise ValueError(f"image_sizes are a {type(sizes).__name__}; an array of integers [B,2] is needed")
    if sizes.shape != (shape[0], 2):
        raise ValueError(f"image_sizes have shape {sizes.shape}; ({shape[0]}, 2) is needed: (height, width)")
    if not jnp.issubdtype(sizes.dtype, jnp.integer):
        raise ValueError(f"image_sizes have type {sizes.dtype}; integers are needed")
    check_byte_order(sizes, "image_sizes")
    # The values of a device array are not checked, because waiting for them would stall the caller's pipeline.
    if isinstance(sizes, np.ndarray) and ((sizes < CELL_PX) | (sizes > np.array(shape[1:3]))).any():
        low, high = sizes.min(0), sizes.max(0)
        raise ValueError(f"image_sizes reach from {low} to {high}; {CELL_PX} to {shape[1:3]} is needed")


def to_gray(
    images: Float[Array | np.ndarray, "b h w c"] | UInt8[Array | np.ndarray, "b h w c"], rule: ChannelRule
) -> Float[Array, "b h w 1"]:
    """The images with one float channel in [0, 1]: the luma (ITU-R BT.601) or the first channel.

    uint8 is divided by 255. The luma of bytes is rounded to a byte, as in Pillow and OpenCV, so that a photo converted
    to gray here, by the processor or by them has the same pixels.
    """
    images = jnp.asarray(images)
    is_bytes = images.dtype == jnp.uint8
    if images.shape[-1] == 1 or rule == "first":
        gray = images[..., :1]
    elif is_bytes:
        red, green, blue = LUMA_BYTES
        wide = images.astype(jnp.int32)
        gray = (red * wide[..., 0:1] + green * wide[..., 1:2] + blue * wide[..., 2:3] + 2**15) >> 16
    else:
        red, green, blue = LUMA
        gray = red * images[..., 0:1] + green * images[..., 1:2] + blue * images[..., 2:3]
    return gray.astype(jnp.float32) / 255 if is_bytes else gray


def valid_mask(sizes: Int[Array, "b 2"], shape: tuple[int, int]) -> Bool[Array, "b h w"]:
    """True in the valid area of each image, (height, width) from its top-left corner."""
    rows, columns = jnp.arange(shape[0])[None, :, None], jnp.arange(shape[1])[None, None, :]
    return (rows < sizes[:, :1, None]) & (columns < sizes[:, 1:, None])


FIELD_OF_VIEW_CELLS = 5
"""Field of view of a cell, in cells to each side: the convolutions reach 2 + 4 + 8 + 16 + 8 = 38 pixels."""


def finite_part(gray: Float[Array, "b h w 1"]) -> tuple[Float[Array, "b h w 1"], Bool[Array, "b h2 w2 1"]]:
    """The images with 0 for values that are not finite, and the mask of cells without such values in their view.

    The mask is computed from the images, because on some platforms convolutions and maxima don't propagate NaN.
    """
    batch, height, width, _ = gray.shape
    finite = jnp.isfinite(gray)
    rows, columns = -(-height // CELL_PX), -(-width // CELL_PX)
    rest = ((0, 0), (0, rows * CELL_PX - height), (0, columns * CELL_PX - width))
    pixels = jnp.pad(finite[..., 0], rest, constant_values=True)
    # The two axes are reshaped one after the other, as a mesh of explicit axes requires.
    cells = pixels.reshape(batch, rows, CELL_PX, columns * CELL_PX).all(axis=2)
    cells = cells.reshape(batch, rows, columns, CELL_PX).all(axis=3).astype(jnp.float32)
    side = 2 * FIELD_OF_VIEW_CELLS + 1
    for window in ((1, side, 1), (1, 1, side)):
        cells = lax.reduce_window(cells, jnp.float32(jnp.inf), lax.min, window, (1, 1, 1), "SAME")
    cells = cells[:, : height // CELL_PX, : width // CELL_PX, None] > 0
    return jnp.where(finite, gray, 0), cells


def zero_outside(x: Float[Array, "b h w c"], sizes: Int[Array, "b 2"] | None) -> Float[Array, "b h w c"]:
    """`x` with zeros outside the top-left (height, width) of each image; unchanged without sizes."""
    return x if sizes is None else jnp.where(valid_mask(sizes, (x.shape[1], x.shape[2]))[..., None], x, 0)


def normalize(vectors: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """The vectors scaled to unit length over the last axis; differentiable at 0.

    Vectors shorter than 1e-12 are divided by 1e-12.
    """
    squared = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    # The maximum is taken before the square root, whose gradient at 0 would be NaN.
    safe = jnp.maximum(squared, 1e-24)
    return vectors * (1 / jnp.sqrt(safe))
