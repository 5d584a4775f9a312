"""The configuration of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import jax

from superpoint_jax.config import ComputeDtype
from superpoint_jax.training.pairs import PairConfig


def fastest_dtype() -> ComputeDtype:
    """The faster compute type: bfloat16 on an accelerator, float32 on a CPU, where XLA only emulates bfloat16."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Configuration of a run. It is hashable, because it is a static argument of the step.

    Attributes:
        steps: Length of the run, in optimiser steps.
        photos: Photos per micro-batch, with two views each; 0 trains the detector on synthetic shapes only
            (MagicPoint).
        shapes: Images of synthetic shapes per micro-batch.
        pairs: How views are drawn; its `shape` is also that of the synthetic images.
        learning_rate: Peak of the one-cycle schedule.
        warmup: Fraction of the steps before the peak.
        weight_decay: Weight decay of AdamW, on kernels.
        clip_norm: Largest norm of the gradient.
        ema_decay: Decay of the running average of the weights, which is validated and saved.
        descriptor_loss: "info_nce", or the paper's "hinge".
        descriptor_weight: Weight of the descriptor loss; that of the detector loss is 1.
        dtype: Compute type; the weights and the optimiser are float32. By default the faster one on this platform.
        seed: Seed of everything that is drawn.
        accumulate: Micro-batches per step; the mean of their gradients is applied. They are divided among the devices,
            whose number does not change what a step computes.
    """

    steps: int = 5000
    photos: int = 8
    shapes: int = 2
    pairs: PairConfig = field(default_factory=PairConfig)
    learning_rate: float = 1.2e-3
    warmup: float = 0.1
    weight_decay: float = 1e-4
    clip_norm: float = 5.0
    ema_decay: float = 0.998
    descriptor_loss: Literal["info_nce", "hinge"] = "info_nce"
    descriptor_weight: float = 0.5
    dtype: ComputeDtype = field(default_factory=fastest_dtype)
    seed: int = 0
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ValueError(f"accumulate={self.accumulate}; a step needs at least one micro-batch")
