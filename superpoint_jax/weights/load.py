"""`from_pretrained`: turns a source of weights into a model with the configuration that belongs to it."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np

from superpoint_jax.config import SuperPointConfig
from superpoint_jax.hub import HubOptions, split_options
from superpoint_jax.model import SuperPoint
from superpoint_jax.weights.assembly import assemble, sizes_of
from superpoint_jax.weights.config_json import CARRIED, ORIGIN, OWN, from_config_json, from_metadata, make_config
from superpoint_jax.weights.errors import WeightsError
from superpoint_jax.weights.keys import HUGGING_FACE, MAGIC_LEAP, Layout, recognise
from superpoint_jax.weights.licence import MAGIC_LEAP_HUB_ID, show_notice_once
from superpoint_jax.weights.preprocessing import read_preprocessor_json, without_the_usual
from superpoint_jax.weights.sources import Contents, Source, read_single, read_source

BUNDLED = "data/superpoint_jax.safetensors"
"""File of the weights in the package: float16, in Hugging Face's layout."""

INSIDE = {"keypoint_detector.": "keypoint_detector_config", "extractor.": "", "superpoint.": ""}
"""For the SuperPoint inside transformers' LightGlue, a pipeline of glue-factory or one of SuperGlue: the prefix of its
tensors, and the name of its configuration."""


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a source of weights.

    Attributes:
        tensors: The tensors, as the file names and stores them.
        layout: The layout of the file.
        preset: The preset that reproduces the results published with the weights.
        fields: Options stored with the weights, which replace those of the preset.
        origin: The source, for messages.
        from_magic_leap: Whether Magic Leap's licence applies.
    """

    tensors: Mapping[str, np.ndarray]
    layout: Layout
    preset: str
    fields: Mapping[str, Any]
    origin: str
    from_magic_leap: bool


def from_pretrained(
    source: Source | None = None,
    *,
    config: SuperPointConfig | str | None = None,
    **options: Any,
) -> SuperPoint:
    """The model with the weights of a source, float32, with the configuration of the results published with them.

    Weights of Magic Leap are for non-commercial research only; a notice about this is logged once per process, to the
    logger "superpoint_jax".

    Args:
        source: None for the weights in the package; a folder with config.json and model.safetensors (also in several
            files with an index) or pytorch_model.bin; a .safetensors, .bin or .pth file in the layout of Hugging Face,
            Magic Leap, rpautrat, shaofengzeng, pytorch-superpoint or this library, which is recognised by its keys, and
            which may be a training checkpoint; or the id of a repository on the Hugging Face hub. From LightGlue's and
            SuperGlue's files, the SuperPoint inside is read. If a path with this name exists, the source is a path, not
            a hub id. With a file, config.json is not read: pass the folder to have it read.
        config: The configuration, instead of the one that belongs to the weights; or a preset's name, with the sizes of
            the weights.
        **options: Fields of `SuperPointConfig` that replace those of the configuration; and options for the hub, see
            `hub.HubOptions`: `revision` (a branch, a tag or a commit), `token`, `cache_dir`, `local_files_only`,
            `force_download`, `subfolder` (which works for a local folder too).

    Raises:
        WeightsError: A file is empty, damaged or does not hold a SuperPoint; one message names every tensor that is
            missing, unexpected or of a wrong shape. A `ValueError`.
        HubError: The hub does not have it or cannot be reached. An `OSError`.
        FileNotFoundError: There is no such file or folder.
        ValueError: The preset is not known, an option is out of range, or `revision` is given for a local path.
        ImportError: The file is a pickle, and torch is not installed.
        TypeError: An option does not exist, or the source is neither a path nor a name.
    """
    if source is not None and not isinstance(source, str | os.PathLike):
        raise TypeError(f"source is a {type(source).__name__}; a path or a name is needed (see from_state_dict)")
    hub_options, fields = split_options(options)
    checkpoint = read(source, **hub_options)
    model = build(checkpoint, config=config, **fields)
    if checkpoint.from_magic_leap:
        show_notice_once()
    return model


def build(checkpoint: Checkpoint, *, config: SuperPointConfig | str | None = None, **options: Any) -> SuperPoint:
    """The model of a checkpoint; see `from_pretrained`."""
    if config is None:
        fields = {**sizes_of(checkpoint.tensors, checkpoint.layout), **checkpoint.fields}
        config = make_config(checkpoint.preset, fields, origin=checkpoint.origin)
    elif isinstance(config, str):
        # The stored processing does not fit the rules of another preset; the extra fields of config.json still do.
        names = CARRIED if config == checkpoint.preset else ("extra_json",)
        carried = {name: checkpoint.fields[name] for name in names if name in checkpoint.fields}
        config = SuperPointConfig.preset(config, **sizes_of(checkpoint.tensors, checkpoint.layout), **carried)
    config = without_the_usual(config.replace(**options))
    return assemble(
        checkpoint.tensors,
        checkpoint.layout,
        config,
        origin=checkpoint.origin,
        magic_leap=checkpoint.from_magic_leap,
    )


def read(source: Source | None = None, **options: Unpack[HubOptions]) -> Checkpoint:
    """The contents of a source; see `from_pretrained`."""
    if source is None:
        return _read_bundled()
    contents = read_source(source, **options).part(INSIDE)
    from_magic_leap = isinstance(source, str) and source.lower() == MAGIC_LEAP_HUB_ID
    return _checkpoint(contents, from_magic_leap=from_magic_leap)


def _read_bundled() -> Checkpoint:
    resource = importlib.resources.files("superpoint_jax.weights").joinpath(BUNDLED)
    with importlib.resources.as_file(resource) as path:
        if not path.exists():
            raise WeightsError(f"the weights of the package are missing ({path}); install superpoint-jax again")
        return _checkpoint(read_single(path), preset="superpoint_jax")


def _checkpoint(contents: Contents, *, preset: str | None = None, from_magic_leap: bool = False) -> Checkpoint:
    layout = recognise(contents.tensors, origin=str(contents.path))
    stated: Mapping[str, Any]
    if contents.config is None:
        stated = contents.metadata
        fields = from_metadata(contents.metadata, origin=f"the metadata of {contents.path}")
    else:
        stated = contents.config
        fields = from_config_json(contents.config, origin=str(contents.config_path))
    if contents.folder is not None and (beside := read_preprocessor_json(contents.folder)):
        fields = {**fields, "preprocessor_json": beside}
    return Checkpoint(
        tensors=contents.tensors,
        layout=layout,
        preset=preset or layout.preset,
        fields=fields,
        origin=contents.origin,
        from_magic_leap=from_magic_leap or _is_magic_leaps(layout, stated.get(ORIGIN), ours=OWN in stated),
    )


def _is_magic_leaps(layout: Layout, origin: Any, *, ours: bool) -> bool:
    """Whether Magic Leap's licence applies, or may apply.

    transformers cannot train a SuperPoint, so its files hold the weights that Magic Leap published, unless this library
    wrote them first.
    """
    return MAGIC_LEAP.name in (layout.name, origin) or (layout is HUGGING_FACE and not ours)
