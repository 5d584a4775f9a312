"""Options of the processors: their defaults, their checks, and the meaning of `size`."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

from superpoint_jax.huggingface.arrays import KINDS

DEFAULTS: dict[str, Any] = {
    "do_resize": True,
    "size": {"height": 480, "width": 640},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_grayscale": False,
    "default_to_square": False,
    "do_convert_rgb": None,
    "do_normalize": None,
    "image_mean": None,
    "image_std": None,
    "do_center_crop": None,
    "crop_size": None,
    "do_pad": None,
    "pad_size": None,
    "data_format": None,
    "input_data_format": None,
    "device": None,
    "return_tensors": None,
    "disable_grouping": None,
    "image_seq_length": None,
}
"""Every option that a call takes, with transformers' defaults. Those from `do_normalize` to `pad_size` are checked but
have no effect, as in transformers: SuperPoint has no such step."""

SWITCHES = (*(name for name in DEFAULTS if name.startswith("do_")), "default_to_square", "disable_grouping")
FIRST, LAST = "channels_first", "channels_last"
SIZE_KEYS = (
    {"height", "width"},
    {"shortest_edge"},
    {"shortest_edge", "longest_edge"},
    {"longest_edge"},
    {"max_height", "max_width"},
    {"min_pixels", "max_pixels"},
)


class SizeDict(dict[str, int]):
    """A dictionary whose entries are attributes too; the attribute of a missing entry is None."""

    def __getattr__(self, name: str) -> int | None:
        if any(name in keys for keys in SIZE_KEYS):
            return self.get(name)
        raise AttributeError(name)


def size_dict(size: Any, *, square: bool = False, name: str = "size") -> SizeDict:
    """A size as a dictionary, from a dictionary, (height, width) or a number.

    A number is the shortest edge; with `square`, it is both height and width.

    Raises:
        TypeError: The size is something else.
        ValueError: Its keys are others, or its values are not positive whole numbers.
    """
    if isinstance(size, numbers.Integral) and not isinstance(size, bool):
        size = {"height": size, "width": size} if square else {"shortest_edge": size}
    elif isinstance(size, list | tuple) and len(size) == 2:
        size = {"height": size[0], "width": size[1]}
    if not isinstance(size, Mapping):
        raise TypeError(f"{name}={size!r}; a number, (height, width) or {{'height': h, 'width': w}} is needed")
    if set(size) not in SIZE_KEYS:
        keys = "; ".join(", ".join(sorted(allowed)) for allowed in SIZE_KEYS)
        raise ValueError(f"{name} has the keys {', '.join(map(repr, size))}; one of these is needed: {keys}")
    if not all(isinstance(value, numbers.Integral) and int(value) >= 1 for value in size.values()):
        raise ValueError(f"{name}={dict(size)!r}; positive whole numbers are needed")
    return SizeDict({key: int(value) for key, value in size.items()})


def check(options: Mapping[str, Any]) -> None:
    """Raise an error if an option of a call is wrong: a TypeError for a type, a ValueError for a value.

    None is allowed where transformers allows it. It is refused only for `do_grayscale`, and for a value that an active
    step needs.
    """
    for name in SWITCHES:
        value = options[name]
        if not isinstance(value, bool) and (value is not None or name == "do_grayscale"):
            raise TypeError(f"{name}={value!r} is a {type(value).__name__}; True or False is needed")
    factor = options["rescale_factor"]
    if factor is not None and (isinstance(factor, bool) or not isinstance(factor, numbers.Real)):
        raise TypeError(f"rescale_factor={factor!r} is a {type(factor).__name__}; a number is needed")
    resample = options["resample"]
    if resample is not None and (isinstance(resample, bool) or resample not in range(6)):
        raise ValueError(f"resample={resample!r} is not a filter of Pillow; these are 0 to 5, and 2 is bilinear")
    for name in ("data_format", "input_data_format"):
        if options[name] is not None and _format(options[name]) not in (FIRST, LAST):
            raise ValueError(f"{name}={options[name]!r} is not known; choose {FIRST!r} or {LAST!r}")
    kind = options["return_tensors"]
    if kind is not None and kind not in KINDS:
        raise ValueError(f"return_tensors={kind!r} is not known; choose one of {', '.join(map(repr, KINDS))}")
    for switch, needed in (
        ("do_rescale", ("rescale_factor",)),
        ("do_resize", ("size", "resample")),
        ("do_normalize", ("image_mean", "image_std")),
        ("do_center_crop", ("crop_size",)),
        ("do_pad", ("pad_size",)),
    ):
        missing = [name for name in needed if options[name] is None]
        if options[switch] and missing:
            raise ValueError(f"{switch} is on and needs {' and '.join(missing)}")


def is_last(data_format: Any) -> bool:
    """Whether a data format (a string, or a member of transformers' enumeration) has the channels last."""
    return data_format is not None and _format(data_format) == LAST


def _format(data_format: Any) -> str:
    return str(getattr(data_format, "value", data_format))


def target_size(height: int, width: int, size: Mapping[str, int]) -> tuple[int, int]:
    """(height, width) after the resize of an image of this height and width. Fractions are cut off, as in transformers.

    Raises:
        ValueError: `size` has keys that the processors can't resize by.
    """
    if "height" in size:
        return size["height"], size["width"]
    if "max_height" in size:
        scale = min(size["max_height"] / height, size["max_width"] / width)
        return int(height * scale), int(width * scale)
    if "shortest_edge" not in size:
        raise ValueError(f"size={dict(size)!r}; give height and width, or max_height and max_width, or shortest_edge")
    short, long = float(min(height, width)), float(max(height, width))
    edge: float = size["shortest_edge"]
    limit = size.get("longest_edge")
    if limit is not None and long / short * edge > limit:
        edge = limit * short / long
    new_short = round(edge)
    if limit is not None and new_short == short:
        return height, width
    new_long = int(edge * long / short)
    return (new_short, new_long) if height <= width else (new_long, new_short)
