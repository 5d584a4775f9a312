"""The layer names of the published weight files, and the layers of this library that they stand for.

Inside the library the name of a layer is its path in `SuperPoint`, which is also Hugging Face's name. A layer has the
parameters `PARAMETERS["conv"]` or `PARAMETERS["norm"]`.

Source: docs/variants.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from superpoint_jax.weights.errors import WeightsError

Path = tuple[str | int, ...]

PARAMETERS: Mapping[str, Mapping[str, str]] = {
    "conv": {"weight": "kernel", "bias": "bias"},
    "norm": {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"},
}
"""PyTorch's name of each parameter, and Flax's name of it."""

BOOKKEEPING = "num_batches_tracked"
"""A counter that PyTorch stores with the running statistics; nothing computes with it."""

_CONVS = (
    *(f"encoder.conv_blocks.{block}.conv_{half}" for block in range(4) for half in "ab"),
    *(f"keypoint_decoder.conv_score_{half}" for half in "ab"),
    *(f"descriptor_decoder.conv_descriptor_{half}" for half in "ab"),
)
_NORMS = tuple("norm_".join(name.rsplit("conv_", 1)) for name in _CONVS)
REFINEMENT_HEAD = "refinement_head"
_REFINEMENT = tuple(f"{REFINEMENT_HEAD}.conv_{half}" for half in "abc")


@dataclass(frozen=True)
class Layout:
    """The names of the layers in one family of files.

    Attributes:
        name: Name of the layout.
        preset: Name of the preset that reproduces the results published with these weights.
        title: The owner of the layout, for messages.
        layers: The file's name of each layer, and our name of it.
        batch_norm: Whether the model has batch norm, after each ReLU; None if that of some files has and of some not.
        norm_first: Whether the files hold batch norm that comes before the ReLU. It becomes part of the convolutions.
    """

    name: str
    preset: str
    title: str
    layers: Mapping[str, str]
    batch_norm: bool | None
    norm_first: bool = False

    def paths(self, *, batch_norm: bool, refinement_head: bool = False) -> dict[str, Path]:
        """Every key of a complete file, with the path of that parameter in `SuperPoint`."""
        return {
            f"{theirs}.{torch_name}": (*_path(ours), flax_name)
            for theirs, ours in self.layers.items()
            for torch_name, flax_name in PARAMETERS[_kind(ours)].items()
            if (batch_norm or _kind(ours) == "conv") and (refinement_head or ours not in _REFINEMENT)
        }


def _kind(layer: str) -> str:
    return layer.rsplit(".", 1)[-1].split("_")[0]


def _path(layer: str) -> Path:
    return tuple(int(part) if part.isdigit() else part for part in layer.split("."))


HUGGING_FACE = Layout(
    name="huggingface",
    preset="huggingface",
    title="Hugging Face",
    # Only this library's files have batch norm or a refinement head; transformers' SuperPoint has neither.
    layers={name: name for name in (*_CONVS, *_NORMS, *_REFINEMENT)},
    batch_norm=None,
)

MAGIC_LEAP = Layout(
    name="magicleap",
    preset="magicleap",
    title="Magic Leap",
    layers={
        "conv1a": "encoder.conv_blocks.0.conv_a",
        "conv1b": "encoder.conv_blocks.0.conv_b",
        "conv2a": "encoder.conv_blocks.1.conv_a",
        "conv2b": "encoder.conv_blocks.1.conv_b",
        "conv3a": "encoder.conv_blocks.2.conv_a",
        "conv3b": "encoder.conv_blocks.2.conv_b",
        "conv4a": "encoder.conv_blocks.3.conv_a",
        "conv4b": "encoder.conv_blocks.3.conv_b",
        "convPa": "keypoint_decoder.conv_score_a",
        "convPb": "keypoint_decoder.conv_score_b",
        "convDa": "descriptor_decoder.conv_descriptor_a",
        "convDb": "descriptor_decoder.conv_descriptor_b",
    },
    batch_norm=False,
)

RPAUTRAT = Layout(
    name="rpautrat",
    preset="rpautrat",
    title="rpautrat",
    layers={
        f"{theirs}.{layer}": ours
        for index, theirs in enumerate(
            (
                *(f"backbone.{block}.{half}" for block in range(4) for half in range(2)),
                *(f"{head}.{half}" for head in ("detector", "descriptor") for half in range(2)),
            )
        )
        for layer, ours in (("conv", _CONVS[index]), ("bn", _NORMS[index]))
    },
    batch_norm=True,
)

_HEAD_OF = {"P": "detector_head", "D": "descriptor_head"}
_HEADS = [(f"conv{head}{half}", f"bn{head}{half}") for head in "PD" for half in "ab"]

SHAOFENGZENG = Layout(
    name="shaofengzeng",
    preset="rpautrat",
    title="shaofengzeng",
    layers=dict(
        zip(
            (
                *(
                    f"backbone.block{block}_{half}.{place}"
                    for place in (0, 2)
                    for block in range(1, 5)
                    for half in (1, 2)
                ),
                *(f"{_HEAD_OF[names[0][4]]}.{names[kind]}" for kind in (0, 1) for names in _HEADS),
            ),
            (*_CONVS[:8], *_NORMS[:8], *_CONVS[8:], *_NORMS[8:]),
            strict=True,
        )
    ),
    batch_norm=True,
)

_UNET_BLOCKS = ("inc.conv", "down1.mpconv.1", "down2.mpconv.1", "down3.mpconv.1")

PYTORCH_SUPERPOINT = Layout(
    name="pytorch_superpoint",
    preset="magicleap",
    title="pytorch-superpoint",
    layers=dict(
        zip(
            (
                *(f"{block}.conv.{place}" for place in (0, 3) for block in _UNET_BLOCKS),
                *(f"{block}.conv.{place}" for place in (1, 4) for block in _UNET_BLOCKS),
                *(names[kind] for kind in (0, 1) for names in _HEADS),
            ),
            (*_CONVS[0:8:2], *_CONVS[1:8:2], *_NORMS[0:8:2], *_NORMS[1:8:2], *_CONVS[8:], *_NORMS[8:]),
            strict=True,
        )
    ),
    batch_norm=False,
    norm_first=True,
)

LAYOUTS = (HUGGING_FACE, MAGIC_LEAP, RPAUTRAT, SHAOFENGZENG, PYTORCH_SUPERPOINT)


def recognise(keys: Iterable[str], *, origin: str) -> Layout:
    """The layout that has the most of these keys.

    Raises:
        WeightsError: No layout has any of them.
    """
    keys = list(keys)
    known = {layout.name: sum(key in layout.paths(batch_norm=True) for key in keys) for layout in LAYOUTS}
    best = max(LAYOUTS, key=lambda layout: known[layout.name])
    if known[best.name]:
        return best
    found = f"keys {', '.join(sorted(keys)[:5])}{', ...' if len(keys) > 5 else ''}" if keys else "no tensors"
    needed = "; ".join(f"{layout.title}: {next(iter(layout.layers))}.weight, ..." for layout in LAYOUTS)
    raise WeightsError(f"{origin} holds {found}; none belongs to a SuperPoint. A flat state dict is needed ({needed})")
