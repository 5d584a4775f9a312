"""SuperPointImageProcessor: turns images of any kind into one padded batch, with Hugging Face's options and our own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import jax
import jax.numpy as jnp
import numpy as np

from superpoint_jax.config import CELL_PX, SuperPointConfig
from superpoint_jax.features import Keypoints
from superpoint_jax.hub import PREPROCESSOR_FILE, split_options
from superpoint_jax.processing.coordinates import PostProcessRule, post_process_keypoint_detection
from superpoint_jax.processing.host import GrayscaleRule, as_array, pad_to_batch, resize, to_gray
from superpoint_jax.processing.loading import MAX_IMAGE_PIXELS
from superpoint_jax.processing.options_file import config_file, read_options

FILE_NAME = PREPROCESSOR_FILE
BILINEAR = 2
"""Pillow's number of the bilinear filter, as stored in Hugging Face's files."""

ResizeMode = Literal["exact", "fit", "shrink"]


@jax.tree_util.register_pytree_with_keys_class
class BatchFeature(dict):
    """A dictionary of arrays whose entries are attributes too, as transformers' processors return it; a pytree."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no entry {name!r}; there are {', '.join(map(repr, self))}") from None

    def to(self, device: Any) -> BatchFeature:
        """The arrays on another `jax.Device`, or laid out by a `jax.sharding.Sharding`."""
        return BatchFeature(jax.device_put(dict(self), device))

    def tree_flatten_with_keys(self):
        """The arrays by name, for jax."""
        names = sorted(self)
        return [(jax.tree_util.DictKey(name), self[name]) for name in names], tuple(names)

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], values: Any) -> Self:
        """The dictionary from its names and arrays, for jax."""
        return cls(zip(names, values, strict=True))


