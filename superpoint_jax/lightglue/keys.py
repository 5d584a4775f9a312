"""The layer names of the published checkpoints, and the layers of this library that they stand for.

Inside the library the name of a layer is its path in `LightGlue`. It is Hugging Face's name without the number of the
layer, because the parameters of all layers are stacked. In a checkpoint's name, `{i}` stands for that number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from superpoint_jax.lightglue.config import LightGlueConfig
from superpoint_jax.weights import WeightsError

Path = tuple[str, ...]

PARAMETERS: Mapping[str, Mapping[str, str]] = {
    "linear": {"weight": "kernel", "bias": "bias"},
    "layer_norm": {"weight": "scale", "bias": "bias"},
    "projector": {"weight": "kernel"},
}
"""PyTorch's name of each parameter, and Flax's name of it."""

DETECTOR_PREFIX = "keypoint_detector."
"""Prefix of the SuperPoint inside Hugging Face's files."""

MATCHER_PREFIX = "matcher."
"""Prefix of the matcher inside glue-factory's training checkpoints, which can hold an extractor and more."""

BOOKKEEPING = re.compile(r"confidence_thresholds|log_assignment\.\d+\.r")
"""Tensors in cvg's files that nothing computes with: a table that follows from the number of layers, and a number."""


class Target(NamedTuple):
    """The parameter that a tensor, or a part of it, belongs to.

    Attributes:
        path: Path of the parameter in `LightGlue`.
        layer: Index of the layer on the stacked axis; None for a parameter that is not stacked.
        part: First row of the part; the rows are `part`, `part + parts`, `part + 2 parts`, ...
        parts: Number of parameters that are interleaved in the tensor.
    """

    path: Path
    layer: int | None
    part: int
    parts: int


@dataclass(frozen=True)
class Layout:
    """The names of the layers in one family of files.

    Attributes:
        name: Name of the layout in code.
        title: The owner of the layout, for messages.
        layers: The file's name of each layer, and our name of it; several names if our layers are interleaved in it.
    """

    name: str
    title: str
    layers: Mapping[str, tuple[str, ...]]

    def targets(self, config: LightGlueConfig) -> dict[str, list[Target]]:
        """Every key of a complete file, with the parameters that its rows belong to."""
        return {
            f"{theirs.format(i=layer)}.{torch_name}": [
                Target((*_untied(ours, config).split("."), flax_name), layer if stacked else None, part, len(names))
                for part, ours in enumerate(names)
            ]
            for theirs, names in self.layers.items()
            if config.input_projection or not names[0].startswith("input_projection")
            for stacked in ["{i}" in theirs]
            for layer in range(_count(names[0], config))
            for torch_name, flax_name in _parameters(names[0]).items()
        }

    def layer_numbers(self, keys: Iterable[str]) -> Iterator[int]:
        """The number of the layer in each key of a transformer layer, even if the rest of the key is not known."""
        prefixes = {
            theirs.split("{i}")[0] for theirs, names in self.layers.items() if names[0].startswith("transformer_layers")
        }
        pattern = re.compile(rf"(?:{'|'.join(map(re.escape, sorted(prefixes)))})(\d+)\.")
        yield from (int(found[1]) for key in keys if (found := pattern.match(key)))

    def name_of(self, ours: str) -> str:
        """The file's name of our layer."""
        return next(theirs for theirs, names in self.layers.items() if ours in names)


def _parameters(layer: str) -> Mapping[str, str]:
    return PARAMETERS.get(layer.rsplit(".", 1)[-1], PARAMETERS["linear"])


def _count(layer: str, config: LightGlueConfig) -> int:
    stacked = {"transformer_layers": 0, "match_assignment_layers": 0, "token_confidence": 1}
    first = layer.split(".")[0]
    return config.num_hidden_layers - stacked[first] if first in stacked else 1


