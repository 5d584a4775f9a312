"""The Auto classes: transformers picks a class by a file there; here there is one model, and two processors."""

from __future__ import annotations

import os
from typing import Any

from superpoint_jax.huggingface.config import SuperPointConfig
from superpoint_jax.huggingface.model import SuperPointForKeypointDetection
from superpoint_jax.huggingface.processors import SuperPointImageProcessor, SuperPointImageProcessorPil

BACKENDS = {"torchvision": SuperPointImageProcessor, "pil": SuperPointImageProcessorPil}


class AutoImageProcessor:
    """`from_pretrained` alone, as of theirs."""

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
            use_fast: True and False for these two, as older versions have it.
            **options: In place of those stored; see `SuperPointImageProcessor.from_pretrained`.

        Raises:
            ValueError: Another backend.
        """
        if backend is None:
            backend = "pil" if use_fast is False else "torchvision"
        if backend not in BACKENDS:
            raise ValueError(f"backend={backend!r} is not known; choose one of {', '.join(map(repr, BACKENDS))}")
        return BACKENDS[backend].from_pretrained(source, **options)


class AutoModelForKeypointDetection:
    """`from_pretrained` and `from_config`, as of theirs."""

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str] | None = None, **options: Any
    ) -> SuperPointForKeypointDetection:
        """See `SuperPointForKeypointDetection.from_pretrained`."""
        return SuperPointForKeypointDetection.from_pretrained(source, **options)

    @classmethod
    def from_config(cls, config: SuperPointConfig) -> SuperPointForKeypointDetection:
        """A model with random weights."""
        return SuperPointForKeypointDetection(config)


class AutoModel(AutoModelForKeypointDetection):
    """The same. transformers 4 offered it, and transformers 5 asks for AutoModelForKeypointDetection."""
