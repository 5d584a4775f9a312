"""The Auto classes, which pick a class by the files of the source: SuperPoint or LightGlue."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from superpoint_jax.hub import split_options
from superpoint_jax.huggingface.config import SuperPointConfig
from superpoint_jax.huggingface.lightglue import LightGlueForKeypointMatching
from superpoint_jax.huggingface.lightglue_config import LightGlueConfig
from superpoint_jax.huggingface.model import SuperPointForKeypointDetection
from superpoint_jax.huggingface.pairs import LightGlueImageProcessor, LightGlueImageProcessorPil
from superpoint_jax.huggingface.processors import SuperPointImageProcessor, SuperPointImageProcessorPil
from superpoint_jax.processing.options_file import config_file, read_options

BACKENDS = {
    "torchvision": (SuperPointImageProcessor, LightGlueImageProcessor),
    "pil": (SuperPointImageProcessorPil, LightGlueImageProcessorPil),
}


class AutoImageProcessor:
    """Opens the processor of some weights; of transformers' class, it has only `from_pretrained`."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | None = None,
        *,
        backend: str | None = None,
        use_fast: bool | None = None,
        **options: Any,
    ) -> Any:
        """The processor that belongs to some weights: that of SuperPoint, or that of LightGlue.

        Args:
            source: None for the weights in this package; else a folder, a file or a hub id.
            backend: "torchvision" (the default) for `SuperPointImageProcessor` or `LightGlueImageProcessor`, "pil" for
                `SuperPointImageProcessorPil` or `LightGlueImageProcessorPil`.
            use_fast: True for "torchvision", False for "pil": the option of older versions of transformers.
            **options: Options that replace the stored ones; see `SuperPointImageProcessor.from_pretrained`.

        Raises:
            ValueError: The backend is not known.
        """
        if backend is None:
            backend = "pil" if use_fast is False else "torchvision"
        if backend not in BACKENDS:
            raise ValueError(f"backend={backend!r} is not known; choose one of {', '.join(map(repr, BACKENDS))}")
        path = None if source is None else config_file(str(source), **split_options(options)[0])
        stored = {} if path is None else read_options(path)
        of_pairs = str(stored.get("image_processor_type", "")).startswith("LightGlue")
        return BACKENDS[backend][of_pairs].from_pretrained(source, **options)


class AutoModelForKeypointDetection:
    """Opens or makes a SuperPoint; of transformers' class, it has `from_pretrained` and `from_config`."""

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str] | None = None, **options: Any
    ) -> SuperPointForKeypointDetection:
        """The model of a source; see `SuperPointForKeypointDetection.from_pretrained`."""
        return SuperPointForKeypointDetection.from_pretrained(source, **options)

    @classmethod
    def from_config(cls, config: SuperPointConfig) -> SuperPointForKeypointDetection:
        """A model with random weights."""
        return SuperPointForKeypointDetection(config)


class AutoModelForKeypointMatching:
    """Opens or makes a LightGlue; of transformers' class, it has `from_pretrained` and `from_config`."""

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str] | None = None, **options: Any
    ) -> LightGlueForKeypointMatching:
        """The model of a source; see `LightGlueForKeypointMatching.from_pretrained`."""
        return LightGlueForKeypointMatching.from_pretrained(source, **options)

    @classmethod
    def from_config(cls, config: LightGlueConfig) -> LightGlueForKeypointMatching:
        """A model with random weights."""
        return LightGlueForKeypointMatching(config)


class AutoModel:
    """Opens or makes either model; of transformers' class, it has `from_pretrained` and `from_config`."""

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str] | None = None, **options: Any
    ) -> SuperPointForKeypointDetection | LightGlueForKeypointMatching:
        """The model of a source, of the kind that its config.json states; a SuperPoint if there is none."""
        if source is not None and not Path(source).expanduser().is_file():
            stored, _ = LightGlueConfig.get_config_dict(source, **split_options(options)[0])
            if stored.get("model_type") == LightGlueConfig.model_type:
                return LightGlueForKeypointMatching.from_pretrained(source, **options)
        return SuperPointForKeypointDetection.from_pretrained(source, **options)

    @classmethod
    def from_config(
        cls, config: SuperPointConfig | LightGlueConfig
    ) -> SuperPointForKeypointDetection | LightGlueForKeypointMatching:
        """A model with random weights."""
        if isinstance(config, LightGlueConfig):
            return LightGlueForKeypointMatching(config)
        return SuperPointForKeypointDetection(config)
