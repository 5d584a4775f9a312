"""`save_pretrained`: writes a model into a folder that this library opens, and transformers too if it can."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np

from superpoint_jax.hub import CONFIG_FILE, PREPROCESSOR_FILE
from superpoint_jax.model import SuperPoint
from superpoint_jax.processing import SuperPointImageProcessor
from superpoint_jax.weights.assembly import state_dict
from superpoint_jax.weights.config_json import ORIGIN, to_config_json, to_metadata
from superpoint_jax.weights.preprocessing import preprocessor_config
from superpoint_jax.weights.writing import checked_folder, write_json, write_tensors

TRANSFORMERS_FILE = "model.safetensors"
OWN_FILE = "superpoint_jax.safetensors"


def save_pretrained(
    model: SuperPoint, folder: str | os.PathLike[str], *, processor: SuperPointImageProcessor | None = None
) -> Path:
    """The folder, which now holds config.json, preprocessor_config.json and the weights.

    A model that was saved there before is replaced. `from_pretrained(folder)` gives the same model back. transformers'
    `SuperPointForKeypointDetection` opens it too and computes the same network, but it decodes by its own rules (those
    of the "huggingface" preset).

    transformers cannot express batch norm. A model with batch norm is saved as "superpoint_jax.safetensors" with the
    `model_type` "superpoint_jax", so that transformers refuses to open it: under its own names, transformers would drop
    the batch norm and compute something else.

    Every field of the config.json and the preprocessor_config.json that the model was loaded with is written again,
    even if this library does not use it.

    Args:
        model: Any SuperPoint.
        folder: Created if it does not exist.
        processor: The image processor to save, instead of the one that came with the weights.

    Raises:
        NotADirectoryError: `folder` is a file.
    """
    path = save_network(model, folder)
    options = preprocessor_config(model.config) if processor is None else processor.to_dict()
    write_json(path / PREPROCESSOR_FILE, options)
    return path


def save_network(model: SuperPoint, folder: str | os.PathLike[str]) -> Path:
    """`save_pretrained` without the preprocessor_config.json."""
    folder = checked_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name, stale = (OWN_FILE, TRANSFORMERS_FILE) if model.config.batch_norm else (TRANSFORMERS_FILE, OWN_FILE)
    save_weights(model, folder / name)
    (folder / stale).unlink(missing_ok=True)  # Otherwise a reader might find the weights of an earlier model.
    write_json(folder / CONFIG_FILE, {**to_config_json(model.config), **_origin(model)})
    return folder


def save_weights(
    model: SuperPoint,
    path: str | os.PathLike[str],
    *,
    dtype: Literal["float32", "float16"] = "float32",
) -> Path:
    """The path of one safetensors file, which `from_pretrained` reads; its metadata holds the configuration.

    float16 halves the size of the file; the weights become float32 again on loading.
    """
    path = Path(path).expanduser()
    tensors = {key: np.asarray(value, np.dtype(dtype)) for key, value in state_dict(model).items()}
    write_tensors(path, tensors, {**to_metadata(model.config), **_origin(model)})
    return path


def _origin(model: SuperPoint) -> dict[str, str]:
    """An entry for config.json and the metadata, which makes the licence notice appear again on loading."""
    return {} if model.origin is None else {ORIGIN: model.origin}
