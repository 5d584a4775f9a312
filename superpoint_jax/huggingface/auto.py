"""The Auto classes. transformers picks the class by the files of the source; here there are one model and two
processors."""

from __future__ import annotations

import os
from typing import Any

from superpoint_jax.huggingface.config import SuperPointConfig
from superpoint_jax.huggingface.model import SuperPointForKeypointDetection
from superpoint_jax.huggingface.processors import SuperPointImageProcessor, SuperPointImageProcessorPil

BACKENDS = {"torchvision": SuperPointImageProcessor, "pil": SuperPointImageProcessorPil}


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
    ) -> SuperPointImageProcessor | SuperPointImageProcessorPil:
        """The processor that belongs to some weights.

        Args:
            source: None for the weights in this package; else a folder, a file or a hub id.
            backend: "torchvision" (the default) for `SuperPointImageProcessor`, "pil" for
                `SuperPointImageProcessorPil`.
            use_fast: True for "torchvision", False for "pil": the option of older versions of transformers.
            **options: Options that replace the stored ones; see `SuperPointImageProcessor.from_pretrained`.

        Raises:
            ValueError: The backend is not known.
        """
        if backend is None:
            backend = "pil" if use_fast is False else "torchvision"
        if backend not in BACKENDS:
            raise ValueError(f"backend={backend!r} is not known; choose one of {', '.join(map(repr, BACKENDS))}")
        return BACKENDS[backend].from_pretrained(source, **options)


class AutoModelForKeypointDetection:
    """Opens or makes the model; of transformers' class, it has `from_pretrained` and `from_config`."""

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


class AutoModel(AutoModelForKeypointDetection):
    """The same as AutoModelForKeypointDetection; code for transformers 4 uses this name."""
