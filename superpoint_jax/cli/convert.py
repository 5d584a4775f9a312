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
    """Convert weights, a SuperPoint's or a LightGlue's, to a folder that opens without torch.

    Transformers opens it, too, but a LightGlue without its SuperPoint.

    Args:
        source: Folder, file (.safetensors, .bin, .pth) or Hugging Face id.
        output: The folder to write.
        revision: Branch, tag or commit on the hub.
    """
    from superpoint_jax.lightglue.conversion import convert as convert_matcher
    from superpoint_jax.lightglue.conversion import is_lightglue
    from superpoint_jax.weights import convert as convert_weights

    with told():
        matcher = is_lightglue(source, revision=revision)
        print(f"wrote {(convert_matcher if matcher else convert_weights)(source, output, revision=revision)}")
    return 0
