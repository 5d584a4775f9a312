"""`superpoint-jax convert`."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import tyro

from superpoint_jax.cli.arguments import Output
from superpoint_jax.cli.errors import told


def convert(
    source: tyro.conf.Positional[str],
    *,
    output: Output,
    revision: str | None = None,
    verify: bool = False,
    images: tuple[Path, ...] = (),
) -> int:
    """Convert weights, a SuperPoint's or a LightGlue's, to a folder that opens without torch.

    Transformers opens it, too, but a LightGlue without its SuperPoint.

    With --verify, the PyTorch original computes the same photos beside ours, stage by stage; the exit code is 1 where
    they differ by more than rounding. That needs torch.

    Args:
        source: Folder, file (.safetensors, .bin, .pth) or Hugging Face id.
        output: The folder to write.
        revision: Branch, tag or commit on the hub.
        verify: Prove that the result computes what the original computes.
        images: Photos to prove it on; some are made up by default.
    """
    with told():
        photos = _module("photos").load_photos(list(images)) if verify else None
        same = _module("verification").run(source, output, revision=revision, verify_photos=photos)
    return 0 if same else 1


def _module(name: str) -> ModuleType:
    """A module of convert/, which the wheel holds as `superpoint_jax.verification`."""
    try:
        return importlib.import_module(f"superpoint_jax.verification.{name}")
    except ModuleNotFoundError:
        return importlib.import_module(f"convert.{name}")
