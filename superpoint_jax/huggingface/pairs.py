"""The processors for pairs of images under transformers' names: LightGlue's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from superpoint_jax.huggingface.arrays import is_torch, to_like, to_numpy
from superpoint_jax.huggingface.inputs import as_channels_first, flat_images
from superpoint_jax.huggingface.options import DEFAULTS
from superpoint_jax.huggingface.processor import Processor
from superpoint_jax.huggingface.processors import OnDevice, OnHost
from superpoint_jax.huggingface.steps import gray_of


def flat_pairs(images: Any) -> list[Any]:
    """The images of one pair [a, b] or of a list of pairs [[a, b], ...], as a flat list.

    Raises:
        ValueError: The images are something else.
    """
    if isinstance(images, list | tuple) and images:
        pairs = images if all(isinstance(pair, list | tuple) for pair in images) else [images]
        if all(len(pair) == 2 and not any(isinstance(image, list | tuple) for image in pair) for pair in pairs):
            return [image for pair in pairs for image in flat_images(pair)]
    raise ValueError("images must be a pair [a, b], or a list of pairs [[a, b], ...]")


class Pairs(Processor):
    """What the processors of LightGlue add."""

    saved_name = "LightGlueImageProcessor"
    defaults: ClassVar[Mapping[str, Any]] = {**DEFAULTS, "do_grayscale": True}

    def _flat(self, images: Any) -> list[Any]:
        return flat_pairs(images)

    def _arranged(self, pixel_values: Any) -> Any:
        if isinstance(pixel_values, list):
            raise ValueError(
                "the resized images have different sizes and don't fit into one array: give `size` a height and a width"
            )
        return pixel_values.reshape(-1, 2, *pixel_values.shape[1:])

    def post_process_keypoint_matching(
        self, outputs: Any, target_sizes: Any, threshold: float = 0.0
    ) -> list[dict[str, Any]]:
        """The matches in whole pixels of the original images, one dictionary per pair.

        Each has "keypoints0" and "keypoints1" int32 [M,2], truncated towards zero, and "matching_scores" [M]. The
        values are torch tensors if the outputs are, else numpy arrays.

        Args:
            outputs: What the model returned.
            target_sizes: (height, width) of the two original images of each pair: a list of pairs of pairs, or an
                array or tensor [B,2,2].
            threshold: The score of a match must be greater than this.

        Raises:
            ValueError: `target_sizes` is something else.

        Source: the method of transformers' processor; tests/parity/test_huggingface_lightglue.py.
        """
        sizes = np.asarray([[to_numpy(size) for size in pair] for pair in target_sizes])
        if sizes.shape != (len(outputs.mask), 2, 2):
            raise ValueError(
                f"target_sizes={target_sizes!r}; {len(outputs.mask)} pairs of (height, width) are needed, one for each "
                f"pair of images"
            )
        relative, mask = to_numpy(outputs.keypoints), to_numpy(outputs.mask) != 0
        keypoints = (relative * sizes[:, :, None, ::-1].astype(np.float32)).astype(np.int32)
        matches, scores = (to_numpy(values)[:, 0] for values in (outputs.matches, outputs.matching_scores))
        results = []
        for i in range(len(mask)):
            rows = np.flatnonzero(mask[i, 0] & (scores[i] > threshold) & (matches[i] >= 0))
            entry = {
                "keypoints0": keypoints[i, 0, rows],
                "keypoints1": keypoints[i, 1, matches[i, rows]],
                "matching_scores": scores[i, rows],
            }
            if is_torch(outputs.mask):
                entry = {name: to_like(values, outputs.mask) for name, values in entry.items()}
            results.append(entry)
        return results

    def visualize_keypoint_matching(self, images: Any, keypoint_matching_output: list[dict[str, Any]]) -> list[Any]:
        """A Pillow image for each pair: both images side by side with one line per match, redder for a lower score.

        Args:
            images: The pairs, as they were given to `preprocess`; values from 0 to 255.
            keypoint_matching_output: What `post_process_keypoint_matching` returned for them.
        """
        from PIL import Image, ImageDraw

        flat = [np.moveaxis(as_channels_first(image, None, True), 0, -1) for image in flat_pairs(images)]
        pictures = []
        for left, right, found in zip(flat[::2], flat[1::2], keypoint_matching_output, strict=True):
            shift = left.shape[1]
            canvas = np.zeros((max(len(left), len(right)), shift + right.shape[1], 3), np.uint8)
            canvas[: len(left), :shift], canvas[: len(right), shift:] = left, right
            picture = Image.fromarray(canvas)
            draw = ImageDraw.Draw(picture)
            starts = to_numpy(found["keypoints0"])
            ends = to_numpy(found["keypoints1"]) + np.array([shift, 0])
            for start, end, score in zip(
                starts.tolist(), ends.tolist(), to_numpy(found["matching_scores"]), strict=True
            ):
                draw.line([*start, *end], fill=(int(255 * (1 - score)), int(255 * score), 0), width=3)
                for x, y in (start, end):
                    draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill="black")
            pictures.append(picture)
        return pictures


class LightGlueImageProcessor(Pairs, OnDevice):
    """The processor that computes as torchvision does: an antialiased resize, then gray, on the device.

    It is jitted and compiles once per image size. Its gray has fractions of a level, and that of
    `SuperPointImageProcessor` has whole levels.

    Source: transformers' class of that name; tests/parity/test_huggingface_lightglue.py.
    """

    def _processed(
        self, pixels: list[np.ndarray], sizes: list[tuple[int, int]], options: Mapping[str, Any]
    ) -> list[Array]:
        done = super()._processed(pixels, sizes, {**options, "do_grayscale": False})
        return [_gray(jnp.asarray(values)) for values in done] if options["do_grayscale"] else done


class LightGlueImageProcessorFast(LightGlueImageProcessor):
    """The old name of `LightGlueImageProcessor`."""


class LightGlueImageProcessorPil(Pairs, OnHost):
    """The processor that uses Pillow on the host: it resizes bytes, rescales and makes gray. Nothing is compiled.

    Source: transformers' class of that name; tests/parity/test_huggingface_lightglue.py.
    """


@jax.jit
def _gray(images: Array) -> Array:
    """An image [C,H,W] or a batch [B,C,H,W] with equal channels."""
    if images.shape[-3] == 1:
        return images
    return gray_of(images, in_levels=False)
