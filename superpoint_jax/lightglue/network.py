"""LightGlue: takes the keypoints of two images and returns their matches.

Source: Lindenberger, Sarlin, Pollefeys, "LightGlue: Local Feature Matching at Light Speed" (2023).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax
from jaxtyping import Float, Int

from superpoint_jax.features import Keypoints
from superpoint_jax.lightglue.assignment import Assignment, assign, mutual_matches
from superpoint_jax.lightglue.config import LightGlueConfig
from superpoint_jax.lightglue.layers import (
    MatchAssignment,
    PositionalEncoder,
    TokenConfidence,
    TransformerLayer,
    linear,
)
from superpoint_jax.lightglue.pair import Image, Pair, image_of, longer, prepare
from superpoint_jax.matching import Matches, batch_of_one, check_pairs, no_matches, rows_of
from superpoint_jax.model import Constant, SuperPoint
from superpoint_jax.sharding import placed_like

Threshold = float | Float[Array, ""]


class LightGlue(nnx.Module):
    """A network that matches the keypoints of two images.

    It is a pytree: pass it as an argument to plain `jax.jit`, `jax.vmap` or `jax.grad`. Its leaves are the parameters
    (those of all layers are stacked along a first axis) and the thresholds; its tree definition is the architecture.

    Attributes:
        rules: The configuration without the thresholds, which are leaves. Static.
        filter_threshold: The score of a match must be greater than this, float32 [].
        depth_confidence: A pair stops when more than this fraction of its keypoints is confident, float32 []; None runs
            every layer.
    """

    def __init__(self, config: LightGlueConfig, *, rngs: nnx.Rngs) -> None:
        self.rules = config.replace(filter_threshold=0.0, depth_confidence=None)
        self.filter_threshold = Constant(jnp.float32(config.filter_threshold))
        depth = config.depth_confidence
        self.depth_confidence = None if depth is None else Constant(jnp.float32(depth))
        projection = linear(config.input_dim, config.descriptor_dim, rngs) if config.input_projection else None
        self.input_projection = projection
        self.positional_encoder = PositionalEncoder(config, rngs)
        count = config.num_hidden_layers
        self.transformer_layers = _stacked(partial(TransformerLayer, config), count, rngs)
        self.match_assignment_layers = _stacked(partial(MatchAssignment, config), count, rngs)
        # The last layer needs no confidence, because no layer follows.
        self.token_confidence = _stacked(partial(TokenConfidence, config), count - 1, rngs)

    @property
    def config(self) -> LightGlueConfig:
        """The configuration. While jax traces the model, use `rules` and the thresholds instead."""
        # The shortest decimal that rounds to this float32: 0.1, not 0.10000000149011612.
        values = {
            name: float(str(np.asarray(leaf[...])))
            for name in ("filter_threshold", "depth_confidence")
            if (leaf := getattr(self, name)) is not None
        }
        return self.rules.replace(**values)

    @staticmethod
    def from_pretrained(
        source: str | os.PathLike[str] | None = None, *, revision: str | None = None, **options: Any
    ) -> LightGlue:
        """The network with the weights of a source, float32: see `superpoint_jax.lightglue.load`.

        Args:
            source: A folder, a file or the id of a repository on the Hugging Face hub; None for the matcher in the
                package.
            revision: Branch, tag or commit on the hub.
            **options: Fields of `LightGlueConfig` that replace those that belong to the weights: `filter_threshold`,
                `depth_confidence`, `attention`, `dtype`; and other options for the hub, see `hub.HubOptions`.
        """
        from superpoint_jax.lightglue.load import from_pretrained

        return from_pretrained(source, revision=revision, **options)

    def save_pretrained(self, folder: str | os.PathLike[str], *, extractor: SuperPoint | None = None) -> Path:
        """The folder, which now holds config.json and the weights: see `superpoint_jax.lightglue.save`.

        Args:
            folder: Created if it does not exist.
            extractor: The SuperPoint that finds the keypoints. With it, transformers can open the folder.
        """
        from superpoint_jax.lightglue.save import save_pretrained

        return save_pretrained(self, folder, extractor=extractor)

    def match(
        self,
        a: Keypoints,
        b: Keypoints,
        *,
        min_score: Threshold | None = None,
        depth_confidence: Threshold | None = None,
        dtype: str | None = None,
    ) -> Matches:
        """The partner in b of each keypoint in a; scores are probabilities. `superpoint_jax.match` calls this method.

        a and b are batches of B pairs, or one side is a batch of one image and is matched with all B images of the
        other. If neither has a batch axis, the result has none. K may differ between a and b. Padding rows are ignored:
        the result for a pair does not depend on the other pairs of the batch or on the amount of padding. The method is
        jitted, and composes under `jit`, `vmap`, `scan` and (through the scores) `grad`; a new threshold compiles
        nothing.

        Args:
            a: Keypoints of the extractor that the weights belong to. The coordinates must refer to `image_sizes`.
            b: The same for the other image.
            min_score: The score of a match must be greater than this; by default the model's `filter_threshold`.
            depth_confidence: A pair runs no further layers as soon as more than this fraction of its keypoints is
                confident; 1 runs every layer. By default the model's.
            dtype: Compute type; by default the model's.

        Raises:
            ValueError: The shapes do not fit together, the descriptors have another length, or `dtype` is not known.
        """
        self._check(a, b)
        if a.mask.ndim == 1:
            options: dict[str, Any] = dict(min_score=min_score, depth_confidence=depth_confidence, dtype=dtype)
            return rows_of(a, self.match(batch_of_one(a), batch_of_one(b), **options))
        threshold = self.filter_threshold[...] if min_score is None else min_score
        rules = self.rules if dtype is None else self.rules.replace(dtype=dtype)
        return _match(self, image_of(a), image_of(b), threshold, self._depth(depth_confidence), rules=rules)

    def __call__(
        self, a: Keypoints, b: Keypoints, *, depth_confidence: Threshold | None = None, dtype: str | None = None
    ) -> Assignment:
        """The probabilities of all pairs of keypoints, which `match` makes matches of; a and b must be batches.

        It is not jitted. The arguments are those of `match`.
        """
        self._check(a, b)
        if a.mask.ndim == 1:
            raise ValueError(f"a.mask has shape {a.mask.shape}; a batch [B,K] is needed: a slice, features[:1]")
        rules = self.rules if dtype is None else self.rules.replace(dtype=dtype)

        def assigned(model: LightGlue, a: Image, b: Image, depth: Threshold | None) -> Assignment:
            return _assignment(model, a, b, depth, rules)

        images = image_of(a), image_of(b)
        return placed_like(longer(*images), assigned)(self, *images, self._depth(depth_confidence))

    def states(
        self, a: Keypoints, b: Keypoints, *, dtype: str | None = None
    ) -> tuple[Float[Array, "l b i d"], Float[Array, "l b j d"]]:
        """The states of both images after each layer, for a loss on every layer; a and b must be batches.

        Under a mesh with explicit axes, call it within `jax.shard_map`.
        """
        self._check(a, b)
        rules = self.rules if dtype is None else self.rules.replace(dtype=dtype)
        pair = _prepared(self, image_of(a), image_of(b), rules)
        step = partial(_layer, pair=pair, rules=rules)
        _, states = lax.scan(lambda states, layer: (step(layer, states),) * 2, pair.states, self.transformer_layers)
        return pair.restored(states)

    def _depth(self, given: Threshold | None) -> Threshold | None:
        own = None if self.depth_confidence is None else self.depth_confidence[...]
        return own if given is None else given

    def _check(self, a: Keypoints, b: Keypoints) -> None:
        check_pairs(a, b)
        if a.descriptors.shape[-1] != self.rules.input_dim:
            raise ValueError(
                f"descriptors have length {a.descriptors.shape[-1]}; this LightGlue takes {self.rules.input_dim}: it "
                f"was trained for another extractor"
            )


@partial(jax.jit, static_argnames="rules")
def _match(
    model: LightGlue,
    a: Image,
    b: Image,
    min_score: Threshold,
    depth_confidence: Threshold | None,
    *,
    rules: LightGlueConfig,
) -> Matches:
    counts, rows, columns = (len(a.mask), len(b.mask)), a.mask.shape[1], b.mask.shape[1]
    count = min(counts) and max(counts)
    if 0 in (count, rows, columns):
        return no_matches((count, rows))

    def matched(model: LightGlue, a: Image, b: Image, min_score: Threshold, depth: Threshold | None) -> Matches:
        return mutual_matches(_assignment(model, a, b, depth, rules).log_scores, min_score)

    return placed_like(longer(a, b), matched)(model, a, b, min_score, depth_confidence)


def _assignment(
    model: LightGlue, a: Image, b: Image, depth_confidence: Threshold | None, rules: LightGlueConfig
) -> Assignment:
    pair = _prepared(model, a, b, rules)
    last = rules.num_hidden_layers - 1
    if depth_confidence is None or not last:
        step = partial(_layer, pair=pair, rules=rules)
        states, _ = lax.scan(lambda states, layer: (step(layer, states), None), pair.states, model.transformer_layers)
        stops = jnp.full(len(pair.masks[0]), last, jnp.int32)
    else:
        states, stops = _until_confident(model, pair, depth_confidence, rules)
    states_a, states_b = pair.restored(states)
    if depth_confidence is None:
        found = _scored(jax.tree.map(lambda leaf: leaf[last], model.match_assignment_layers), states_a, states_b)
    else:
        found = scored_after(model, stops, states_a, states_b)
    mask_a, mask_b = (jnp.broadcast_to(image.mask, x.shape[:2]) for image, x in ((a, states_a), (b, states_b)))
    return assign(*found, mask_a, mask_b, stops + 1)


def scored_after(
    model: LightGlue, stops: Int[Array, " b"], states_a: Float[Array, "b i d"], states_b: Float[Array, "b j d"]
) -> tuple[Float[Array, "b i j"], Float[Array, "b i"], Float[Array, "b j"]]:
    """Similarity and matchability logits of each pair, by the head of its last layer, whose index is in `stops`."""

    def of_pair(stop: Array, a: Array, b: Array) -> tuple[Array, Array, Array]:
        head = jax.tree.map(lambda leaf: leaf[stop], model.match_assignment_layers)
        return jax.tree.map(lambda leaf: leaf[0], _scored(head, a[None], b[None]))

    return jax.vmap(of_pair)(stops, states_a, states_b)


def confidences_after(
    model: LightGlue, index: Int[Array, ""], states: tuple[Float[Array, "b i d"], Float[Array, "b j d"]]
) -> tuple[tuple[Float[Array, "b i"], Float[Array, "b j"]], Float[Array, ""]]:
    """The confidences of both sides after the layer with this index, and from which one on a keypoint is confident.

    Source: paper, section 3.3.
    """
    layers = model.rules.num_hidden_layers
    # The last layer has no confidence; what is computed for it is not used.
    token = jax.tree.map(lambda leaf: leaf[jnp.minimum(index, layers - 2)], model.token_confidence)
    threshold = 0.8 + 0.1 * jnp.exp(-4.0 / layers * index.astype(jnp.float32))
    return (token(states[0]), token(states[1])), threshold


def _scored(head: MatchAssignment, states_a: Array, states_b: Array) -> tuple[Array, Array, Array]:
    logits_a, logits_b = head.matchability_logits(states_a), head.matchability_logits(states_b)
    return head.similarity(states_a, states_b), logits_a, logits_b


def _prepared(model: LightGlue, a: Image, b: Image, rules: LightGlueConfig) -> Pair:
    return prepare(a, b, model.positional_encoder, model.input_projection, sort=rules.attention == "cudnn")


def _layer(layer: TransformerLayer, states: tuple[Array, Array], *, pair: Pair, rules: LightGlueConfig) -> Any:
    return layer(*states, pair.masks, pair.rotations, dtype=rules.dtype)


def _until_confident(
    model: LightGlue, pair: Pair, depth_confidence: Threshold, rules: LightGlueConfig
) -> tuple[tuple[Array, Array], Int[Array, " b"]]:
    """The states of each pair after its last layer, and the index of that layer.

    It is a scan that skips layers when every pair of the batch has stopped. A `while_loop` has no derivative in reverse
    mode. Under `vmap` no layer is skipped; the result is the same.
    """
    last = rules.num_hidden_layers - 1
    total = jnp.maximum(sum(jnp.sum(mask, axis=-1, dtype=jnp.float32) for mask in pair.masks), 1)

    def run(layer: TransformerLayer, index: Array, states: tuple[Array, Array], stops: Array) -> Any:
        new = _layer(layer, states, pair=pair, rules=rules)
        running = stops == last
        states = jax.tree.map(lambda x, y: jnp.where(running[:, None, None], x, y), new, states)
        confidences, threshold = confidences_after(model, index, states)
        unsure = sum(
            jnp.sum((confidence < threshold) & mask, axis=-1, dtype=jnp.float32)
            for confidence, mask in zip(confidences, pair.masks, strict=True)
        )
        confident = 1 - unsure / total > depth_confidence
        return states, jnp.where(running & confident, index, stops)

    def step(carry: Any, layer: tuple[TransformerLayer, Array]) -> tuple[Any, None]:
        states, stops = carry
        return lax.cond(jnp.any(stops == last), run, lambda *given: given[2:], *layer, states, stops), None

    # Computed from a state, so that under `shard_map` it varies over the mesh as the states do.
    stops = jnp.full_like(pair.states[0][:, 0, 0], last, jnp.int32)
    indices = jnp.arange(rules.num_hidden_layers, dtype=jnp.int32)
    (states, stops), _ = lax.scan(step, (pair.states, stops), (model.transformer_layers, indices))
    return states, stops


def _stacked(make: Callable[..., Any], count: int, rngs: nnx.Rngs) -> Any:
    """`count` modules as one module, whose parameters have a first axis over them, for a scan."""
    return jax.vmap(lambda key: make(nnx.Rngs(key)))(jax.random.split(rngs.params(), count))
