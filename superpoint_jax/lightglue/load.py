"""`LightGlue.from_pretrained`: turns a checkpoint into a network with the configuration that belongs to it."""

from __future__ import annotations

import importlib.resources
import json
import os
from collections.abc import Mapping
from typing import Any

from superpoint_jax.hub import split_options
from superpoint_jax.lightglue.assembly import assemble, matcher_of, sizes_of
from superpoint_jax.lightglue.config import LightGlueConfig
from superpoint_jax.lightglue.config_json import OWN, from_config_json, known_fields
from superpoint_jax.lightglue.keys import recognise
from superpoint_jax.lightglue.network import LightGlue
from superpoint_jax.weights import WeightsError
from superpoint_jax.weights.config_json import parse_json
from superpoint_jax.weights.sources import Contents, Source, read_single, read_source

BUNDLED = "data/lightglue.safetensors"
"""File of the matcher in the package: float16, in Hugging Face's layout."""


def from_pretrained(source: Source | None = None, **options: Any) -> LightGlue:
    """The network with the weights of a source, float32.

    Every layer runs by default, even if the published results stopped early: pass `depth_confidence=0.95` to stop early
    too. Points are not pruned between layers, because that saves nothing in arrays of a fixed size.

    Args:
        source: None for the matcher in the package; a folder with config.json and model.safetensors (or
            pytorch_model.bin); a .safetensors, .bin or .pth file in Hugging Face's layout or one of cvg's two, or a
            training checkpoint of glue-factory, which are recognised by their keys; or the id of a repository on the
            Hugging Face hub. If the source also holds a SuperPoint, `superpoint_jax.from_pretrained` reads it.
        **options: Fields of `LightGlueConfig` that replace those that belong to the weights; and options for the hub,
            see `hub.HubOptions`: `revision` (a branch, a tag or a commit), `token`, `cache_dir`, ...

    Raises:
        WeightsError: A file is empty, damaged or does not hold a LightGlue; one message names every tensor that is
            missing, unexpected or of a wrong shape. A `ValueError`.
        HubError: The hub does not have it or cannot be reached. An `OSError`.
        FileNotFoundError: There is no such file or folder.
        ValueError: An option is out of range, or `revision` is given for a local path.
        ImportError: The file is a pickle, and torch is not installed.
        TypeError: An option does not exist, or the source is neither a path nor a name.
    """
    if source is not None and not isinstance(source, str | os.PathLike):
        raise TypeError(f"source is a {type(source).__name__}; a path or a name is needed (see from_state_dict)")
    hub, options = split_options(options)
    contents = _bundled() if source is None else read_source(source, **hub)
    tensors = matcher_of(contents.tensors)
    layout = recognise(tensors, origin=str(contents.path))
    fields = {**sizes_of(tensors, layout, origin=contents.origin), **stated_fields(contents)}
    try:
        config = LightGlueConfig(**fields)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"the configuration of {contents.origin}: {error}") from error
    return assemble(tensors, layout, config.replace(**options), origin=contents.origin)


def choose(name: str) -> LightGlue | None:
    """The matcher of a name: None for "nearest" (nearest neighbours need no network), else a LightGlue.

    "lightglue" is the matcher in the package; every other name is a source of `from_pretrained`. A folder with one of
    these two names is ./nearest or ./lightglue.
    """
    if name == "nearest":
        return None
    return from_pretrained(None if name == "lightglue" else name)


def stated_fields(contents: Contents) -> Mapping[str, Any]:
    """The fields of `LightGlueConfig` in config.json, or in the metadata of the file."""
    if contents.config is not None:
        return from_config_json(contents.config, origin=str(contents.config_path))
    where = f"the metadata of {contents.path}"
    return known_fields(parse_json(contents.metadata.get(OWN, json.dumps({})), origin=where), origin=where)


def _bundled() -> Contents:
    resource = importlib.resources.files("superpoint_jax.lightglue").joinpath(BUNDLED)
    with importlib.resources.as_file(resource) as path:
        if not path.exists():
            raise WeightsError(f"the matcher of the package is missing ({path}); install superpoint-jax again")
        return read_single(path)
