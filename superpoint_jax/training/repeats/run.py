"""A training run of the second half of the network: its configuration, and the step."""

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

from superpoint_jax.model import SuperPoint
from superpoint_jax.training.layers import for_training
from superpoint_jax.training.repeats.losses import change, expected_repeats, matching, turn
from superpoint_jax.training.repeats.views import FIRST_BLOCKS, SharedViews
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

OUTSIDE = 0.05
"""Weight of a cell without a keypoint in the loss of the descriptors; that of one with a keypoint is 1 more."""


@dataclass(frozen=True, kw_only=True)
class RepeatsTrainConfig(AdamWConfig):
    """Configuration of a run; `batch` counts pairs. It is hashable, because it is a static argument of the step.

    Attributes:
        keypoints: Smallest and largest expected number of keypoints of a view; each pair of a step draws its own. A
            cell has at most one, so the largest can be no more than the cells of a view.
        distinct: How much of the value of a repeated keypoint depends on its descriptor: 0 nothing, 1 all of it.
        match: Weight of the descriptors' mismatch.
        anchor: Weight of the change of the detector's output, which keeps what it has learned.
        keep: Weight of the turn of the descriptors, which keeps a matcher valid that was trained for them.
    """

    steps: int = 900
    batch: int = 4
    keypoints: tuple[int, int] = (100, 1600)
    distinct: float = 0.7
    match: float = 0.15
    anchor: float = 0.15
    keep: float = 0.5
    learning_rate: float = 4e-4
    warmup: int = 50
    weight_decay: float = 1e-4
    ema_decay: float = 0.995

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.keypoints
        if not 1 <= low <= high:
            raise ValueError(f"keypoints={self.keypoints}; two numbers of at least 1 are needed, the smaller one first")
        if not 0 <= self.distinct <= 1:
            raise ValueError(f"distinct={self.distinct}; a number in [0, 1] is needed")


def check_options(config: RepeatsTrainConfig, rows: int, columns: int) -> None:
    """Raise a ValueError for more keypoints than a view has cells."""
    if config.keypoints[1] > rows * columns:
        raise ValueError(f"keypoints={config.keypoints}; a view has {rows}x{columns} cells, each with one at most")


def second_half(
    model: SuperPoint, features: Float[Array, "b h4 w4 c"]
) -> tuple[Float[Array, "b hc wc 65"], Float[Array, "b hc wc d"]]:
    """Logits and descriptors, from the output of the encoder's first `FIRST_BLOCKS` blocks."""
    for block in model.encoder.conv_blocks[FIRST_BLOCKS:]:
        features = block(features)
    return model.keypoint_decoder(features), model.descriptor_decoder(features)


def trained_part(model: SuperPoint) -> Any:
    """The parameters that are trained: those of the second half."""

    def is_trained(path: tuple[Any, ...], leaf: Any) -> bool:
        later = path[0] in ("keypoint_decoder", "descriptor_decoder") or (
            path[0] == "encoder" and path[2] >= FIRST_BLOCKS
        )
        return later and isinstance(leaf, nnx.Param)

    return nnx.state(model, is_trained)


@partial(jax.jit, static_argnames=("config", "mesh"), donate_argnames="state")
def train_step(
    state: TrainState,
    model: SuperPoint,
    views: SharedViews,
    *,
    config: RepeatsTrainConfig,
    mesh: Mesh | None = None,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """The new state and the metrics after one optimiser step on pairs drawn from (seed, step).

    `model` is what the run started from, and its output is the anchor. The arguments are replicated over the `mesh`,
    and the pairs of the step are divided among its devices.
    """
    row_key, count_key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), state.step))
    rows = jax.random.randint(row_key, (config.batch,), 0, len(views))
    low, high = config.keypoints
    counts = jax.random.uniform(count_key, (config.batch,), minval=low, maxval=high)
    batch, counts = divided((jax.tree.map(lambda leaf: leaf[rows], views), counts), mesh)
    features = batch.features.astype(jnp.float32).reshape(-1, *batch.features.shape[2:])
    whole = batch.whole.reshape(-1, *batch.whole.shape[2:])
    logits_before, descriptors_before = second_half(model, features)

    def by_pair(leaf: Array) -> Array:
        return leaf.reshape(config.batch, 2, *leaf.shape[1:])

    def loss_of(params: Any) -> tuple[Array, dict[str, Array]]:
        logits, descriptors = second_half(with_parameters(model, params), features)
        rule = model.rules.sampling_rule
        matched = matching(by_pair(logits), by_pair(descriptors), batch, rule=rule)
        repeats, cells = expected_repeats(by_pair(logits), matched.margins, batch, counts, distinct=config.distinct)
        weight = jnp.where(matched.seen, jax.lax.stop_gradient(cells) + OUTSIDE, 0)
        weight = weight / jnp.maximum(jnp.sum(weight), 1)
        metrics = {
            "repeats": jnp.mean(repeats),
            "mismatch": jnp.sum(weight * matched.mismatch),
            "matched": jnp.sum(weight * (matched.margins > 0)),
            "change": change(logits, logits_before, whole),
            "turn": turn(descriptors, descriptors_before, whole),
        }
        detector = config.anchor * metrics["change"] - metrics["repeats"]
        return detector + config.match * metrics["mismatch"] + config.keep * metrics["turn"], metrics

    (loss, metrics), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    metrics |= {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
    return updated(state, gradient, config.optimizer(), ema_decay=config.ema_decay), metrics


def train_repeats(
    model: SuperPoint,
    views: SharedViews,
    folder: str | Path,
    *,
    config: RepeatsTrainConfig,
    validate: Callable[[SuperPoint], dict[str, float]] | None = None,
    devices: Sequence[Any] | None = None,
    **options: Any,
) -> SuperPoint:
    """The model with the trained half (averaged weights); see `run_steps`, also for what is written to the folder.

    Args:
        model: What training starts from. Its refinement head stays; a new one was no better (docs/training.md).
        views: What this model sees of pairs of views: see `superpoint_jax.training.repeats.views`.
        folder: Folder of the run.
        config: Configuration of the run.
        validate: Maps the averaged model to metrics, which are written to metrics.csv.
        devices: `jax.Device`s to choose from; by default all of this process. The largest number that divides
            `config.batch` is used.
        **options: Options of `run_steps`: `log_every`, `checkpoint_every`, `validate_every`, `stop_after`.

    Raises:
        ValueError: The views are those of a network with another number of channels, or have fewer cells than the
            keypoints wanted; or as `run_steps`.
        Diverged, OSError: As `run_steps`.
    """
    channels = model.rules.encoder_hidden_sizes[FIRST_BLOCKS - 1]
    if (found := views.features.shape[-1]) != channels:
        raise ValueError(f"the views have {found} channels; the encoder of this model has {channels} there")
    rows, columns = views.whole.shape[-2:]
    check_options(config, rows, columns)
    mesh = data_mesh(config.batch, devices)
    state = initial_state(trained_part(model), config.optimizer())
    state, network, placed = replicated((state, for_training(model), views), mesh)
    return run_steps(
        model,
        state,
        lambda state: train_step(state, network, placed, config=config, mesh=mesh),
        folder,
        config=config,
        data=views,
        validate=validate,
        **options,
    )
