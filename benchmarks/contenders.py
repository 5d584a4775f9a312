"""Who is measured: each contender builds, from a suite and a setting, one call without arguments that does the work.

A contender runs in a process of its own (worker.py). A suite measures one thing: the dense network alone ("network"),
what comes after it ("decoding"), or both, from the array in memory to keypoints and descriptors ("end-to-end").
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Setting:
    """What is processed: `batch` photos of (height, width) and how many keypoints are kept of each."""

    batch: int
    height: int
    width: int
    max_keypoints: int


def photo(setting: Setting) -> np.ndarray:
    """A real photo as float32 [B,H,W,1] in [0, 1]: matplotlib's, resized."""
    from matplotlib.cbook import get_sample_data
    from PIL import Image

    with Image.open(str(get_sample_data("grace_hopper.jpg", asfileobj=False))) as image:
        gray = image.convert("L").resize((setting.width, setting.height), Image.Resampling.LANCZOS)
    array = np.asarray(gray, np.float32) / 255
    return np.ascontiguousarray(np.broadcast_to(array[None, :, :, None], (setting.batch, *array.shape, 1)))


def ours(suite: str, setting: Setting, dtype: str) -> Callable[[], Any]:
    """This library with its own weights."""
    import jax
    import jax.numpy as jnp

    import superpoint_jax as sp
    from superpoint_jax.extraction import decode

    model = sp.from_pretrained(max_keypoints=setting.max_keypoints, dtype=dtype)
    images = jnp.asarray(photo(setting))
    if suite == "end-to-end":
        return lambda: jax.block_until_ready(sp.extract(model, images))
    network = jax.jit(lambda model, images: model(images))
    if suite == "network":
        return lambda: jax.block_until_ready(network(model, images))
    dense = network(model, images)
    sizes = jnp.broadcast_to(jnp.array([setting.height, setting.width], jnp.int32), (setting.batch, 2))
    decoding = jax.jit(lambda dense, sizes: decode(dense, sizes, config=model.config))
    return lambda: jax.block_until_ready(decoding(dense, sizes))


def transformers(suite: str, setting: Setting, dtype: str) -> Callable[[], Any]:
    """Hugging Face's port in eager mode, as its documentation calls it, with the same weights."""
    if suite == "decoding":
        raise NotAvailable("transformers decodes inside its heads: not to be had alone")
    import tempfile

    import torch
    from transformers import SuperPointForKeypointDetection

    import superpoint_jax as sp

    with tempfile.TemporaryDirectory() as folder:
        # Its own preset: the one that transformers computes.
        sp.save_pretrained(sp.from_pretrained(config="huggingface"), Path(folder))
        model = SuperPointForKeypointDetection.from_pretrained(folder)
    model.config.max_keypoints = model.keypoint_decoder.max_keypoints = setting.max_keypoints
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = getattr(torch, dtype)
    model = model.eval().to(device=device, dtype=kind)  # pyright: ignore[reportCallIssue, reportArgumentType]
    images = torch.from_numpy(photo(setting)).permute(0, 3, 1, 2).to(device, kind).contiguous()
    three = images.expand(-1, 3, -1, -1)

    def finished(outputs: Any) -> Any:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return outputs

    def network() -> Any:
        encoded = model.encoder(images).last_hidden_state
        decoder, describer = model.keypoint_decoder, model.descriptor_decoder
        logits = decoder.conv_score_b(decoder.relu(decoder.conv_score_a(encoded)))
        return logits, describer.conv_descriptor_b(describer.relu(describer.conv_descriptor_a(encoded)))

    @torch.no_grad()
    def call() -> Any:
        return finished(network() if suite == "network" else model(three))

    return call


class NotAvailable(Exception):
    """A contender that cannot take part, and why."""


CONTENDERS: dict[str, tuple[str, Callable[[str, Setting], Callable[[], Any]]]] = {
    "superpoint_jax float32": ("jax", lambda suite, setting: ours(suite, setting, "float32")),
    "superpoint_jax bfloat16": ("jax", lambda suite, setting: ours(suite, setting, "bfloat16")),
    "transformers float32": ("transformers", lambda suite, setting: transformers(suite, setting, "float32")),
}
"""Name -> (package that it needs, builder). The last is what ratios are taken against."""


def missing(name: str) -> str | None:
    """The package that a contender lacks here, if any."""
    package = CONTENDERS[name][0]
    return None if importlib.util.find_spec(package) else package
