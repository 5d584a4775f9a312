"""transformers' torchvision processor where torchvision is missing: its own class over three functions of torch.

torchvision's `resize` hands bytes to torch's antialiased `interpolate`, and its `rgb_to_grayscale` cuts 0.2989 R +
0.587 G + 0.114 B to whole levels. Where torchvision is installed, it is used.
"""

from __future__ import annotations

import enum
import importlib
import importlib.util
import sys
import types
from functools import cache
from typing import Any

import pytest

torch = pytest.importorskip("torch")


class InterpolationMode(enum.Enum):
    """torchvision's names of the filters."""

    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"
    BOX = "box"
    HAMMING = "hamming"


def resize(image: Any, size: Any, interpolation: Any = InterpolationMode.BILINEAR, antialias: bool = True) -> Any:
    """[...,C,h,w] at (height, width) `size`."""
    batch = image if image.ndim == 4 else image[None]
    smooth = interpolation in (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)
    options = dict(antialias=antialias, align_corners=False) if smooth else {}
    done = torch.nn.functional.interpolate(batch, size=list(size), mode=interpolation.value, **options)
    return done if image.ndim == 4 else done[0]


def rgb_to_grayscale(image: Any, num_output_channels: int = 1) -> Any:
    """Equal channels, of the image's own type."""
    red, green, blue = image.unbind(dim=-3)
    gray = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).to(image.dtype).unsqueeze(-3)
    return gray.expand(*image.shape[:-3], num_output_channels, *image.shape[-2:])


def grayscale_to_rgb(image: Any) -> Any:
    """Three channels of one; others are left alone."""
    return image.expand(*image.shape[:-3], 3, *image.shape[-2:]) if image.shape[-3] == 1 else image


@cache
def processor_class(name: str = "SuperPoint") -> Any:
    """transformers' `SuperPointImageProcessor`, or that of another model."""
    pytest.importorskip("transformers")
    module = f"transformers.models.{name.lower()}.image_processing_{name.lower()}"
    if importlib.util.find_spec("torchvision") is None:
        _stand_in(module)
    return getattr(importlib.import_module(module), f"{name}ImageProcessor")


def _stand_in(module: str) -> None:
    from PIL.Image import Resampling
    from transformers import image_processing_backends as backends

    functional: Any = types.ModuleType("torchvision.transforms.v2.functional")
    functional.resize, functional.rgb_to_grayscale = resize, rgb_to_grayscale
    functional.grayscale_to_rgb, functional.InterpolationMode = grayscale_to_rgb, InterpolationMode
    v2: Any = types.ModuleType("torchvision.transforms.v2")
    v2.functional = functional
    backends.tvF = functional
    backends.pil_torch_interpolation_mapping = {
        Resampling.NEAREST: InterpolationMode.NEAREST_EXACT,
        Resampling.BILINEAR: InterpolationMode.BILINEAR,
        Resampling.BICUBIC: InterpolationMode.BICUBIC,
        Resampling.LANCZOS: InterpolationMode.LANCZOS,
    }
    # For the import below alone: whoever asks whether torchvision is there must hear no.
    stand_ins = {"torchvision": types.ModuleType("torchvision"), "torchvision.transforms.v2": v2}
    stand_ins["torchvision.transforms"] = types.ModuleType("torchvision.transforms")
    sys.modules.update(stand_ins)
    try:
        importlib.import_module(module)
    finally:
        for name in stand_ins:
            del sys.modules[name]
