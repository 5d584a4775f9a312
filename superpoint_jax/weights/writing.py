"""Functions that write the files of a saved model; every kind of model uses them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def checked_folder(folder: str | os.PathLike[str]) -> Path:
    """The path of a folder that may not exist yet; a `~` in it is expanded.

    Raises:
        NotADirectoryError: It is a file.
    """
    path = Path(folder).expanduser()
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file; save_pretrained needs a folder")
    return path


def write_json(path: Path, contents: Mapping[str, Any]) -> None:
    """Write a JSON file with sorted keys."""
    path.write_text(json.dumps(contents, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write a safetensors file."""
    from safetensors.numpy import save

    # Not `save_file`, which makes files that only their owner may read.
    path.write_bytes(save({key: np.ascontiguousarray(value) for key, value in tensors.items()}, metadata=metadata))
