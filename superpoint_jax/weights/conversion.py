"""Converts any readable weights into a folder that needs no torch."""

from __future__ import annotations

import os
from pathlib import Path

from superpoint_jax.weights.load import from_pretrained
from superpoint_jax.weights.save import save_pretrained


def convert(
    source: str | os.PathLike[str] | None, folder: str | os.PathLike[str], *, revision: str | None = None
) -> Path:
    """The folder, which now holds the weights of the source, as `save_pretrained` writes them.

    The configuration is the one that reproduces the results published with the weights. Raises what `from_pretrained`
    and `save_pretrained` raise.
    """
    return save_pretrained(from_pretrained(source, revision=revision), folder)
