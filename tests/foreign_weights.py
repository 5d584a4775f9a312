"""The same random weights as each publisher's file would name them. Written out, not by the library's key maps."""

from __future__ import annotations

import numpy as np

from superpoint_jax import SuperPointConfig
from tests.random_weights import State, random_state

_MAGIC_LEAP_HEADS = {
    "convPa": "keypoint_decoder.conv_score_a",
    "convPb": "keypoint_decoder.conv_score_b",
    "convDa": "descriptor_decoder.conv_descriptor_a",
    "convDb": "descriptor_decoder.conv_descriptor_b",
}
_TORCH_NAMES = {"weight": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def own(seed: int, config: SuperPointConfig) -> State:
    """In the layout of this library: Hugging Face's, with batch norm beside."""
    return {
        f"{layer}.{_TORCH_NAMES[parameter]}": value
        for layer, parameter, value in (
            (*name.rsplit(".", 1), value) for name, value in random_state(seed, config).items()
        )
    }


def magic_leap(seed: int, config: SuperPointConfig) -> State:
    """As superpoint_v1.pth names them: conv1a ... conv4b, convPa, convPb, convDa, convDb."""
    weights = random_state(seed, config)
    names = {
        f"conv{block + 1}{half}": f"encoder.conv_blocks.{block}.conv_{half}" for block in range(4) for half in "ab"
    }
    return {
        f"{theirs}.{parameter}": weights[f"{ours}.{parameter}"]
        for theirs, ours in (names | _MAGIC_LEAP_HEADS).items()
        for parameter in ("weight", "bias")
    }


def rpautrat(seed: int, config: SuperPointConfig) -> State:
    """As superpoint_v6_from_tf.pth names them: {backbone.{i}, detector, descriptor}.{0,1}.{conv,bn}.*."""
    weights = random_state(seed, config.replace(batch_norm=True))
    stages = {f"backbone.{block}": (f"encoder.conv_blocks.{block}.", "") for block in range(4)}
    stages |= {"detector": ("keypoint_decoder.", "score_"), "descriptor": ("descriptor_decoder.", "descriptor_")}
    state: State = {}
    for theirs, (module, infix) in stages.items():
        for index, half in enumerate("ab"):
            for parameter in ("weight", "bias"):
                state[f"{theirs}.{index}.conv.{parameter}"] = weights[f"{module}conv_{infix}{half}.{parameter}"]
            for parameter, torch_name in _TORCH_NAMES.items():
                state[f"{theirs}.{index}.bn.{torch_name}"] = weights[f"{module}norm_{infix}{half}.{parameter}"]
            state[f"{theirs}.{index}.bn.num_batches_tracked"] = np.array(1000)
    return state


def shaofengzeng(seed: int, config: SuperPointConfig) -> State:
    """As SuperPointBNNet of shaofengzeng names them: backbone.block{b}_{1,2}.{0,2}, detector_head.convPa, bnPa, ..."""
    state = _with_norms(
        seed,
        config,
        {
            f"backbone.block{b + 1}_{half + 1}.0": f"encoder.conv_blocks.{b}.conv_{'ab'[half]}"
            for b in range(4)
            for half in range(2)
        }
        | {
            f"{'detector' if name[4] == 'P' else 'descriptor'}_head.{name}": ours
            for name, ours in _MAGIC_LEAP_HEADS.items()
        },
    )
    return {_moved_norm(name, 2): value for name, value in state.items()}


def pytorch_superpoint(seed: int, config: SuperPointConfig) -> State:
    """As SuperPointNet_gauss2 of pytorch-superpoint names them: inc, down1, down2, down3, convPa, bnPa, ..."""
    blocks = ("inc.conv", "down1.mpconv.1", "down2.mpconv.1", "down3.mpconv.1")
    state = _with_norms(
        seed,
        config,
        {
            f"{name}.conv.{3 * half}": f"encoder.conv_blocks.{b}.conv_{'ab'[half]}"
            for b, name in enumerate(blocks)
            for half in range(2)
        }
        | _MAGIC_LEAP_HEADS,
    )
    return {_moved_norm(name, 1): value for name, value in state.items()}


def _with_norms(seed: int, config: SuperPointConfig, layers: dict[str, str]) -> State:
    """Convolutions under the names of a file, and batch norms under those names with "norm:" before them."""
    weights = random_state(seed, config.replace(batch_norm=True))
    state: State = {}
    for theirs, ours in layers.items():
        for parameter in ("weight", "bias"):
            state[f"{theirs}.{parameter}"] = weights[f"{ours}.{parameter}"]
        for parameter, torch_name in _TORCH_NAMES.items():
            norm = "norm_".join(ours.rsplit("conv_", 1))
            state[f"norm:{theirs}.{torch_name}"] = weights[f"{norm}.{parameter}"]
        state[f"norm:{theirs}.num_batches_tracked"] = np.array(1000)
    return state


def _moved_norm(name: str, steps: int) -> str:
    """The name of a batch norm: its convolution's number plus `steps`, or "bn" instead of "conv" in a head."""
    if not name.startswith("norm:"):
        return name
    layer, parameter = name.removeprefix("norm:").rsplit(".", 1)
    module, last = layer.rsplit(".", 1) if "." in layer else ("", layer)
    last = str(int(last) + steps) if last.isdigit() else last.replace("conv", "bn")
    return ".".join(part for part in (module, last, parameter) if part)
