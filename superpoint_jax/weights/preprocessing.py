"""The processing that belongs to a model: how it is found beside the weights, and what is saved beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from superpoint_jax.config import SuperPointConfig
from superpoint_jax.hub import PREPROCESSOR_FILE
from superpoint_jax.processing import SuperPointImageProcessor
from superpoint_jax.weights.config_json import canonical_json, parse_json
from superpoint_jax.weights.errors import WeightsError


def preprocessor_config(config: SuperPointConfig) -> dict[str, Any]:
    """The contents of preprocessor_config.json: those that came with the weights, or what belongs to the rules."""
    if config.preprocessor_json:
        return json.loads(config.preprocessor_json)
    return SuperPointImageProcessor.for_config(config).to_dict()


def read_preprocessor_json(folder: Path) -> str:
    """`SuperPointConfig.preprocessor_json` of a folder; empty without such a file.

    Raises:
        WeightsError: The file holds no JSON object.
    """
    path = folder / PREPROCESSOR_FILE
    if not path.is_file():
        return ""
    contents = parse_json(path.read_text(encoding="utf-8"), origin=str(path))
    if not isinstance(contents, dict):
        raise WeightsError(f"{path} holds no JSON object; the options of an image processor are needed")
    return canonical_json(contents)


def without_the_usual(config: SuperPointConfig) -> SuperPointConfig:
    """The configuration, which carries no preprocessor_config.json if that says what belongs to its rules."""
    plain = config.replace(preprocessor_json="")
    usual = canonical_json(SuperPointImageProcessor.for_config(plain).to_dict())
    return plain if config.preprocessor_json == usual else config
