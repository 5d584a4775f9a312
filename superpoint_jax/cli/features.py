"""From the pixels of an image to its keypoints, whatever its size."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import superpoint_jax as sp
from superpoint_jax.cli.errors import told
from superpoint_jax.processing import rescale_keypoints
from superpoint_jax.processing.processor import FILE_NAME as PROCESSOR_FILE
from superpoint_jax.weights.save import processor_of

PAD_MULTIPLE = 64
"""Images are padded to multiples of it, in pixels, so that many sizes share a compilation; no result changes by it."""


def load_extractor(
    weights: str | None, max_keypoints: int, *, engine: sp.openvino.Engine = "auto", **options: Any
) -> Callable[[np.ndarray], sp.Keypoints]:
    """A function from the pixels of an image to its keypoints [K], in pixels of that image, whatever its size.

    `options` are those of `from_pretrained`. Says on stderr who computes the network.
    """
    with told():
        model = sp.from_pretrained(weights, max_keypoints=max_keypoints, **options)
        processor = processor_for(weights, model.config)
        network = sp.openvino.choose(model, engine)
    print(sp.openvino.describe(network), file=sys.stderr)

    def features_of(pixels: np.ndarray) -> sp.Keypoints:
        inputs = processor(pixels, pad_multiple=PAD_MULTIPLE)
        _, height, width, _ = inputs.pixel_values.shape
        capacity = min(max_keypoints, height * width)
        found = sp.extract(network, inputs.pixel_values, image_sizes=inputs.image_sizes, max_keypoints=capacity)[0]
        keypoints_xy = rescale_keypoints(found.keypoints, found.image_sizes, pixels.shape[:2])
        return dataclasses.replace(
            found,
            keypoints=jnp.where(found.mask[:, None], keypoints_xy, 0),
            image_sizes=jnp.array(pixels.shape[:2], jnp.int32),
        )

    return features_of


def processor_for(weights: str | None, config: sp.SuperPointConfig) -> sp.SuperPointImageProcessor:
    """What is stored with the weights; for weights alone, what their configuration says."""
    if weights is not None and (path := Path(weights).expanduser()).exists():
        folder = path if path.is_dir() else path.parent
        if not (folder / PROCESSOR_FILE).exists():
            return processor_of(config)
    return sp.SuperPointImageProcessor.from_pretrained(weights)
