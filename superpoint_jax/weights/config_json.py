"""Converts `SuperPointConfig` to and from config.json and the metadata of a safetensors file.

config.json has Hugging Face's fields where transformers looks for them. Options that transformers has no name for are
in an object of their own, which transformers keeps and ignores.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from superpoint_jax.config import SuperPointConfig
from superpoint_jax.weights.errors import WeightsError

OWN = "superpoint_jax"
"""Name of our object in config.json, of our entry in the metadata, and of our `model_type`."""

ORIGIN = "superpoint_jax_origin"
"""Name of the entry with the layout that converted weights had before, where it still matters (see `licence`)."""

HUGGING_FACE_FIELDS = (
    "encoder_hidden_sizes",
    "decoder_hidden_size",
    "keypoint_decoder_dim",
    "descriptor_decoder_dim",
    "keypoint_threshold",
    "max_keypoints",
    "nms_radius",
    "border_removal_distance",
    "initializer_range",
)


CARRIED = ("preprocessor_json", "extra_json")
"""Options that only hold the contents of other files, so our object in config.json does not repeat them."""

THEIR_ARCHITECTURE = "SuperPointForKeypointDetection"
_WRITTEN = ("architectures", "model_type", "dtype", OWN, ORIGIN)


def canonical_json(contents: Any) -> str:
    """JSON text that is the same for equal contents."""
    return json.dumps(contents, sort_keys=True)


def to_config_json(config: SuperPointConfig) -> dict[str, Any]:
    """The contents of config.json.

    `model_type` is transformers' "superpoint" if transformers can express the network, else our own.
    """
    fields = dataclasses.asdict(config)
    own = config.batch_norm
    extra = json.loads(config.extra_json or "{}")
    architectures = ["superpoint_jax.SuperPoint"] if own else extra.get("architectures", [THEIR_ARCHITECTURE])
    return {
        **extra,
        "architectures": architectures,
        "model_type": OWN if own else "superpoint",
        # The type of the stored weights, under transformers' new and old name. The compute type is in our own object.
        "dtype": "float32",
        **({"torch_dtype": "float32"} if "torch_dtype" in extra else {}),
        **{name: fields[name] for name in HUGGING_FACE_FIELDS},
        OWN: {name: value for name, value in fields.items() if name not in {*HUGGING_FACE_FIELDS, *CARRIED}},
    }


def from_config_json(contents: Mapping[str, Any], *, origin: str) -> dict[str, Any]:
    """The fields of `SuperPointConfig` in a config.json, ours or Hugging Face's; all other entries go to `extra_json`.

    Raises:
        WeightsError: The file belongs to another model, or states an option that this version does not know.
    """
    model_type = contents.get("model_type", "superpoint")
    if model_type not in ("superpoint", OWN):
        raise WeightsError(f"{origin} belongs to a {model_type!r} model; a 'superpoint' is needed")
    fields = {name: contents[name] for name in HUGGING_FACE_FIELDS if name in contents}
    extra = {name: value for name, value in contents.items() if name not in {*HUGGING_FACE_FIELDS, *_WRITTEN}}
    if contents.get("architectures", [THEIR_ARCHITECTURE]) != [THEIR_ARCHITECTURE] and model_type != OWN:
        extra["architectures"] = contents["architectures"]
    carried = {"extra_json": canonical_json(extra)} if extra else {}
    return _known({**fields, **carried, **_object(contents.get(OWN, {}), origin)}, origin)


def to_metadata(config: SuperPointConfig) -> dict[str, str]:
    """The metadata of our safetensors files; with it, a file needs no config.json."""
    return {"format": "pt", OWN: json.dumps(dataclasses.asdict(config))}  # transformers asks for a "format"


def from_metadata(metadata: Mapping[str, str], *, origin: str) -> dict[str, Any]:
    """The fields of `SuperPointConfig` in the metadata; empty if the file is not ours."""
    return _known(_object(parse_json(metadata.get(OWN, "{}"), origin=origin), origin), origin)


def parse_json(text: str, *, origin: str) -> Any:
    """The parsed text.

    Raises:
        WeightsError: The text is not JSON.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise WeightsError(f"{origin} is not JSON ({error})") from error


def make_config(preset: str, fields: Mapping[str, Any], *, origin: str) -> SuperPointConfig:
    """The preset, with the stored fields instead of its own.

    Raises:
        WeightsError: A field has a value that no SuperPoint has.
    """
    try:
        return SuperPointConfig.preset(preset, **fields)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"the configuration of {origin}: {error}") from error


def _object(value: Any, origin: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WeightsError(f"{origin} holds {value!r} where an object of options is needed")
    return value


def _known(fields: dict[str, Any], origin: str) -> dict[str, Any]:
    defaults = {field.name: field.default for field in dataclasses.fields(SuperPointConfig)}
    if unknown := sorted(set(fields) - set(defaults)):
        raise WeightsError(
            f"{origin} states {', '.join(unknown)}, which this version does not know; upgrade superpoint-jax"
        )
    return {name: _as_type_of(defaults[name], value) for name, value in fields.items()}


def _as_type_of(default: Any, value: Any) -> Any:
    """The value as a tuple or a float if the default is one: JSON has no tuples, and some writers write 1.0 as 1."""
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(value)
    return float(value) if isinstance(default, float) and isinstance(value, int) else value