def _untied(layer: str, config: LightGlueConfig) -> str:
    return layer.replace(_CROSS_QUERY, _CROSS_KEY) if config.tied_cross_attention else layer


_CROSS_QUERY, _CROSS_KEY = (f"transformer_layers.cross_attention.{name}_proj" for name in "qk")

HUGGING_FACE = Layout(
    name="huggingface",
    title="Hugging Face's",
    layers={
        "input_projection": ("input_projection",),
        "positional_encoder.projector": ("positional_encoder.projector",),
        **{
            f"transformer_layers.{{i}}.{layer}": (f"transformer_layers.{layer}",)
            for side in ("self", "cross")
            for layer in (
                *(f"{side}_attention.{name}_proj" for name in "qkvo"),
                *(f"{side}_mlp.{name}" for name in ("fc1", "layer_norm", "fc2")),
            )
        },
        **{
            f"match_assignment_layers.{{i}}.{layer}": (f"match_assignment_layers.{layer}",)
            for layer in ("final_projection", "matchability")
        },
        "token_confidence.{i}.token": ("token_confidence.token",),
    },
)

_CVG_BLOCKS = {
    "self_attn": {
        # The rows of query, key and value alternate: three rows for each channel of each head.
        "Wqkv": tuple(f"self_attention.{name}_proj" for name in "qkv"),
        "out_proj": ("self_attention.o_proj",),
        "ffn.0": ("self_mlp.fc1",),
        "ffn.1": ("self_mlp.layer_norm",),
        "ffn.3": ("self_mlp.fc2",),
    },
    "cross_attn": {
        "to_qk": ("cross_attention.k_proj",),
        "to_v": ("cross_attention.v_proj",),
        "to_out": ("cross_attention.o_proj",),
        "ffn.0": ("cross_mlp.fc1",),
        "ffn.1": ("cross_mlp.layer_norm",),
        "ffn.3": ("cross_mlp.fc2",),
    },
}


def _cvg(name: str, title: str, block_name: str) -> Layout:
    return Layout(
        name=name,
        title=title,
        layers={
            "input_proj": ("input_projection",),
            "posenc.Wr": ("positional_encoder.projector",),
            **{
                f"{block_name.format(block=block)}.{theirs}": tuple(f"transformer_layers.{layer}" for layer in ours)
                for block, layers in _CVG_BLOCKS.items()
                for theirs, ours in layers.items()
            },
            "log_assignment.{i}.final_proj": ("match_assignment_layers.final_projection",),
            "log_assignment.{i}.matchability": ("match_assignment_layers.matchability",),
            "token_confidence.{i}.token.0": ("token_confidence.token",),
        },
    )


CVG = _cvg("cvg", "cvg's", "transformers.{{i}}.{block}")
CVG_FIRST = _cvg("cvg_first", "cvg's first", "{block}.{{i}}")

LAYOUTS = (HUGGING_FACE, CVG, CVG_FIRST)


def recognise(keys: Iterable[str], *, origin: str) -> Layout:
    """The layout that has the most of these keys.

    Raises:
        WeightsError: No layout has any of them.
    """
    keys = set(keys)
    known = {layout.name: len(keys & layout.targets(_ONE_LAYER).keys()) for layout in LAYOUTS}
    # The keys of cvg's two styles differ only in the layers; those of the first layer are enough to decide.
    best = max(LAYOUTS, key=lambda layout: known[layout.name])
    if known[best.name]:
        return best
    found = f"keys {', '.join(sorted(keys)[:5])}{', ...' if len(keys) > 5 else ''}" if keys else "no tensors"
    needed = "; ".join(f"{layout.title}: {layout.name_of(_CROSS_KEY).format(i=0)}.weight" for layout in LAYOUTS)
    raise WeightsError(f"{origin} holds {found}; none belongs to a LightGlue. A state dict is needed ({needed}, ...)")


_ONE_LAYER = LightGlueConfig(num_hidden_layers=1, input_projection=True)
