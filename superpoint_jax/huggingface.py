"""The names of Hugging Face's SuperPoint, so that its documentation's snippets run with the imports changed.

    from superpoint_jax.huggingface import AutoImageProcessor, SuperPointForKeypointDetection

What differs: arrays are jax arrays [B,H,W,C] and `return_tensors="pt"` is dropped; keypoints come out in pixels of the
array instead of relative to its size; the output has a fixed number of rows, of which `mask` tells the valid ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import jax
from jax import Array
from jaxtyping import Float, Int, UInt8

from superpoint_jax.config import SuperPointConfig
from superpoint_jax.extraction import extract
from superpoint_jax.features import Keypoints
from superpoint_jax.model import SuperPoint
from superpoint_jax.processing import SuperPointImageProcessor

AutoImageProcessor = SuperPointImageProcessor


class SuperPointForKeypointDetection:
    """A SuperPoint that is called with what the processor returns.

    Attributes:
        model: The network, to be used with `superpoint_jax.extract` as well.
    """

    def __init__(self, model: SuperPoint) -> None:
        self.model = model

    @classmethod
    def from_pretrained(
        cls, source: str | Path | None = None, *, device_map: str | None = None, **options: Any
    ) -> Self:
        """The network with weights: see `superpoint_jax.from_pretrained`, whose arguments these are.

        Args:
            source: None for the weights in this package; else a hub id, a folder or a file.
            device_map: None or "auto", jax's default device; it is there for the snippets.
            **options: For `superpoint_jax.from_pretrained`.
        """
        from superpoint_jax.weights import from_pretrained

        if device_map not in (None, "auto"):
            raise ValueError(f"device_map={device_map!r}; leave it out and choose with jax.default_device")
        return cls(from_pretrained(source, **options))

    @property
    def config(self) -> SuperPointConfig:
        """The network's configuration; its fields are options of a call."""
        return self.model.config

    @property
    def device(self) -> Any:
        """The `jax.Device` of the parameters."""
        return next(iter(jax.tree.leaves(self.model)[0].devices()))

    def __call__(
        self,
        pixel_values: Float[Array, "b h w c"] | UInt8[Array, "b h w c"],
        image_sizes: Int[Array, "b 2"] | None = None,
        output_hidden_states: bool = False,
        **options: Any,
    ) -> Keypoints:
        """Keypoints in pixels of `pixel_values`; `post_process_keypoint_detection` maps them to the original images.

        Args:
            pixel_values: 1 or 3 channels, float in [0, 1] or uint8.
            image_sizes: True (height, width) of each image in its array.
            output_hidden_states: Also return the output of each encoder block.
            **options: Any field of the configuration, in place of the model's.
        """
        return extract(
            self.model, pixel_values, image_sizes=image_sizes, output_hidden_states=output_hidden_states, **options
        )
