"""Reads the preprocessor_config.json stored with weights, and says what to store with them."""

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
    """The contents of preprocessor_config.json: those that came with the weights, or the default for the rules."""
    if config.preprocessor_json:
        return json.loads(config.preprocessor_json)
    return SuperPointImageProcessor.for_config(config).to_dict()


def read_preprocessor_json(folder: Path) -> str:
    """`SuperPointConfig.preprocessor_json` for the file in a folder; "" if the folder does not have the file.

    Raises:
        WeightsError: The file does not hold a JSON object.
    """
    path = folder / PREPROCESSOR_FILE
    if not path.is_file():
        return ""
    contents = parse_json(path.read_text(encoding="utf-8"), origin=str(path))
    if not isinstance(contents, dict):
        raise WeightsError(f"{path} does not hold a JSON object; the options of an image processor are needed")
    return canonical_json(contents)


def without_the_usual(config: SuperPointConfig) -> SuperPointConfig:
    """The configuration, without its `preprocessor_json` if this equals the default for its rules."""
    plain = config.replace(preprocessor_json="")
    usual = canonical_json(SuperPointImageProcessor.for_config(plain).to_dict())
    return plain if config.preprocessor_json == usual else config
