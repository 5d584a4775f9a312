"""Converts any readable matcher into a folder that needs no torch."""

from __future__ import annotations

import os
from pathlib import Path

from superpoint_jax.lightglue.assembly import matcher_of
from superpoint_jax.lightglue.keys import DETECTOR_PREFIX, recognise
from superpoint_jax.lightglue.load import from_pretrained
from superpoint_jax.lightglue.save import save_pretrained
from superpoint_jax.weights import WeightsError
from superpoint_jax.weights import from_pretrained as extractor_from_pretrained
from superpoint_jax.weights.sources import Source, read_source


def is_lightglue(source: Source, *, revision: str | None = None) -> bool:
    """Whether the source holds a LightGlue, with or without its extractor. Raises what `read_source` raises."""
    try:
        recognise(matcher_of(read_source(source, revision=revision).tensors), origin=str(source))
    except WeightsError:
        return False
    return True


def convert(source: Source, folder: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """The folder, which now holds the matcher of the source and the SuperPoint inside it, if there is one.

    The files are those of `save_pretrained`. Raises what `from_pretrained` and `save_pretrained` raise.
    """
    keys = read_source(source, revision=revision).tensors
    inside = any(key.startswith(DETECTOR_PREFIX) for key in keys)
    extractor = extractor_from_pretrained(source, revision=revision) if inside else None
    return save_pretrained(from_pretrained(source, revision=revision), folder, extractor=extractor)
