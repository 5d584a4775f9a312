"""The layers of LightGlue: positions as rotations, self and cross attention, the head that assigns, the confidence.

Source: Lindenberger, Sarlin, Pollefeys, "LightGlue: Local Feature Matching at Light Speed" (2023), section 3; names of
the submodules are those of Hugging Face's port, so that weights map one to one.
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
"""Cosine and sine by which the channel pairs of each keypoint are rotated, the same in every head."""


class PositionalEncoder(nnx.Module):
    """Positions as angles: a learned linear map of (x, y), one angle per pair of channels of a head."""

    def __init__(self, config: LightGlueConfig, rngs: nnx.Rngs) -> None:
        self.projector = linear(
            2, config.head_dim // 2, rngs, use_bias=False, kernel_init=nnx.initializers.normal(stddev=1)
        )

    def __call__(self, positions: Float[Array, "b k 2"]) -> Rotation:
        """Cosine and sine of the angles, float32."""
        angles = self.projector(positions.astype(jnp.float32))[:, :, None]
        return jnp.cos(angles), jnp.sin(angles)


class Attention(nnx.Module):
    """Multi-head attention. Without a projection of its own for the query, the key's serves both."""

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
        """What each state reads from the source. With a `rotation`, states and source are the same image's."""
        query, key = self._heads((self.q_proj or self.k_proj)(states)), self._heads(self.k_proj(source))
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        read = attend(query, key, self._heads(self.v_proj(source)), source_mask, kernel=self.kernel)
        return self.o_proj(read.reshape(states.shape))

    def _heads(self, x: Float[Array, "b k d"]) -> Float[Array, "b k h c"]:
        return x.reshape(*x.shape[:-1], self.heads, -1)


class Mlp(nnx.Module):
    """What is added to a state, from the state and what it read."""

    def __init__(self, config: LightGlueConfig, rngs: nnx.Rngs) -> None:
        size = config.descriptor_dim
        self.fc1 = linear(2 * size, 2 * size, rngs)
        # The fast variance, a difference of two large numbers, would cost digits that parity needs.
        self.layer_norm = nnx.LayerNorm(2 * size, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.fc2 = linear(2 * size, size, rngs)

    def __call__(self, states: Float[Array, "b k d"], read: Float[Array, "b k d"]) -> Float[Array, "b k d"]:
        hidden = self.fc1(jnp.concatenate([states, read], axis=-1))
        hidden = jax.nn.gelu(self.layer_norm(hidden.astype(jnp.float32)), approximate=False)
        return self.fc2(hidden.astype(states.dtype))


class TransformerLayer(nnx.Module):
    """Each image attends to itself, with positions, then to the other one, without."""

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
        """The states of both images after the layer. They stay float32; what is added is computed in `dtype`."""
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
    """The head: how similar two states are, and how likely each one has a partner at all. Float32."""

    def __init__(self, config: LightGlueConfig, rngs: nnx.Rngs) -> None:
        self.final_projection = linear(config.descriptor_dim, config.descriptor_dim, rngs)
        self.matchability = linear(config.descriptor_dim, 1, rngs)

    def similarity(self, states_a: Float[Array, "b i d"], states_b: Float[Array, "b j d"]) -> Float[Array, "b i j"]:
        """Product of the projected states, each divided by the fourth root of their length."""
        scale = states_a.shape[-1] ** -0.25
        a, b = (self.final_projection(states) * scale for states in (states_a, states_b))
        return jnp.einsum("bid,bjd->bij", a, b, precision=lax.Precision.HIGHEST)

    def matchability_logits(self, states: Float[Array, "b k d"]) -> Float[Array, "b k"]:
        """Logit of the probability that a keypoint has a partner."""
        return self.matchability(states)[..., 0]


class TokenConfidence(nnx.Module):
    """How sure a layer is that what it would decide for a keypoint is what the last layer decides."""

    def __init__(self, config: LightGlueConfig, rngs: nnx.Rngs) -> None:
        self.token = linear(config.descriptor_dim, 1, rngs)

    def __call__(self, states: Float[Array, "b k d"]) -> Float[Array, "b k"]:
        """Probabilities. No gradient reaches the states."""
        return jax.nn.sigmoid(self.token(lax.stop_gradient(states))[..., 0])


def rotate(x: Float[Array, "b k h c"], rotation: Rotation) -> Float[Array, "b k h c"]:
    """Channels 2 i and 2 i + 1 rotated as a point of the plane by angle i; in float32, given back in x's type."""
    cosine, sine = rotation
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([even * cosine - odd * sine, odd * cosine + even * sine], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def linear(features_in: int, features_out: int, rngs: nnx.Rngs, **options: Any) -> nnx.Linear:
    """A linear map whose parameters follow the type of what it is given; exact in float32 on every platform."""
    return nnx.Linear(
        features_in,
        features_out,
        precision=lax.Precision.HIGHEST,
        promote_dtype=_in_type_of_input,
        rngs=rngs,
        **options,
    )


def _in_type_of_input(arrays: Any, /, *, dtype: Any = None, inexact: bool = True) -> Any:
    """Parameters follow the type of the activations, so that the compute type is chosen where the states are cast."""
    return tuple(None if array is None else array.astype(arrays[0].dtype) for array in arrays)
