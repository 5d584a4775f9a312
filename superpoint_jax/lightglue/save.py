"""`LightGlue.save_pretrained`: writes a network into a folder that this library opens, and transformers if it can."""

from __future__ import annotations

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
from superpoint_jax.weights.writing import checked_folder, write_json, write_tensors

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
"""The defaults of transformers, which are also those of the checkpoint on the hub."""


def save_pretrained(model: LightGlue, folder: str | os.PathLike[str], *, extractor: SuperPoint | None = None) -> Path:
    """The folder, which now holds config.json and the weights. A matcher that was saved there before is replaced.

    `LightGlue.from_pretrained(folder)` gives the same network back. Transformers' `LightGlueForKeypointMatching`
    contains a SuperPoint, so transformers can open the folder only if `extractor` is given; then
    `superpoint_jax.from_pretrained(folder)` gives the extractor back. Without one, the file name and the `model_type`
    are our own, and transformers refuses to open the folder. Transformers does not read this library's `dtype` and
    `depth_confidence`: there every layer runs.

    Args:
        model: Any LightGlue.
        folder: Created if it does not exist.
        extractor: A SuperPoint without batch norm, because transformers cannot express batch norm.

    Raises:
        NotADirectoryError: `folder` is a file.
        ValueError: Transformers cannot express the network with this extractor.
    """
    folder = checked_folder(folder)
    config = model.config
    tensors, contents = state_dict(model), to_config_json(config, None if extractor is None else extractor.config)
    if extractor is not None:
        _check_extractor(model, extractor)
        tensors |= {DETECTOR_PREFIX + key: value for key, value in superpoint_state_dict(extractor).items()}
        if extractor.origin is not None:
            contents[DETECTOR][ORIGIN] = extractor.origin
    folder.mkdir(parents=True, exist_ok=True)
    name, stale = (OWN_FILE, TRANSFORMERS_FILE) if extractor is None else (TRANSFORMERS_FILE, OWN_FILE)
    write_tensors(folder / name, tensors, to_metadata(config))
    (folder / stale).unlink(missing_ok=True)  # Otherwise a reader might find the weights of an earlier model.
    write_json(folder / CONFIG_FILE, contents)
    if extractor is not None:
        write_json(folder / PROCESSOR_FILE, PROCESSOR)
    return folder


def save_weights(
    model: LightGlue, path: str | os.PathLike[str], *, dtype: Literal["float32", "float16"] = "float32"
) -> Path:
    """The path of one safetensors file, which `from_pretrained` reads; its metadata holds the configuration.

    float16 halves the size of the file; the weights become float32 again on loading.
    """
    path = Path(path).expanduser()
    tensors = {key: np.asarray(value, np.dtype(dtype)) for key, value in state_dict(model).items()}
    write_tensors(path, tensors, to_metadata(model.config))
    return path


def _check_extractor(model: LightGlue, extractor: SuperPoint) -> None:
    config, length = model.config, extractor.config.descriptor_decoder_dim
    if extractor.config.batch_norm:
        raise ValueError("the extractor has batch norm, which transformers cannot express; save without an extractor")
    if length != config.input_dim:
        raise ValueError(f"the extractor's descriptors have length {length}; this LightGlue takes {config.input_dim}")
    if config.input_projection and config.input_dim == config.descriptor_dim:
        raise ValueError(
            f"this LightGlue projects descriptors of length {length} to states of the same length, which transformers "
            f"cannot express; save without an extractor"
        )
