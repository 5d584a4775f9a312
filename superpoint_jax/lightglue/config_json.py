"""Converts `LightGlueConfig` to and from config.json and the metadata of a safetensors file.

config.json has Hugging Face's fields where transformers looks for them. Options that transformers has no name for are
in an object of their own, which transformers keeps and ignores.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from superpoint_jax.config import SuperPointConfig
from superpoint_jax.lightglue.config import LightGlueConfig
from superpoint_jax.weights import WeightsError
from superpoint_jax.weights.config_json import to_config_json as superpoint_json

OWN = "superpoint_jax_lightglue"
"""Name of our object in config.json, of our entry in the metadata, and of our `model_type`."""

MODEL_TYPE = "lightglue"
DETECTOR = "keypoint_detector_config"

_FIXED = {"attention_bias": True, "hidden_act": "gelu"}
"""Options of transformers that are the same in every LightGlue."""


def to_config_json(config: LightGlueConfig, extractor: SuperPointConfig | None) -> dict[str, Any]:
    """The contents of config.json: in transformers' form if there is an extractor, else in our own."""
    fields = {
        "descriptor_dim": config.descriptor_dim,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "filter_threshold": config.filter_threshold,
        OWN: dataclasses.asdict(config),
    }
    if extractor is None:
        return {"architectures": ["superpoint_jax.LightGlue"], "model_type": OWN, **fields}
    return {
        "architectures": ["LightGlueForKeypointMatching"],
        "model_type": MODEL_TYPE,
        "dtype": "float32",
        **fields,
        **_FIXED,
        "num_key_value_heads": config.num_attention_heads,
        # -1 switches off early stopping and pruning of points; transformers can only do both or neither.
        "depth_confidence": -1.0,
        "width_confidence": -1.0,
        DETECTOR: superpoint_json(extractor),
    }


def from_config_json(contents: Mapping[str, Any], *, origin: str) -> dict[str, Any]:
    """The fields of `LightGlueConfig` in a config.json, ours or Hugging Face's.

    Hugging Face's `depth_confidence` and `width_confidence` are ignored, because here every layer runs by default.

    Raises:
        WeightsError: The file belongs to another model, or states an option that this version does not know.
    """
    model_type = contents.get("model_type", MODEL_TYPE)
    if model_type not in (MODEL_TYPE, OWN):
        raise WeightsError(f"{origin} belongs to a {model_type!r} model; a {MODEL_TYPE!r} is needed")
    if OWN in contents:
        return known_fields(contents[OWN], origin=origin)
    heads = contents.get("num_attention_heads", 4)
    fixed = {**_FIXED, "num_key_value_heads": heads}
    other = {name: contents[name] for name, value in fixed.items() if contents.get(name) not in (None, value)}
    if other:
        raise WeightsError(f"{origin} states {other}; a LightGlue has {fixed}")
    names = ("descriptor_dim", "num_hidden_layers", "num_attention_heads", "filter_threshold")
    return {name: contents[name] for name in names if name in contents}


def to_metadata(config: LightGlueConfig) -> dict[str, str]:
    """The metadata of our safetensors files; with it, a file needs no config.json."""
    return {"format": "pt", OWN: json.dumps(dataclasses.asdict(config))}


def known_fields(fields: Any, *, origin: str) -> dict[str, Any]:
    """The fields, after a check.

    Raises:
        WeightsError: They are not an object, or this version does not know one of them.
    """
    if not isinstance(fields, dict):
        raise WeightsError(f"{origin} holds {fields!r} where an object of options is needed")
    names = {field.name for field in dataclasses.fields(LightGlueConfig)}
    if unknown := sorted(set(fields) - names):
        raise WeightsError(
            f"{origin} states {', '.join(unknown)}, which this version does not know; upgrade superpoint-jax"
        )
    return fields
