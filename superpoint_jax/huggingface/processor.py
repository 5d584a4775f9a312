"""What the two processors have in common: their options, the files that store them, their inputs and outputs."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from superpoint_jax.hub import PREPROCESSOR_FILE, split_options
from superpoint_jax.huggingface.arrays import jax_device, to_kind
from superpoint_jax.huggingface.batch import BatchFeature
from superpoint_jax.huggingface.inputs import as_channels_first, flat_images
from superpoint_jax.huggingface.options import DEFAULTS, check, is_last, size_dict, target_size
from superpoint_jax.huggingface.pushing import Pushable
from superpoint_jax.processing.options_file import config_file, read_options
from superpoint_jax.weights.writing import checked_folder

OF_THE_PACKAGE = {"do_grayscale": True}
"""Options for the weights in this package that differ from the defaults: the weights were trained on gray photos."""


class Processor(Pushable):
    """Options as attributes, with transformers' names and defaults; unknown ones are kept and saved again."""

    model_input_names: ClassVar = ["pixel_values"]
    backend: ClassVar[str]
    saved_name: ClassVar[str]
    """The class name in preprocessor_config.json, which AutoImageProcessor looks for."""
    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS

    def __init__(self, **options: Any) -> None:
        self._set(
            {
                **copy.deepcopy(dict(self.defaults)),
                **{name: value for name, value in options.items() if value is not None},
            }
        )

    def _set(self, options: Mapping[str, Any]) -> None:
        for name, value in _standard(options).items():
            if name not in ("image_processor_type", "feature_extractor_type", "processor_class"):
                setattr(self, name, value)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str] | None = None, **options: Any) -> Any:
        """The processor that belongs to some weights.

        Args:
            source: None for the weights in this package; else a folder with a preprocessor_config.json, that file, or
                a hub id.
            **options: Options that replace the stored ones; options for the hub, see `superpoint_jax.hub.HubOptions`;
                and `return_unused_kwargs`, see `from_dict`.

        Raises:
            FileNotFoundError: The source does not exist, or has no preprocessor_config.json.
            HubError: The hub can't be reached. An `OSError`.
            ValueError: The file does not hold a JSON object.
        """
        if source is None:
            return cls.from_dict(OF_THE_PACKAGE, **options)
        hub, options = split_options(options)
        path = config_file(str(source), **hub)
        if path is None:
            raise FileNotFoundError(f"{source} has no {PREPROCESSOR_FILE} beside it; choose {cls.__name__}()")
        return cls.from_dict(read_options(path), **options)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], return_unused_kwargs: bool = False, **changes: Any) -> Any:
        """The processor of a dictionary, with some options changed.

        Changes that are not options are ignored. With `return_unused_kwargs`, the result is a pair: the processor, and
        these changes.
        """
        known = {name: value for name, value in changes.items() if name in DEFAULTS or name in values}
        processor = cls(**{**copy.deepcopy(dict(values)), **known})
        unused = {name: value for name, value in changes.items() if name not in known}
        return (processor, unused) if return_unused_kwargs else processor

    @classmethod
    def from_json_file(cls, path: str | os.PathLike[str]) -> Self:
        """The processor of a JSON file."""
        return cls(**read_options(Path(path)))

    def to_dict(self) -> dict[str, Any]:
        """Every option that is set, and the class name that AutoImageProcessor looks for."""
        values = {name: value for name, value in self.__dict__.items() if value is not None}
        values = {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
        # False is the default, so the file need not state it.
        if values.get("default_to_square") is False:
            del values["default_to_square"]
        return copy.deepcopy({**values, "image_processor_type": self.saved_name})

    def to_json_string(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, path: str | os.PathLike[str]) -> None:
        """Write `to_json_string` to a file."""
        Path(path).write_text(self.to_json_string(), encoding="utf-8")

    def save_pretrained(self, folder: str | os.PathLike[str], push_to_hub: bool = False, **options: Any) -> list[str]:
        """Write preprocessor_config.json into a folder, which is created if it does not exist; return [its path].

        With `push_to_hub=True`, also push it to the hub; `options` are those of the method `push_to_hub`.

        Raises:
            NotADirectoryError: `folder` is a file.
        """
        path = checked_folder(folder)
        path.mkdir(parents=True, exist_ok=True)
        self.to_json_file(path / PREPROCESSOR_FILE)
        self._pushed(folder, push_to_hub, options)
        return [str(path / PREPROCESSOR_FILE)]

    def __call__(self, images: Any, **options: Any) -> BatchFeature:
        """The same as `preprocess`."""
        return self.preprocess(images, **options)

    def preprocess(self, images: Any, **options: Any) -> BatchFeature:
        """One batch: "pixel_values" [B,C,H,W], resized, rescaled and, with `do_grayscale`, with three equal channels.

        The processors of LightGlue take pairs of images, and "pixel_values" is [B,2,C,H,W].

        If the resized images differ in size, "pixel_values" is a list of arrays, and `return_tensors` must be None.

        Args:
            images: One image, a list of images, or a list of pairs. An image is a Pillow image, an array or tensor of
                bytes or floats with channels first or last, or a path.
            **options: Options that replace the processor's for this call: `do_resize`, `size` (a number is the shorter
                side), `resample` (Pillow's number of a filter), `do_rescale`, `rescale_factor`, `do_grayscale`,
                `return_tensors` ("jax", the default; "np"; "pt" for PyTorch), `input_data_format` and `data_format`
                ("channels_first" or "channels_last"), `do_convert_rgb`, `device`; and the others of transformers.

        Raises:
            TypeError: An option does not exist or has the wrong type, or an image is something else.
            ValueError: An option or an image is out of range, or the sizes differ and `return_tensors` is given.
        """
        if unknown := sorted(set(options) - set(DEFAULTS)):
            raise TypeError(f"unknown option {', '.join(unknown)}; the options are {', '.join(DEFAULTS)}")
        options = _standard({**{name: getattr(self, name) for name in DEFAULTS}, **options})
        check(options)
        pixels = [
            as_channels_first(image, options["input_data_format"], options["do_convert_rgb"])
            for image in self._flat(images)
        ]
        if options["do_rescale"] and any(_is_scaled(image) for image in pixels):
            warnings.warn(
                "floats in [0, 1] are divided by 255 once more, as transformers does: pass do_rescale=False",
                stacklevel=2,
            )
        sizes = [
            target_size(image.shape[1], image.shape[2], options["size"]) if options["do_resize"] else image.shape[1:]
            for image in pixels
        ]
        return BatchFeature(pixel_values=self._arranged(_gathered(self._processed(pixels, sizes, options), options)))

    def _flat(self, images: Any) -> list[Any]:
        """The images as a flat list."""
        return flat_images(images)

    def _arranged(self, pixel_values: Any) -> Any:
        """The flat batch of all images, as the model takes it."""
        return pixel_values

    def _processed(
        self, pixels: list[np.ndarray], sizes: list[tuple[int, int]], options: Mapping[str, Any]
    ) -> list[Any]:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    def _save_for_hub(self, folder: Path) -> None:
        self.save_pretrained(folder)


def _standard(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with every size as a dictionary and the filter as a number."""
    sizes = {
        name: size_dict(options[name], square=bool(options["default_to_square"]) or name != "size", name=name)
        for name in ("size", "crop_size", "pad_size")
        if options[name] is not None
    }
    resample = options["resample"]
    number = int(resample) if isinstance(resample, int) and not isinstance(resample, bool) else resample
    return {**options, **sizes, "resample": number}


def _is_scaled(image: np.ndarray) -> bool:
    return np.issubdtype(image.dtype, np.floating) and bool(image.max() <= 1)


def _gathered(results: list[Any], options: Mapping[str, Any]) -> Any:
    """The images in one array of the kind that was asked for; `results` is a list of images, or holds one batch."""
    kind, last = options["return_tensors"], is_last(options["data_format"])
    if len(results) > 1 or results[0].ndim == 3:
        shapes = {image.shape[1:] for image in results}
        if len(shapes) > 1:
            if kind is not None:
                raise ValueError(
                    f"the resized images have {len(shapes)} sizes, {sorted(shapes)}, and don't fit into one array: "
                    f"give `size` a height and a width, or leave return_tensors out for a list"
                )
            return [np.moveaxis(np.asarray(image), 0, -1) if last else image for image in results]
        channels = max(image.shape[0] for image in results)
        results = [np.repeat(image, channels, axis=0) if image.shape[0] == 1 else image for image in results]
        on_host = all(isinstance(image, np.ndarray) for image in results)
        batch = np.stack(results) if on_host else jnp.stack(results)
    else:
        batch = results[0]
    if last:
        batch = np.moveaxis(batch, 1, -1) if isinstance(batch, np.ndarray) else jnp.moveaxis(batch, 1, -1)
    if kind in (None, "jax") and isinstance(batch, np.ndarray):
        device = jax_device(options["device"])
        return jnp.asarray(batch) if device is None else jax.device_put(batch, device)
    return to_kind(batch, kind or "jax")