@dataclass(frozen=True, kw_only=True)
class SuperPointImageProcessor:
    """Prepares images for the network. The options are those of Hugging Face, and some of our own.

    The defaults are this project's: the aspect ratio is kept, the longer side has at most 1024 pixels (as in hloc and
    LightGlue), colours become luma, and the sides are padded to a multiple of 8, so that few shapes are compiled.
    `SuperPointImageProcessor.huggingface()` has transformers' defaults.

    Attributes:
        do_resize: Whether to resize.
        size: {"height": h, "width": w} in pixels; see `resize_mode`.
        resample: Pillow's number of the filter, which is antialiased: 2 bilinear, 3 bicubic, 1 Lanczos, 4 box.
        do_rescale: Multiply integers by `rescale_factor`, to float32. Without it uint8 stays uint8, which the model
            takes too. Floats are in [0, 1], as everywhere in this library, and are never rescaled.
        rescale_factor: The factor of `do_rescale`; 1/255 gives [0, 1].
        do_grayscale: Make colours gray; see `grayscale_rule`.
        resize_mode: "exact" resizes to `size` and ignores the aspect ratio, as Hugging Face does. "fit" keeps the
            aspect ratio and gives the largest image that fits in `size`. "shrink" does the same, but never enlarges.
        pad_multiple: Height and width of the batch are multiples of this. 64 compiles fewer shapes than 8.
        grayscale_rule: "luma" (0.299, 0.587, 0.114) gives one channel. "huggingface" (0.2989, 0.5870, 0.1140) gives
            three equal channels, unless the image is gray already.
        other_fields: The other fields of the preprocessor_config.json that the processor was read from. They are saved
            again, and ignored when processors are compared.
    """

    do_resize: bool = True
    size: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"height": 1024, "width": 1024})
    resample: int = BILINEAR
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_grayscale: bool = True
    resize_mode: ResizeMode = "shrink"
    pad_multiple: int = CELL_PX
    grayscale_rule: GrayscaleRule = "luma"
    other_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if set(self.size) != {"height", "width"} or min(self.size.values()) < 1:
            raise ValueError(f"size={self.size!r} must be {{'height': h, 'width': w}} in pixels")
        object.__setattr__(self, "size", {name: int(self.size[name]) for name in ("height", "width")})
        object.__setattr__(self, "resample", int(self.resample))
        for name, choices in (
            ("resize_mode", get_args(ResizeMode)),
            ("grayscale_rule", get_args(GrayscaleRule)),
            ("resample", tuple(range(6))),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is not known; choose one of {choices}")
        if self.pad_multiple < 1:
            raise ValueError(f"pad_multiple={self.pad_multiple} must be positive; 1 pads nothing")

    @classmethod
    def huggingface(cls, **changes: Any) -> Self:
        """The processor with transformers' defaults: 480x640, aspect ratio ignored, colours kept.

        transformers' model then reads only the red channel.
        """
        options: dict[str, Any] = dict(
            size={"height": 480, "width": 640},
            do_grayscale=False,
            resize_mode="exact",
            pad_multiple=1,
            grayscale_rule="huggingface",
        )
        return cls(**{**options, **changes})

    @classmethod
    def for_config(cls, config: SuperPointConfig) -> Self:
        """The processor that belongs to a network of this configuration.

        It is the one that came with the weights. Without one, it is this project's if the network converts colours to
        luma, else Hugging Face's.
        """
        if config.preprocessor_json:
            return cls.from_dict(json.loads(config.preprocessor_json))
        return cls() if config.channel_rule == "luma" else cls.huggingface()

    @classmethod
    def for_weights(cls, source: str | Path | None, config: SuperPointConfig) -> Self:
        """The processor stored with the weights of a source; without one, that of the configuration.

        Raises:
            ValueError: The stored file does not hold such options.
        """
        path = None if source is None else Path(source).expanduser()
        if path is not None and path.is_file() and (path.parent / FILE_NAME).exists():
            return cls.from_pretrained(path)
        return cls.for_config(config)

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None, **changes: Any) -> Self:
        """The processor that belongs to some weights.

        Args:
            source: None for the weights in this package; else a folder with a preprocessor_config.json, that file, a
                weights file beside one, or a hub id. A weights file without a preprocessor_config.json (for example
                superpoint_v1.pth) gets this project's defaults.
            **changes: Options that replace the stored ones; and options for the hub, see `hub.HubOptions`: `revision`,
                `token`, ...

        Raises:
            FileNotFoundError: The source does not exist, or is a folder or a repository without a
                preprocessor_config.json.
            HubError: The hub can't be reached. An `OSError`.
            ValueError: The stored file does not hold such options.
        """
        hub_options, changes = split_options(changes)
        path = None if source is None else config_file(str(source), **hub_options)
        if path is None:
            return cls(**changes)
        return dataclasses.replace(cls.from_dict(read_options(path)), **changes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The processor with the options of a preprocessor_config.json.

        A missing option has Hugging Face's default. Keys that are not options are kept for `to_dict`.

        Raises:
            ValueError: It asks for a step that this library does not have, such as `do_normalize`.
        """
        for name in ("do_normalize", "do_center_crop", "do_pad"):
            if values.get(name):
                raise ValueError(f"{name}={values[name]!r} is not supported; SuperPoint's processor has no such step")
        known = {field.name for field in dataclasses.fields(cls)} - {"other_fields"}
        options = {name: value for name, value in values.items() if name in known and value is not None}
        options["other_fields"] = {name: value for name, value in values.items() if name not in options}
        size = options.get("size")
        if isinstance(size, Mapping) and set(size) == {"max_height", "max_width"}:
            options["size"] = {"height": size["max_height"], "width": size["max_width"]}
            options.setdefault("resize_mode", "fit")
        return cls.huggingface(**options)

    def to_dict(self) -> dict[str, Any]:
        """The options as transformers' `AutoImageProcessor` reads them.

        transformers then keeps the aspect ratio where this processor does. It ignores our own options, and it enlarges
        small images.
        """
        values = {"image_processor_type": "SuperPointImageProcessor", **dataclasses.asdict(self)}
        values.update(values.pop("other_fields"))
        if self.resize_mode != "exact":
            values["size"] = {f"max_{name}": value for name, value in self.size.items()}
        return values

    def save_pretrained(self, folder: str | Path) -> None:
        """Write preprocessor_config.json into a folder, which is created if it does not exist."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True)
        (Path(folder) / PREPROCESSOR_FILE).write_text(text + "\n")

    def __call__(self, images: Any, **overrides: Any) -> BatchFeature:
        """The same as `preprocess`."""
        return self.preprocess(images, **overrides)

    def preprocess(
        self,
        images: Any,
        *,
        return_tensors: Literal["jax", "np"] | str = "jax",
        max_pixels: int | None = MAX_IMAGE_PIXELS,
        **overrides: Any,
    ) -> BatchFeature:
        """One batch: "pixel_values" [B,H,W,1 or 3], and "image_sizes" int32 [B,2], the (height, width) of each image.

        Each image is in the top-left corner of its array. The padding repeats its last row and column, and the model
        ignores it if you pass the sizes. A batch has three channels if one of its images has three.

        Args:
            images: One image or a list: Pillow images, arrays [H,W] or [H,W,1, 3 or 4] (uint8, uint16, bool, or float
                in [0, 1]), paths or open files. An array [B,H,W,C] counts as a list. Files are turned upright by their
                EXIF data. Pillow images are not turned, because `image.size` ignores the EXIF data too.
            return_tensors: Kind of the arrays: "jax" on the default device, or "np".
            max_pixels: Refuse larger files; see `load_image`.
            **overrides: Options that replace the processor's for this call.

        Raises:
            ImageError: A file can't be read as an image.
            ValueError: An array has another shape or type, or an option is out of range.
            TypeError: An option does not exist.
        """
        if return_tensors not in ("jax", "np"):
            raise ValueError(f"return_tensors={return_tensors!r}; choose 'jax' or 'np', or leave it out")
        names = [field.name for field in dataclasses.fields(self) if field.compare]
        if unknown := sorted(set(overrides) - set(names)):
            raise TypeError(f"unknown option {', '.join(unknown)}; the options are {', '.join(names)}")
        processor = dataclasses.replace(self, **overrides)
        processed = [processor._one(as_array(image, max_pixels=max_pixels)) for image in as_list(images)]
        pixel_values, image_sizes = pad_to_batch(processed, processor.pad_multiple)
        library = jnp if return_tensors == "jax" else np
        return BatchFeature(pixel_values=library.asarray(pixel_values), image_sizes=library.asarray(image_sizes))

    def post_process_keypoint_detection(
        self, outputs: Keypoints | Any, target_sizes: Any, *, rule: PostProcessRule | str = "exact"
    ) -> list[dict[str, np.ndarray]]:
        """Keypoints in pixels of the original images: see the function of the same name in `coordinates`."""
        return post_process_keypoint_detection(outputs, target_sizes, rule=rule)

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after the resize of an image of this height and width."""
        bounds = self.size["height"], self.size["width"]
        if not self.do_resize:
            return height, width
        if self.resize_mode == "exact":
            return bounds
        scale = min(bounds[0] / height, bounds[1] / width)
        if self.resize_mode == "shrink" and scale >= 1:
            return height, width
        # The shorter side of a long strip is not shrunk below one cell, which the network needs.
        resized = [max(round(side * scale), min(side, CELL_PX)) for side in (height, width)]
        return resized[0], resized[1]

    def _one(self, image: np.ndarray) -> np.ndarray:
        """One processed image [H,W,1 or 3].

        Under Hugging Face's gray rule, gray is the last step, as in transformers' Pillow backend.
        """
        if self.do_grayscale and self.grayscale_rule == "luma":
            image = to_gray(image, "luma")  # Bytes stay bytes, as when Pillow or OpenCV reads a photo in gray.
        image = resize(image, self.target_size(*image.shape[:2]), self.resample)
        if self.do_rescale and image.dtype == np.uint8:
            # A table of the 256 products, each computed in float64 and rounded once, as in transformers.
            image = (np.arange(256) * self.rescale_factor).astype(np.float32)[image]
        if self.do_grayscale and self.grayscale_rule == "huggingface":
            image = to_gray(image, "huggingface")
        return image


def as_list(images: Any) -> list[Any]:
    """A list of images, from a list, an array [B,H,W,C], or one image.

    Raises:
        ValueError: There is no image.
    """
    if isinstance(images, list | tuple):
        items = list(images)
    elif getattr(images, "ndim", None) == 4:
        items = list(np.asarray(images))
    else:
        items = [images]
    if not items:
        raise ValueError("no image was given; one or a list of at least one is needed")
    return items
