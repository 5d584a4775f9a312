"""A training run of the refinement head: its configuration, and the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float

from superpoint_jax.refinement import RefinementHead
from superpoint_jax.training.refinement.losses import mirrored, remaining_errors, reprojection_loss
from superpoint_jax.training.refinement.pairs import SharedKeypoints
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
class RefinementTrainConfig(AdamWConfig):
    """Configuration of a run; `batch` counts keypoints. It is hashable, because it is a static argument of the step."""

    steps: int = 16000
    batch: int = 256
    learning_rate: float = 3e-3
    warmup: int = 200
    weight_decay: float = 1e-3
    ema_decay: float = 0.998


@partial(jax.jit, static_argnames=("config", "mesh"), donate_argnames="state")
def train_step(
    state: TrainState,
    head: RefinementHead,
    keypoints: SharedKeypoints,
    *,
    config: RefinementTrainConfig,
    mesh: Mesh | None = None,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """The new state and the metrics after one optimiser step on keypoints drawn from (seed, step).

    `head` gives the structure; its parameters are not read. The arguments are replicated over the `mesh`, and the
    keypoints of the step are divided among its devices.
    """
    row_key, mirror_key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), state.step))
    rows = jax.random.randint(row_key, (config.batch,), 0, len(keypoints))
    batch = divided(mirrored(mirror_key, jax.tree.map(lambda leaf: leaf[rows], keypoints)), mesh)

    def loss_of(params: Any) -> Array:
        return reprojection_loss(remaining_errors(with_parameters(head, params), batch), batch.slopes)

    loss, gradient = jax.value_and_grad(loss_of)(state.params)
    metrics = {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
    return updated(state, gradient, config.optimizer(), ema_decay=config.ema_decay), metrics


def new_head(seed: int) -> RefinementHead:
    """A head with random weights."""
    return RefinementHead(rngs=nnx.Rngs(seed))


def train_refinement(
    head: RefinementHead,
    keypoints: SharedKeypoints,
    folder: str | Path,
    *,
    config: RefinementTrainConfig,
    validate: Callable[[RefinementHead], dict[str, float]] | None = None,
    devices: Sequence[Any] | None = None,
    **options: Any,
) -> RefinementHead:
    """The trained head (averaged weights); see `run_steps`, also for what is written to the folder.

    Args:
        head: What training starts from.
        keypoints: See `superpoint_jax.training.refinement.pairs`.
        folder: Folder of the run.
        config: Configuration of the run.
        validate: Maps the averaged head to metrics, which are written to metrics.csv.
        devices: `jax.Device`s to choose from; by default all of this process. The largest number that divides
            `config.batch` is used.
        **options: Options of `run_steps`: `log_every`, `checkpoint_every`, `validate_every`, `stop_after`.

    Raises:
        Diverged, OSError, ValueError: As `run_steps`.
    """
    mesh = data_mesh(config.batch, devices)
    state = initial_state(nnx.state(head, nnx.Param), config.optimizer())
    state, network, placed = replicated((state, head, keypoints), mesh)
    return run_steps(
        head,
        state,
        lambda state: train_step(state, network, placed, config=config, mesh=mesh),
        folder,
        config=config,
        data=keypoints,
        validate=validate,
        **options,
    )
