"""The processors under transformers' names, with its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from superpoint_jax.huggingface.arrays import jax_device
from superpoint_jax.huggingface.outputs import post_process
from superpoint_jax.huggingface.processor import Processor
from superpoint_jax.huggingface.steps import METHODS, gray_on_host, grouped, on_device, resize_on_host, scaled


class OnDevice(Processor):
    """The steps as torchvision computes them, jitted: they compile once per image size."""

    backend = "torchvision"

    def _processed(
        self, pixels: list[np.ndarray], sizes: list[tuple[int, int]], options: Mapping[str, Any]
    ) -> list[Any]:
        if options["do_resize"] and options["resample"] not in METHODS:
            raise ValueError(
                f"resample={options['resample']} is not one of {METHODS}; SuperPointImageProcessorPil has it"
            )
        device = jax_device(options["device"])
        results: list[Any] = [None] * len(pixels)
        for places in grouped(pixels).values():
            first = places[0]
            batch = np.stack([pixels[i] for i in places])
            batch = batch.astype(np.float32) if batch.dtype == np.float64 else batch
            done = on_device(
                jnp.asarray(batch) if device is None else jax.device_put(batch, device),
                size=sizes[first] if options["do_resize"] else None,
                resample=options["resample"] if options["do_resize"] else 0,
                factor=float(options["rescale_factor"]) if options["do_rescale"] else None,
                do_grayscale=options["do_grayscale"],
            )
            if len(places) == len(pixels):
                return [done]
            for i, one in zip(places, done, strict=True):
                results[i] = one
        return results


class OnHost(Processor):
    """The steps as Pillow computes them: it resizes bytes, rescales and makes gray. Nothing is compiled."""

    backend = "pil"

    def _processed(
        self, pixels: list[np.ndarray], sizes: list[tuple[int, int]], options: Mapping[str, Any]
    ) -> list[Any]:
        results = []
        for image, size in zip(pixels, sizes, strict=True):
            if options["do_resize"]:
                image = resize_on_host(image, size, int(options["resample"]))
            if options["do_rescale"]:
                image = scaled(image, float(options["rescale_factor"]))
            results.append(gray_on_host(image) if options["do_grayscale"] else image)
        return results


class Detection(Processor):
    """What the processors of SuperPoint add."""

    saved_name = "SuperPointImageProcessor"

    def post_process_keypoint_detection(self, outputs: Any, target_sizes: Any) -> list[dict[str, Any]]:
        """Keypoints in whole pixels of the original images: see `outputs.post_process`."""
        return post_process(outputs, target_sizes)


class SuperPointImageProcessor(OnDevice, Detection):
    """The processor that computes as torchvision does: gray, then an antialiased resize, on the device.

    It is jitted and compiles once per image size. The filters are nearest, bilinear, bicubic and Lanczos. The old name
    of this class is `SuperPointImageProcessorFast`.

    Source: transformers' class of that name; within one gray level of it, tests/parity/test_transformers_suite.py.
    """


class SuperPointImageProcessorFast(SuperPointImageProcessor):
    """The old name of `SuperPointImageProcessor`."""


class SuperPointImageProcessorPil(OnHost, Detection):
    """The processor that uses Pillow on the host: it resizes bytes, rescales and makes gray. Nothing is compiled.

    Source: transformers' class of that name; equal in every bit without gray, and within an ulp with it,
    tests/parity/test_transformers_suite.py.
    """
