"""Reads a source of weights, without changes: a file, a folder, or a repository of the hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, Unpack

import numpy as np

from superpoint_jax.files import is_url
from superpoint_jax.hub import CONFIG_FILE, WEIGHT_FILES, HubOptions, fetch, is_hub_id
from superpoint_jax.weights.config_json import parse_json
from superpoint_jax.weights.errors import WeightsError
from superpoint_jax.weights.tensor_files import read_file

Source = str | os.PathLike[str]

INDEX_FILE = "model.safetensors.index.json"
"""Index of a checkpoint that is stored in several files."""


@dataclass(frozen=True)
class Contents:
    """The contents of a source of weights.

    Attributes:
        tensors: The tensors, as the file names and stores them.
        metadata: Metadata of a safetensors file.
        config: Contents of config.json; None for a single file, and for a folder without config.json.
        path: Path of the weight file.
        config_path: Path of config.json, for messages.
        origin: The source as the user gave it, for messages.
        folder: The folder; None for a single file.
    """

    tensors: Mapping[str, np.ndarray]
    metadata: Mapping[str, str]
    config: Mapping[str, Any] | None
    path: Path
    config_path: Path
    origin: str
    folder: Path | None = None

    def part(self, prefixes: Mapping[str, str]) -> Self:
        """The tensors whose names have the first prefix that occurs, and their configuration; else everything.

        `prefixes` gives, for each prefix, the name of that configuration within the whole one.
        """
        for prefix, config_key in prefixes.items():
            tensors = {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}
            if tensors:
                config = None if self.config is None else self.config.get(config_key)
                return replace(self, tensors=tensors, config=config if isinstance(config, Mapping) else None)
        return self


def read_source(source: Source, **options: Unpack[HubOptions]) -> Contents:
    """The contents of a file, a folder or a repository of the hub. A path that exists is not taken for a hub id.

    Raises:
        WeightsError: The file is empty, damaged or not a weight file.
        HubError: The hub does not have it or cannot be reached.
        FileNotFoundError: There is no such file or folder.
        ValueError: `revision` is given for a local path, or the source is a URL.
    """
    path = Path(source).expanduser()
    if path.exists():
        if (revision := options.get("revision")) is not None:
            raise ValueError(f"revision={revision!r} is for hub ids; {path} is a local path")
        return read_folder(path / (options.get("subfolder") or "")) if path.is_dir() else read_single(path)
    if is_url(str(source)):
        raise ValueError(f"{source}: a URL is not opened; give a hub id (owner/name), or download the file")
    if not (isinstance(source, str) and is_hub_id(source)):
        raise FileNotFoundError(f"{path} does not exist; give a weight file, a folder, or a hub id (owner/name)")
    return read_folder(fetch(source, **options), origin=source)


def read_single(path: Path) -> Contents:
    """The contents of one file."""
    tensors, metadata = read_file(path)
    return Contents(tensors, metadata, None, path, path.with_name(CONFIG_FILE), str(path))


def read_folder(folder: Path, *, origin: str | None = None) -> Contents:
    """The contents of a folder: its weight file and its config.json."""
    path, config_path = _weight_file(folder), folder / CONFIG_FILE
    tensors, metadata = read_shards(path) if path.name == INDEX_FILE else read_file(path)
    config = None
    if config_path.exists():
        config = parse_json(config_path.read_text(encoding="utf-8"), origin=str(config_path))
        if not isinstance(config, dict):
            raise WeightsError(f"{config_path} does not hold a JSON object; Hugging Face's config.json is needed")
    return Contents(tensors, metadata, config, path, config_path, origin or str(folder), folder)


def read_shards(index: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of a checkpoint in several safetensors files, which the index names, and the metadata of the first.

    Raises:
        WeightsError: The index is damaged, names a file outside its folder, or a file lacks a tensor.
        FileNotFoundError: A file is missing.
    """
    contents = parse_json(index.read_text(encoding="utf-8"), origin=str(index))
    places = contents.get("weight_map") if isinstance(contents, dict) else None
    if not (isinstance(places, dict) and places and all(Path(str(name)).name == name for name in places.values())):
        raise WeightsError(f"{index} does not say which file holds each tensor (weight_map); download it again")
    missing = [name for name in sorted(set(places.values())) if not (index.parent / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{index.parent} lacks {', '.join(missing)}, which {index.name} names")
    files = {name: read_file(index.parent / name) for name in sorted(set(places.values()))}
    if lost := [key for key, name in places.items() if key not in files[name][0]]:
        raise WeightsError(f"{index.parent}: the files lack {', '.join(lost[:5])}, which {index.name} names")
    return {key: files[name][0][key] for key, name in places.items()}, next(iter(files.values()))[1]


def _weight_file(folder: Path) -> Path:
    for name in (*WEIGHT_FILES, INDEX_FILE):
        if (folder / name).is_file():
            return folder / name
    others = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pth", ".pt"))
    hint = f"; pass the file itself: {', '.join(others)}" if others else ""
    raise FileNotFoundError(f"{folder} has none of {', '.join(WEIGHT_FILES)}{hint}")
