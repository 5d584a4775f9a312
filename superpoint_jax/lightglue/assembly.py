"""Builds LightGlues from state dicts, strictly, and state dicts from LightGlues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from statistics import mode
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from superpoint_jax.lightglue.config import LightGlueConfig
from superpoint_jax.lightglue.keys import (
    BOOKKEEPING,
    DETECTOR_PREFIX,
    HUGGING_FACE,
    MATCHER_PREFIX,
    Layout,
    Target,
    recognise,
)
from superpoint_jax.lightglue.network import LightGlue
from superpoint_jax.weights import WeightsError
from superpoint_jax.weights.strict import check_tensors

StateDict = Mapping[str, np.ndarray]


def state_dict(model: LightGlue) -> dict[str, np.ndarray]:
    """The parameters as numpy float32 under Hugging Face's names, matrices [out, in]. `from_state_dict` reads it."""
    values = {path: np.asarray(leaf[...], np.float32) for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    return {
        key: np.ascontiguousarray(
            _transposed(values[target.path] if target.layer is None else values[target.path][target.layer])
        )
        for key, (target,) in HUGGING_FACE.targets(model.rules).items()
    }


def from_state_dict(
    tensors: StateDict, *, config: LightGlueConfig | None = None, origin: str = "the state dict"
) -> LightGlue:
    """The network with these float32 weights, in any of the published layouts (see `superpoint_jax.lightglue.keys`).

    Args:
        tensors: Arrays by name, matrices [out, in]. From a pipeline of glue-factory, and from Hugging Face's LightGlue
            with its SuperPoint, only the matcher is taken.
        config: The configuration of the network; by default its sizes are those of the tensors.
        origin: Where the tensors come from, for messages.

    Raises:
        WeightsError: Tensors are missing, unexpected or have a wrong shape; one message names them all.
    """
    tensors = matcher_of(tensors)
    layout = recognise(tensors, origin=origin)
    return assemble(
        tensors, layout, config or LightGlueConfig(**sizes_of(tensors, layout, origin=origin)), origin=origin
    )


def matcher_of(tensors: StateDict) -> dict[str, np.ndarray]:
    """The tensors of the matcher under their own names, without those of other networks and without bookkeeping."""
    if any(key.startswith(MATCHER_PREFIX) for key in tensors):
        tensors = {
            key.removeprefix(MATCHER_PREFIX): value for key, value in tensors.items() if key.startswith(MATCHER_PREFIX)
        }
    return {
        key: value
        for key, value in tensors.items()
        if not key.startswith(DETECTOR_PREFIX) and not BOOKKEEPING.fullmatch(key)
    }


def sizes_of(tensors: StateDict, layout: Layout, *, origin: str) -> dict[str, Any]:
    """The sizes of `LightGlueConfig`, read from the tensors; a size without tensors has its default.

    Raises:
        WeightsError: The network needs scale and orientation of the keypoints.
    """
    default = LightGlueConfig()

    def matrix(ours: str) -> np.ndarray | None:
        tensor = tensors.get(f"{layout.name_of(ours)}.weight")
        return tensor if tensor is not None and tensor.ndim == 2 and tensor.size else None

    # A layer counts if it has at least half as many tensors as the fullest one: one wrong name must not add a layer.
    keys = Counter(layout.layer_numbers(tensors))
    layers = [number for number, count in keys.items() if 2 * count >= max(keys.values())]
    value = layout.name_of("transformer_layers.cross_attention.v_proj")
    lengths = [
        tensor.shape[0]
        for i in layers
        if (tensor := tensors.get(f"{value.format(i=i)}.weight")) is not None and tensor.ndim
    ]
    size = mode(lengths or [default.descriptor_dim])
    projection, projector = matrix("input_projection"), matrix("positional_encoder.projector")
    if projector is not None and projector.shape[1] == 4:
        raise WeightsError(
            f"{origin} needs scale and orientation of each keypoint, as the matchers for SIFT do; Keypoints have "
            f"neither. Matchers for SuperPoint, DISK and ALIKED can be read"
        )
    channels = 2 * (default.head_dim // 2 if projector is None else projector.shape[0])
    return {
        "input_dim": size if projection is None else projection.shape[1],
        "descriptor_dim": size,
        "num_hidden_layers": max(layers, default=default.num_hidden_layers - 1) + 1,
        "num_attention_heads": default.num_attention_heads if size % channels else size // channels,
        "input_projection": any(key.startswith(layout.name_of("input_projection")) for key in tensors),
        "tied_cross_attention": _is_tied(tensors, layout),
    }


def _is_tied(tensors: StateDict, layout: Layout) -> bool:
    """Whether query and key of the cross attention have the same projection in every layer."""
    if layout is not HUGGING_FACE:
        return True
    queries = {key: value for key, value in tensors.items() if ".cross_attention.q_proj." in key}
    return all(
        np.array_equal(value, tensors.get(key.replace(".q_proj.", ".k_proj."), value)) for key, value in queries.items()
    )


def assemble(tensors: StateDict, layout: Layout, config: LightGlueConfig, *, origin: str) -> LightGlue:
    """The network of a configuration, with tensors in a layout, which must be complete and have the right shapes.

    Raises:
        WeightsError: The message names every tensor that is missing, unexpected, of a wrong shape or not of floats.
    """
    graph, state = nnx.split(nnx.eval_shape(lambda: LightGlue(config, rngs=nnx.Rngs(0))))
    variables = dict(nnx.to_flat_state(state))
    targets = layout.targets(config)
    sizes = ("input_dim", "descriptor_dim", "num_hidden_layers", "num_attention_heads", "input_projection")
    check_tensors(
        tensors,
        {key: _torch_shape(variables[first.path].shape, first) for key, (first, *_) in targets.items()},
        origin=origin,
        network=f"a LightGlue in {layout.title} layout with "
        + ", ".join(f"{name}={getattr(config, name)}" for name in sizes),
    )
    values = {path: np.zeros(leaf.shape, np.float32) for path, leaf in variables.items()}
    for key, places in targets.items():
        tensor = np.asarray(tensors[key], np.float32)
        for target in places:
            rows = _transposed(tensor[target.part :: target.parts])
            values[target.path][() if target.layer is None else target.layer] = rows
    values["filter_threshold",] = np.asarray(config.filter_threshold, np.float32)
    if config.depth_confidence is not None:
        values["depth_confidence",] = np.asarray(config.depth_confidence, np.float32)
    filled = [(path, variables[path].replace(jnp.asarray(value))) for path, value in values.items()]
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _torch_shape(shape: tuple[int, ...], target: Target) -> tuple[int, ...]:
    """Shape of the tensor that holds a parameter and those interleaved with it."""
    own = shape if target.layer is None else shape[1:]
    return (own[-1] * target.parts, *own[:-1])


def _transposed(tensor: np.ndarray) -> np.ndarray:
    return tensor.T
