"""Finds and reads preprocessor_config.json, the file with a processor's options, in a folder or on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Unpack

from superpoint_jax.hub import PREPROCESSOR_FILE, HubOptions, fetch_file, is_hub_id


def config_file(source: str, **options: Unpack[HubOptions]) -> Path | None:
    """The path of preprocessor_config.json for a folder, a file or a hub id; None for a weights file without one.

    Raises:
        FileNotFoundError: The source does not exist, or is a folder or a repository without that file.
        HubError: The hub can't be reached.
    """
    path = Path(source).expanduser()
    if path.is_file():
        path = path if path.suffix == ".json" else path.with_name(PREPROCESSOR_FILE)
        return path if path.is_file() else None
    if path.is_dir():
        path = path / (options.get("subfolder") or "") / PREPROCESSOR_FILE
        found = path if path.is_file() else None
    elif is_hub_id(source):
        found = fetch_file(source, PREPROCESSOR_FILE, **options)
    else:
        raise FileNotFoundError(f"{path} does not exist; give a folder, a file or a hub id (owner/name)")
    if found is None:
        raise FileNotFoundError(
            f"{source} has no {PREPROCESSOR_FILE}; choose SuperPointImageProcessor() or "
            f"SuperPointImageProcessor.huggingface()"
        )
    return found


def read_options(path: Path) -> dict[str, Any]:
    """The options in a config.json or a preprocessor_config.json.

    Raises:
        ValueError: The file does not hold a JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); save_pretrained writes such a file") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a {type(values).__name__}; a JSON object of options is needed")
    return values
