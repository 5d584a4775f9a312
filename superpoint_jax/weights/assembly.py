"""Builds models from state dicts, strictly, and state dicts from models."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mode
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from superpoint_jax.config import SuperPointConfig
from superpoint_jax.model import SuperPoint
from superpoint_jax.weights.keys import BOOKKEEPING, HUGGING_FACE, REFINEMENT_HEAD, Layout, Path, recognise
from superpoint_jax.weights.strict import check_tensors

StateDict = Mapping[str, np.ndarray]


def state_dict(model: SuperPoint) -> dict[str, np.ndarray]:
    """The parameters as numpy float32 under Hugging Face's names, kernels [out, in, height, width].

    Hugging Face's SuperPoint has no batch norm; ours is named in the same style, for example
    `encoder.conv_blocks.0.norm_a.running_mean`. `from_state_dict` is the inverse.
    """
    values = dict(nnx.to_flat_state(nnx.state(model)))
    return {
        key: _to_torch(np.asarray(values[path][...], np.float32))
        for key, path in HUGGING_FACE.paths(
            batch_norm=model.rules.batch_norm, refinement_head=model.rules.refinement_head
        ).items()
    }


def from_state_dict(
    tensors: StateDict, *, config: SuperPointConfig | str | None = None, origin: str = "the state dict"
) -> SuperPoint:
    """The model with these float32 weights, in any of the published layouts (see `superpoint_jax.weights.keys`).

    Args:
        tensors: Arrays by name, kernels [out, in, height, width].
        config: The configuration of the model; or a preset's name, with the sizes of the tensors; or None for the
            preset that reproduces the results published with weights of this layout.
        origin: Where the tensors come from, for messages.

    Raises:
        WeightsError: Tensors are missing, unexpected or have a wrong shape; one message names them all.
    """
    layout = recognise(tensors, origin=origin)
    if not isinstance(config, SuperPointConfig):
        config = SuperPointConfig.preset(config or layout.preset, **sizes_of(tensors, layout))
    return assemble(tensors, layout, config, origin=origin)


def sizes_of(tensors: StateDict, layout: Layout) -> dict[str, Any]:
    """The sizes of `SuperPointConfig`, read from the tensors; a size without tensors has its default.

    If the tensors of one layer disagree about its number of outputs, the most frequent number counts.
    """
    paths = layout.paths(batch_norm=True)
    normalised = set(paths) - set(layout.paths(batch_norm=False))
    default = SuperPointConfig()

    def channels(*layer: str | int, otherwise: int) -> int:
        lengths = [
            tensors[key].shape[0]
            for key, path in paths.items()
            if path[: len(layer)] == layer and key in tensors and tensors[key].ndim and tensors[key].size
        ]
        return mode(lengths or [otherwise])

    return {
        "encoder_hidden_sizes": tuple(
            channels("encoder", "conv_blocks", index, otherwise=size)
            for index, size in enumerate(default.encoder_hidden_sizes)
        ),
        "decoder_hidden_size": channels("keypoint_decoder", "conv_score_a", otherwise=default.decoder_hidden_size),
        "descriptor_decoder_dim": channels(
            "descriptor_decoder", "conv_descriptor_b", otherwise=default.descriptor_decoder_dim
        ),
        "batch_norm": bool(normalised & set(tensors)) if layout.batch_norm is None else layout.batch_norm,
        "refinement_head": any(key.startswith(f"{REFINEMENT_HEAD}.") for key in tensors),
    }


def assemble(
    tensors: StateDict, layout: Layout, config: SuperPointConfig, *, origin: str, magic_leap: bool = False
) -> SuperPoint:
    """The model of a configuration, with tensors in a layout, which must be complete and have the right shapes.

    `magic_leap` marks weights that Magic Leap's licence applies to. A refinement head is left out if the configuration
    has none.

    Raises:
        WeightsError: The message names every tensor that is missing, unexpected, of a wrong shape or not of floats.
    """
    graph, variables = _structure(config)
    head = config.refinement_head
    paths = layout.paths(batch_norm=config.batch_norm, refinement_head=head)
    stored = layout.paths(batch_norm=config.batch_norm or layout.norm_first, refinement_head=head)
    shapes = _structure(config.replace(batch_norm=True))[1] if layout.norm_first else variables
    unused = () if head else (f"{REFINEMENT_HEAD}.",)
    tensors = {
        key: value
        for key, value in tensors.items()
        if not key.endswith(f".{BOOKKEEPING}") and not key.startswith(unused)
    }
    sizes = ("encoder_hidden_sizes", "decoder_hidden_size", "descriptor_decoder_dim", "batch_norm")
    check_tensors(
        tensors,
        {key: _torch_shape(shapes[path].shape) for key, path in stored.items()},
        origin=origin,
        network=f"a SuperPoint in {layout.title}'s layout with "
        + ", ".join(f"{name}={getattr(config, name)}" for name in sizes),
    )
    if layout.norm_first:
        tensors = _folded(tensors, layout)
    filled: list[tuple[Path, Any]] = [
        (path, variables[path].replace(jnp.asarray(_to_flax(np.asarray(tensors[key], np.float32)))))
        for key, path in paths.items()
    ]
    constants = {"keypoint_threshold": config.keypoint_threshold, "magic_leap": magic_leap}
    filled += [((name,), variables[name,].replace(jnp.float32(value))) for name, value in constants.items()]
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _structure(config: SuperPointConfig) -> tuple[Any, dict[Any, Any]]:
    """The tree definition of a model, and the shapes of its arrays by path."""
    graph, state = nnx.split(nnx.eval_shape(lambda: SuperPoint(config, rngs=nnx.Rngs(0))))
    return graph, dict(nnx.to_flat_state(state))


NORM_FIRST_EPSILON = 1e-5
"""PyTorch's default, which pytorch-superpoint uses."""


def _folded(tensors: StateDict, layout: Layout) -> dict[str, np.ndarray]:
    """The weights and biases of convolutions that compute the same as with their batch norms, in float64 until then."""
    norm_of = {ours: theirs for theirs, ours in layout.layers.items()}
    folded = {}
    for theirs, ours in layout.layers.items():
        norm = norm_of.get("norm_".join(ours.rsplit("conv_", 1)))
        if norm is None or norm == theirs:
            continue
        scale, shift, mean, variance = (
            np.asarray(tensors[f"{norm}.{name}"], np.float64)
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        factor = scale / np.sqrt(variance + NORM_FIRST_EPSILON)
        folded[f"{theirs}.weight"] = np.asarray(tensors[f"{theirs}.weight"], np.float64) * factor[:, None, None, None]
        folded[f"{theirs}.bias"] = (np.asarray(tensors[f"{theirs}.bias"], np.float64) - mean) * factor + shift
    return folded


def _to_flax(tensor: np.ndarray) -> np.ndarray:
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor


def _to_torch(tensor: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(tensor.transpose(3, 2, 0, 1)) if tensor.ndim == 4 else tensor


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else tuple(shape)
