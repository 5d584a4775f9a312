"""A training run of the detector's head: its configuration, and the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float

from superpoint_jax.model import KeypointDecoder, SuperPoint
from superpoint_jax.training.detector.losses import change, expected_repeats
from superpoint_jax.training.detector.views import SharedViews
from superpoint_jax.training.runs import (
    AdamWConfig,
    TrainState,
    data_mesh,
    divided,
    initial_state,
    replicated,
    run_steps,
    updated,
    with_parameters,
)


@dataclass(frozen=True, kw_only=True)
class DetectorTrainConfig(AdamWConfig):
    """Configuration of a run; `batch` counts pairs. It is hashable, because it is a static argument of the step.

    Attributes:
        keypoints: Smallest and largest expected number of keypoints of a view; each pair of a step draws its own.
        distinct: How much of the value of a repeated keypoint depends on its descriptor: 0 nothing, 1 all of it.
        anchor: Weight of the change of the network's output, which keeps what it has learned.
    """

    steps: int = 2500
    batch: int = 4
    keypoints: tuple[int, int] = (100, 1000)
    distinct: float = 0.7
    anchor: float = 0.15
    learning_rate: float = 5e-4
    warmup: int = 50
    weight_decay: float = 1e-4
    ema_decay: float = 0.997

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.keypoints
        if not 1 <= low <= high:
            raise ValueError(f"keypoints={self.keypoints}; two numbers of at least 1 are needed, the smaller one first")


@partial(jax.jit, static_argnames=("config", "mesh"), donate_argnames="state")
def train_step(
    state: TrainState,
    head: KeypointDecoder,
    views: SharedViews,
    *,
    config: DetectorTrainConfig,
    mesh: Mesh | None = None,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """The new state and the metrics after one optimiser step on pairs drawn from (seed, step).

    `head` is what the run started from, and its output is the anchor. The arguments are replicated over the `mesh`, and
    the pairs of the step are divided among its devices.
    """
    row_key, count_key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), state.step))
    rows = jax.random.randint(row_key, (config.batch,), 0, len(views))
    low, high = config.keypoints
    counts = jax.random.uniform(count_key, (config.batch,), minval=low, maxval=high)
    batch, counts = divided((jax.tree.map(lambda leaf: leaf[rows], views), counts), mesh)
    encoded = batch.encoded.astype(jnp.float32).reshape(-1, *batch.encoded.shape[2:])
    whole = batch.whole.reshape(-1, *batch.whole.shape[2:])
    before = head(encoded)

    def loss_of(params: Any) -> tuple[Array, dict[str, Array]]:
        logits = with_parameters(head, params)(encoded)
        by_pair = logits.reshape(config.batch, 2, *logits.shape[1:])
        repeats = jnp.mean(expected_repeats(by_pair, batch, counts, distinct=config.distinct))
        changed = change(logits, before, whole)
        return config.anchor * changed - repeats, {"repeats": repeats, "change": changed}

    (loss, metrics), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    metrics |= {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
    return updated(state, gradient, config.optimizer(), ema_decay=config.ema_decay), metrics


def with_detector(model: SuperPoint, params: Any) -> SuperPoint:
    """The model with other parameters of its detector's head."""
    model = nnx.clone(model)
    nnx.update(model.keypoint_decoder, params)
    return model


def train_detector(
    model: SuperPoint,
    views: SharedViews,
    folder: str | Path,
    *,
    config: DetectorTrainConfig,
    validate: Callable[[SuperPoint], dict[str, float]] | None = None,
    devices: Sequence[Any] | None = None,
    **options: Any,
) -> SuperPoint:
    """The model with the trained head (averaged weights); see `run_steps`, also for what is written to the folder.

    Args:
        model: What training starts from.
        views: What this model sees of pairs of views: see `superpoint_jax.training.detector.views`.
        folder: Folder of the run.
        config: Configuration of the run.
        validate: Maps the model with the averaged head to metrics, which are written to metrics.csv.
        devices: `jax.Device`s to choose from; by default all of this process. The largest number that divides
            `config.batch` is used.
        **options: Options of `run_steps`: `log_every`, `checkpoint_every`, `validate_every`, `stop_after`.

    Raises:
        ValueError: The views are those of a network with another number of channels; or as `run_steps`.
        Diverged, OSError: As `run_steps`.
    """
    channels = model.rules.encoder_hidden_sizes[-1]
    if (found := views.encoded.shape[-1]) != channels:
        raise ValueError(f"the views have {found} channels; the encoder of this model has {channels}")
    mesh = data_mesh(config.batch, devices)
    state = initial_state(nnx.state(model.keypoint_decoder, nnx.Param), config.optimizer())
    state, head, placed = replicated((state, model.keypoint_decoder, views), mesh)
    return run_steps(
        model,
        state,
        lambda state: train_step(state, head, placed, config=config, mesh=mesh),
        folder,
        config=config,
        data=views,
        trained=lambda model, state: with_detector(model, state.ema),
        validate=validate,
        **options,
    )
