"""The layers of LightGlue: positional encoding, self and cross attention, match assignment, confidence.

Source: Lindenberger, Sarlin, Pollefeys, "LightGlue: Local Feature Matching at Light Speed" (2023), section 3. The
submodules have the names of Hugging Face's port, so that weights map one to one.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jaxtyping import Bool, Float

from superpoint_jax.lightglue.attention import attend
from superpoint_jax.lightglue.config import AttentionKernel, LightGlueConfig

Rotation = tuple[Float[Array, "b _k 1 f"], Float[Array, "b _k 1 f"]]
"""Cosine and sine of the angles that rotate each keypoint's pairs of channels; they are the same for every head."""


class PositionalEncoder(nnx.Module):
    """Turns positions into angles by a learned linear map of (x, y), with one angle per pair of channels of a head."""

    def __init__(self, config: LightGlueConfig, rngs: nnx.Rngs) -> None:
        self.projector = linear(
            2, config.head_dim // 2, rngs, use_bias=False, kernel_init=nnx.initializers.normal(stddev=1)
        )

    def __call__(self, positions: Float[Array, "b k 2"]) -> Rotation:
        """Cosine and sine of the angles, float32."""
        angles = self.projector(positions.astype(jnp.float32))[:, :, None]
        return jnp.cos(angles), jnp.sin(angles)


class Attention(nnx.Module):
    """Multi-head attention. If it is tied, query and key have the same projection."""

    def __init__(self, config: LightGlueConfig, rngs: nnx.Rngs, *, tied: bool) -> None:
        size = config.descriptor_dim
        self.heads = config.num_attention_heads
        self.kernel: AttentionKernel = config.attention
        self.q_proj = None if tied else linear(size, size, rngs)
        self.k_proj = linear(size, size, rngs)
        self.v_proj = linear(size, size, rngs)
        self.o_proj = linear(size, size, rngs)

    def __call__(
        self,
        states: Float[Array, "b i d"],
        source: Float[Array, "b j d"],
        source_mask: Bool[Array, "b j"],
        rotation: Rotation | None = None,
    ) -> Float[Array, "b i d"]:
        """The values that each state reads from the source. With a `rotation`, both must belong to the same image."""
        query, key = self._heads((self.q_proj or self.k_proj)(states)), self._heads(self.k_proj(source))
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        read = attend(query, key, self._heads(self.v_proj(source)), source_mask, kernel=self.kernel)
        return self.o_proj(read.reshape(states.shape))

    def _heads(self, x: Float[Array, "b k d"]) -> Float[Array, "b k h c"]:
        return x.reshape(*x.shape[:-1], self.heads, -1)


class Mlp(nnx.Module):
    """Computes the update of a state from the state and the values that it read."""

    def __init__(self, config: LightGlueConfig, rngs: nnx.Rngs) -> None:
        size = config.descriptor_dim
        self.fc1 = linear(2 * size, 2 * size, rngs)
        # The fast variance is a difference of two large numbers, and would lose digits that parity needs.
        self.layer_norm = nnx.LayerNorm(2 * size, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.fc2 = linear(2 * size, size, rngs)

    def __call__(self, states: Float[Array, "b k d"], read: Float[Array, "b k d"]) -> Float[Array, "b k d"]:
        hidden = self.fc1(jnp.concatenate([states, read], axis=-1))
        hidden = jax.nn.gelu(self.layer_norm(hidden.astype(jnp.float32)), approximate=False)
        return self.fc2(hidden.astype(states.dtype))


class TransformerLayer(nnx.Module):
    """One layer: each image attends to itself, with positions, and then to the other image, without positions."""

    def __init__(self, config: LightGlueConfig, rngs: nnx.Rngs) -> None:
        self.self_attention = Attention(config, rngs, tied=False)
        self.self_mlp = Mlp(config, rngs)
        self.cross_attention = Attention(config, rngs, tied=config.tied_cross_attention)
        self.cross_mlp = Mlp(config, rngs)

    def __call__(
        self,
        states_a: Float[Array, "b i d"],
        states_b: Float[Array, "b j d"],
        masks: tuple[Bool[Array, "b i"], Bool[Array, "b j"]],
        rotations: tuple[Rotation, Rotation],
        *,
        dtype: str,
    ) -> tuple[Float[Array, "b i d"], Float[Array, "b j d"]]:
        """The states of both images after the layer, in float32. The updates are computed in `dtype`."""
        sides = []
        for states, mask, rotation in zip((states_a, states_b), masks, rotations, strict=True):
            x = states.astype(dtype)
            sides.append(states + self.self_mlp(x, self.self_attention(x, x, mask, rotation)).astype(jnp.float32))
        a, b = (states.astype(dtype) for states in sides)
        read_a, read_b = self.cross_attention(a, b, masks[1]), self.cross_attention(b, a, masks[0])
        return (
            sides[0] + self.cross_mlp(a, read_a).astype(jnp.float32),
            sides[1] + self.cross_mlp(b, read_b).astype(jnp.float32),
        )


class MatchAssignment(nnx.Module):
    """The head: the similarity of two states, and the probability that a keypoint has a partner. Float32."""

    def __init__(self, config: LightGlueConfig, rngs: nnx.Rngs) -> None:
        self.final_projection = linear(config.descriptor_dim, config.descriptor_dim, rngs)
        self.matchability = linear(config.descriptor_dim, 1, rngs)

    def similarity(self, states_a: Float[Array, "b i d"], states_b: Float[Array, "b j d"]) -> Float[Array, "b i j"]:
        """The product of the projected states, each divided by the fourth root of their length."""
        scale = states_a.shape[-1] ** -0.25
        a, b = (self.final_projection(states) * scale for states in (states_a, states_b))
        return jnp.einsum("bid,bjd->bij", a, b, precision=lax.Precision.HIGHEST)

    def matchability_logits(self, states: Float[Array, "b k d"]) -> Float[Array, "b k"]:
        """The logit of the probability that a keypoint has a partner."""
        return self.matchability(states)[..., 0]


class TokenConfidence(nnx.Module):
    """The confidence that a keypoint's result after this layer is the same as after the last layer."""

    def __init__(self, config: LightGlueConfig, rngs: nnx.Rngs) -> None:
        self.token = linear(config.descriptor_dim, 1, rngs)

    def __call__(self, states: Float[Array, "b k d"]) -> Float[Array, "b k"]:
        """The confidences, from 0 to 1. No gradient reaches the states."""
        return jax.nn.sigmoid(self.token(lax.stop_gradient(states))[..., 0])


def rotate(x: Float[Array, "b k h c"], rotation: Rotation) -> Float[Array, "b k h c"]:
    """The channels in the type of x, with each pair (2 i, 2 i + 1) rotated as a point by angle i, in float32."""
    cosine, sine = rotation
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([even * cosine - odd * sine, odd * cosine + even * sine], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def linear(features_in: int, features_out: int, rngs: nnx.Rngs, **options: Any) -> nnx.Linear:
    """A linear map that computes in the type of its input, and is exact in float32 on every platform."""
    return nnx.Linear(
        features_in,
        features_out,
        precision=lax.Precision.HIGHEST,
        promote_dtype=_in_type_of_input,
        rngs=rngs,
        **options,
    )


def _in_type_of_input(arrays: Any, /, *, dtype: Any = None, inexact: bool = True) -> Any:
    """The arrays in the type of the first, the activations, so that a cast of the states sets the compute type."""
    return tuple(None if array is None else array.astype(arrays[0].dtype) for array in arrays)
