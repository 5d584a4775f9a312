"""`superpoint-jax convert`."""

from __future__ import annotations

import tyro

from superpoint_jax.cli.arguments import Output
from superpoint_jax.cli.errors import told


def convert(
    source: tyro.conf.Positional[str],
    *,
    output: Output,
    revision: str | None = None,
) -> int:
    """Convert weights to a folder that this library and transformers open without torch.

    Args:
        source: Folder, file (.safetensors, .bin, .pth) or Hugging Face id.
        output: The folder to write.
        revision: Branch, tag or commit on the hub.
    """
    from superpoint_jax.weights import convert as convert_weights

    with told():
        print(f"wrote {convert_weights(source, output, revision=revision)}")
    return 0
