"""`LightGlueConfig` to and from what lies beside the weights: config.json, or a safetensors file's metadata.

config.json has Hugging Face's fields where transformers looks for them. The options that it has no name for are in an
object of their own, which transformers carries along and ignores.
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
"""Our object in config.json, our entry of the metadata, and our `model_type`."""

MODEL_TYPE = "lightglue"
DETECTOR = "keypoint_detector_config"

_FIXED = {"attention_bias": True, "hidden_act": "gelu"}
"""What transformers has as an option and every LightGlue has alike."""


def to_config_json(config: LightGlueConfig, extractor: SuperPointConfig | None) -> dict[str, Any]:
    """The contents of config.json: transformers' where there is an extractor, else our own."""
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
        # Fewer layers and fewer points, which transformers does together or not at all.
        "depth_confidence": -1.0,
        "width_confidence": -1.0,
        DETECTOR: superpoint_json(extractor),
    }


def from_config_json(contents: Mapping[str, Any], *, origin: str) -> dict[str, Any]:
    """The fields of `LightGlueConfig` that a config.json states, ours or Hugging Face's.

    Hugging Face's `depth_confidence` and `width_confidence` are left: here every layer runs unless it is asked for.

    Raises:
        WeightsError: It is another model's, or states what this version does not know.
    """
    model_type = contents.get("model_type", MODEL_TYPE)
    if model_type not in (MODEL_TYPE, OWN):
        raise WeightsError(f"{origin} is of a {model_type!r} model; a {MODEL_TYPE!r} is needed")
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
    """What a safetensors file of ours says of itself, so that it can stand alone."""
    return {"format": "pt", OWN: json.dumps(dataclasses.asdict(config))}


def known_fields(fields: Any, *, origin: str) -> dict[str, Any]:
    """The fields, checked.

    Raises:
        WeightsError: One of them is not known to this version.
    """
    if not isinstance(fields, dict):
        raise WeightsError(f"{origin} holds {fields!r} where an object of options is needed")
    names = {field.name for field in dataclasses.fields(LightGlueConfig)}
    if unknown := sorted(set(fields) - names):
        raise WeightsError(
            f"{origin} states {', '.join(unknown)}, which this version does not know; upgrade superpoint-jax"
        )
    return fields
