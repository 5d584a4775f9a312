"""Random weights that find hundreds of keypoints on photos, as a state dict and in a model."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from flax import nnx

from superpoint_jax import SuperPoint, SuperPointConfig

State = dict[str, np.ndarray]
"""Hugging Face's names and layout (kernels OIHW); batch norms beside them as `...norm_x.{weight,bias,mean,var}`."""


def layers(config: SuperPointConfig) -> Iterator[tuple[str, str, int, int, int]]:
    """(convolution, its batch norm, inputs, outputs, kernel size) of every layer, from image to heads."""
    sizes = (1, *config.encoder_hidden_sizes)
    for i, (before, after) in enumerate(pairwise(sizes)):
        block = f"encoder.conv_blocks.{i}"
        yield f"{block}.conv_a", f"{block}.norm_a", before, after, 3
        yield f"{block}.conv_b", f"{block}.norm_b", after, after, 3
    hidden = config.decoder_hidden_size
    for head, name, outputs in (
        ("keypoint_decoder", "score", config.keypoint_decoder_dim),
        ("descriptor_decoder", "descriptor", config.descriptor_decoder_dim),
    ):
        yield f"{head}.conv_{name}_a", f"{head}.norm_{name}_a", sizes[-1], hidden, 3
        yield f"{head}.conv_{name}_b", f"{head}.norm_{name}_b", hidden, outputs, 1


def random_state(seed: int, config: SuperPointConfig) -> State:
    """He-scaled weights whose score maps look like a trained network's: flat parts near 0, peaks up to 0.9.

    Each kernel sums to zero, so that the answer follows the photo's structure and not its brightness; Hugging Face's
    own initial weights give a score of 1/65 everywhere and would compare nothing.
    """
    rng = np.random.default_rng(seed)
    state: State = {}
    for conv, norm, inputs, outputs, size in layers(config):
        kernel = rng.normal(size=(outputs, inputs, size, size))
        kernel -= kernel.mean(axis=(1, 2, 3), keepdims=True)
        state[f"{conv}.weight"] = 1.5 * np.sqrt(2 / (inputs * size * size)) * kernel
        state[f"{conv}.bias"] = 0.01 * rng.normal(size=outputs)
        if config.batch_norm:
            state[f"{norm}.weight"] = rng.uniform(0.5, 1.5, outputs)
            state[f"{norm}.bias"] = 0.1 * rng.normal(size=outputs)
            state[f"{norm}.mean"] = 0.1 * rng.normal(size=outputs)
            state[f"{norm}.var"] = rng.uniform(0.5, 1.5, outputs)
    # A wider spread of logits would multiply float32's error beyond that of trained weights (3e-6 in a score).
    state["keypoint_decoder.conv_score_b.weight"] *= 0.5
    state["keypoint_decoder.conv_score_b.bias"][-1] += 4
    # For the same reason: the scales multiply layer by layer, and the logits would spread by 80, where torch's float32
    # is already 1.2e-5 from float64 in a score.
    if config.batch_norm:
        state["keypoint_decoder.norm_score_b.weight"] *= 0.1
    return {name: values.astype(np.float32) for name, values in state.items()}


def model_of(state: State, config: SuperPointConfig) -> SuperPoint:
    """The model with these weights, copied one by one."""
    # Abstract: running the initialisers would take seconds, for values that nothing reads.
    model = nnx.eval_shape(lambda: SuperPoint(config, rngs=nnx.Rngs(0)))
    for conv_name, norm_name, *_ in layers(config):
        conv = _submodule(model, conv_name)
        conv.kernel.set_value(jnp.asarray(state[f"{conv_name}.weight"].transpose(2, 3, 1, 0)))
        conv.bias.set_value(jnp.asarray(state[f"{conv_name}.bias"]))
        if config.batch_norm:
            norm = _submodule(model, norm_name)
            norm.scale.set_value(jnp.asarray(state[f"{norm_name}.weight"]))
            for name in ("bias", "mean", "var"):
                getattr(norm, name).set_value(jnp.asarray(state[f"{norm_name}.{name}"]))
    model.keypoint_threshold.set_value(jnp.float32(config.keypoint_threshold))
    model.magic_leap.set_value(jnp.float32(0))
    return model


def state_of(model: SuperPoint) -> State:
    """The weights of a model, the inverse of `model_of`."""
    state: State = {}
    for conv_name, norm_name, *_ in layers(model.config):
        conv = _submodule(model, conv_name)
        state[f"{conv_name}.weight"] = np.asarray(conv.kernel[...]).transpose(3, 2, 0, 1)
        state[f"{conv_name}.bias"] = np.asarray(conv.bias[...])
        if model.config.batch_norm:
            norm = _submodule(model, norm_name)
            state[f"{norm_name}.weight"] = np.asarray(norm.scale[...])
            for name in ("bias", "mean", "var"):
                state[f"{norm_name}.{name}"] = np.asarray(getattr(norm, name)[...])
    return state


def _submodule(model: SuperPoint, name: str):
    module = model
    for part in name.split("."):
        module = module[int(part)] if part.isdigit() else getattr(module, part)
    return module
