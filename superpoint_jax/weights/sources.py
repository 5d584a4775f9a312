"""What a source of weights holds, as it stores it: a file, a folder, or a repository of the hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, Unpack

import numpy as np

from superpoint_jax.hub import CONFIG_FILE, WEIGHT_FILES, HubOptions, fetch, is_hub_id
from superpoint_jax.weights.config_json import parse_json
from superpoint_jax.weights.errors import WeightsError
from superpoint_jax.weights.tensor_files import read_file

Source = str | os.PathLike[str]


@dataclass(frozen=True)
class Contents:
    """What was found.

    Attributes:
        tensors: As the file names and stores them.
        metadata: Of a safetensors file.
        config: What config.json says; None for a file alone, and for a folder without.
        path: Of the weight file.
        config_path: Of config.json, for messages.
        origin: What the user asked for, for messages.
        folder: The folder, where it is not a file alone.
    """

    tensors: Mapping[str, np.ndarray]
    metadata: Mapping[str, str]
    config: Mapping[str, Any] | None
    path: Path
    config_path: Path
    origin: str
    folder: Path | None = None

    def part(self, prefix: str, config_key: str) -> Self:
        """The model inside that has a prefix of its own, and its configuration; all of it where none has the prefix."""
        tensors = {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}
        if not tensors:
            return self
        config = None if self.config is None else self.config.get(config_key)
        return replace(self, tensors=tensors, config=config if isinstance(config, Mapping) else None)


def read_source(source: Source, **options: Unpack[HubOptions]) -> Contents:
    """What a file, a folder or a repository of the hub holds. A path that exists is a path.

    Raises:
        WeightsError: A file that is empty, damaged or no weight file.
        HubError: The hub does not have it or cannot be reached.
        FileNotFoundError: No such file or folder.
        ValueError: A revision of a local path.
    """
    path = Path(source).expanduser()
    if path.exists():
        if (revision := options.get("revision")) is not None:
            raise ValueError(f"revision={revision!r} is for ids of the hub; {path} is a local path")
        return read_folder(path / (options.get("subfolder") or "")) if path.is_dir() else read_single(path)
    if not (isinstance(source, str) and is_hub_id(source)):
        raise FileNotFoundError(f"{path} does not exist; give a weight file, a folder, or a hub id (owner/name)")
    return read_folder(fetch(source, **options), origin=source)


def read_single(path: Path) -> Contents:
    """What one file holds."""
    tensors, metadata = read_file(path)
    return Contents(tensors, metadata, None, path, path.with_name(CONFIG_FILE), str(path))


def read_folder(folder: Path, *, origin: str | None = None) -> Contents:
    """What the weight file of a folder holds, and its config.json."""
    path, config_path = _weight_file(folder), folder / CONFIG_FILE
    tensors, metadata = read_file(path)
    config = None
    if config_path.exists():
        config = parse_json(config_path.read_text(encoding="utf-8"), origin=str(config_path))
        if not isinstance(config, dict):
            raise WeightsError(f"{config_path} holds no JSON object; Hugging Face's config.json is needed")
    return Contents(tensors, metadata, config, path, config_path, origin or str(folder), folder)


def _weight_file(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pth", ".pt"))
    hint = f"; pass the file itself: {', '.join(others)}" if others else ""
    raise FileNotFoundError(f"{folder} has none of {', '.join(WEIGHT_FILES)}{hint}")
