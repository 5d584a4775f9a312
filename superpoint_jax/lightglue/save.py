"""`LightGlue.save_pretrained`: a network into a folder that this library reads back, and transformers where it can."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

import numpy as np

from superpoint_jax.hub import CONFIG_FILE
from superpoint_jax.lightglue.assembly import state_dict
from superpoint_jax.lightglue.config_json import DETECTOR, to_config_json, to_metadata
from superpoint_jax.lightglue.keys import DETECTOR_PREFIX
from superpoint_jax.lightglue.network import LightGlue
from superpoint_jax.model import SuperPoint
from superpoint_jax.weights import state_dict as superpoint_state_dict
from superpoint_jax.weights.config_json import ORIGIN

TRANSFORMERS_FILE = "model.safetensors"
OWN_FILE = "superpoint_jax_lightglue.safetensors"
PROCESSOR_FILE = "preprocessor_config.json"

PROCESSOR = {
    "image_processor_type": "LightGlueImageProcessor",
    "do_resize": True,
    "size": {"height": 480, "width": 640},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_grayscale": True,
}
"""Transformers' own defaults, which the checkpoint on the hub has."""


def save_pretrained(model: LightGlue, folder: str | os.PathLike[str], *, extractor: SuperPoint | None = None) -> Path:
    """The folder, now with config.json and the weights; replaces a matcher saved there before.

    `LightGlue.from_pretrained(folder)` gives the same network back. Transformers' `LightGlueForKeypointMatching` holds
    the SuperPoint that it matches for, so it opens the folder only where the `extractor` is given; then
    `superpoint_jax.from_pretrained(folder)` gives the extractor back. Without one the file has a name and a
    `model_type` of its own, which transformers refuses to open. Transformers knows neither this library's `dtype` nor
    `depth_confidence`: there every layer runs.

    Args:
        model: Any LightGlue.
        folder: Made if need be.
        extractor: A SuperPoint without batch norm, which transformers cannot express.

    Raises:
        NotADirectoryError: `folder` is a file.
        ValueError: Transformers could not express the network with this extractor.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; save_pretrained needs a folder")
    config = model.config
    tensors, contents = state_dict(model), to_config_json(config, None if extractor is None else extractor.config)
    if extractor is not None:
        _check_extractor(model, extractor)
        tensors |= {DETECTOR_PREFIX + key: value for key, value in superpoint_state_dict(extractor).items()}
        if extractor.origin is not None:
            contents[DETECTOR][ORIGIN] = extractor.origin
    folder.mkdir(parents=True, exist_ok=True)
    name, stale = (OWN_FILE, TRANSFORMERS_FILE) if extractor is None else (TRANSFORMERS_FILE, OWN_FILE)
    _write(folder / name, tensors, to_metadata(config))
    (folder / stale).unlink(missing_ok=True)  # Else the next reader might take the weights of the model before.
    _write_json(folder / CONFIG_FILE, contents)
    if extractor is not None:
        _write_json(folder / PROCESSOR_FILE, PROCESSOR)
    return folder


def save_weights(
    model: LightGlue, path: str | os.PathLike[str], *, dtype: Literal["float32", "float16"] = "float32"
) -> Path:
    """One safetensors file that stands alone: the configuration is in its metadata, and `from_pretrained` reads it.

    float16 halves it and is upcast to float32 on loading.
    """
    path = Path(path).expanduser()
    tensors = {key: np.asarray(value, np.dtype(dtype)) for key, value in state_dict(model).items()}
    _write(path, tensors, to_metadata(model.config))
    return path


def _check_extractor(model: LightGlue, extractor: SuperPoint) -> None:
    config, length = model.config, extractor.config.descriptor_decoder_dim
    if extractor.config.batch_norm:
        raise ValueError("the extractor has batch norm, which transformers cannot express; save without an extractor")
    if length != config.input_dim:
        raise ValueError(f"the extractor's descriptors have length {length}; this LightGlue takes {config.input_dim}")
    if config.input_projection and config.input_dim == config.descriptor_dim:
        raise ValueError(
            f"this LightGlue projects {length} numbers to as many, which transformers cannot express; save without an "
            f"extractor"
        )


def _write(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    from safetensors.numpy import save

    # Not save_file, whose files nobody else may read.
    path.write_bytes(save({key: np.ascontiguousarray(value) for key, value in tensors.items()}, metadata=metadata))


def _write_json(path: Path, contents: dict) -> None:
    path.write_text(json.dumps(contents, indent=2, sort_keys=True) + "\n", encoding="utf-8")
