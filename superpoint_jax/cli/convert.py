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
    """Convert weights of a SuperPoint or a LightGlue to a folder that opens without torch.

    Transformers can open it, too, except for a LightGlue without its SuperPoint.

    With --verify, the PyTorch original and ours compute the same photos and are compared stage by stage; the exit code
    is 1 if they differ by more than rounding. Only this needs torch.

    Args:
        source: Folder, file (.safetensors, .bin, .pth) or Hugging Face id.
        output: The folder to write.
        revision: Branch, tag or commit on the hub.
        verify: Verify that the result computes what the original computes.
        images: Photos to verify it on; by default synthetic ones.
    """
    with told():
        photos = _module("photos").load_photos(list(images)) if verify else None
        same = _module("verification").run(source, output, revision=revision, verify_photos=photos)
    return 0 if same else 1


def _module(name: str) -> ModuleType:
    """A module of convert/, which the wheel contains as `superpoint_jax.verification`."""
    try:
        return importlib.import_module(f"superpoint_jax.verification.{name}")
    except ModuleNotFoundError:
        return importlib.import_module(f"convert.{name}")
