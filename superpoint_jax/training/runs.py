"""The loop around a training step: checkpoints, resumption, metrics and validation. It serves every network."""

from __future__ import annotations

import errno
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float
from tqdm import tqdm

from superpoint_jax.training.metrics import Metrics
from superpoint_jax.training.resuming import check_same_run, restored, save, set_damaged_aside

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nnx.Module)
Tree = TypeVar("Tree")

DATA = "data"
"""Name of the mesh axis over which the data of a step is divided."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that changes during a run. The types are loose, because Orbax puts None in the place of arrays.

    Attributes:
        params: The parameters that are trained.
        ema: Running average of `params`.
        optimizer: State of the optimiser.
        step: Number of steps done, int32 [].
    """

    params: Any
    ema: Any
    optimizer: Any
    step: Any


class Diverged(FloatingPointError):
    """The loss or its gradient is no longer finite."""


def initial_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state of a run that starts from these parameters."""
    params = jax.tree.map(jnp.copy, params)
    return TrainState(
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        optimizer=optimizer.init(params),
        step=jnp.zeros((), jnp.int32),
    )


@dataclass(frozen=True, kw_only=True)
class AdamWConfig:
    """The optimiser of a run: clipping, then AdamW; the learning rate rises, and then falls to 0 as a cosine.

    Attributes:
        steps: Length of the run, in optimiser steps.
        batch: Items of the data per step. They are divided among the devices.
        learning_rate: Largest learning rate.
        warmup: Steps in which the learning rate rises.
        weight_decay: Weight decay, on kernels.
        clip_norm: Largest norm of the gradient.
        ema_decay: Decay of the running average of the weights, which is validated and saved.
        seed: Seed of everything that is drawn.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int
    weight_decay: float
    clip_norm: float = 1.0
    ema_decay: float
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; at least 1 is needed")

    def optimizer(self) -> optax.GradientTransformation:
        """The optimiser."""
        cosine = optax.cosine_decay_schedule(self.learning_rate, self.steps)
        return optax.chain(
            optax.clip_by_global_norm(self.clip_norm),
            optax.adamw(
                lambda step: jnp.minimum((step + 1) / max(self.warmup, 1), 1) * cosine(step),
                weight_decay=self.weight_decay,
                mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
            ),
        )


def updated(
    state: TrainState, gradient: Any, optimizer: optax.GradientTransformation, *, ema_decay: float
) -> TrainState:
    """The state after one step of the optimiser."""
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    # With the full decay, early averages would be dominated by the initial weights.
    decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
    ema = jax.tree.map(lambda average, new: decay * average + (1 - decay) * new, state.ema, params)
    return TrainState(params=params, ema=ema, optimizer=optimizer_state, step=state.step + 1)


def data_mesh(parts: int, devices: Sequence[Any] | None = None) -> Mesh | None:
    """A mesh of the largest number of devices that divides the parts of a step evenly; None for one device.

    Args:
        parts: Number of equal parts that the data of a step has.
        devices: `jax.Device`s to choose from; by default all of this process.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    count = max(n for n in range(1, len(devices) + 1) if parts % n == 0)
    if count < len(devices):
        log.info(
            "%d of %d devices train, so that the %d parts of a step are divided evenly", count, len(devices), parts
        )
    return Mesh(np.array(devices[:count]), (DATA,)) if count > 1 else None


def with_parameters(model: Model, params: Any) -> Model:
    """The model with other values of the given parameters, which may be a part; what is not trained is its own."""
    model = nnx.clone(model)
    nnx.update(model, params)
    return model


def averaged(model: Model, state: TrainState) -> Model:
    """The model with the averaged weights of a run whose parameters are only those of the model, or a part of them."""
    return with_parameters(model, state.ema)


def replicated(tree: Tree, mesh: Mesh | None) -> Tree:
    """The arrays on every device of the mesh, or on the default device."""
    place = jnp.asarray if mesh is None else partial(jax.device_put, device=NamedSharding(mesh, PartitionSpec()))
    return jax.tree.map(place, tree)


def divided(tree: Tree, mesh: Mesh | None) -> Tree:
    """Inside `jit`: the arrays, whose first axes are divided among the devices of the mesh."""
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec(DATA)))


def run_steps(
    model: Model,
    state: TrainState,
    step: Callable[[TrainState], tuple[TrainState, dict[str, Float[Array, ""]]]],
    folder: str | Path,
    *,
    config: Any,
    data: Any,
    trained: Callable[[Model, TrainState], Model] = averaged,
    validate: Callable[[Model], dict[str, float]] | None = None,
    log_every: int = 20,
    checkpoint_every: int = 250,
    validate_every: int = 1000,
    stop_after: int | None = None,
) -> Model:
    """The network after the steps of a run; resumes from the newest whole checkpoint in `folder` if there is one.

    Writes `checkpoints/` (Orbax, the newest two), `metrics.csv`, and `tensorboard/` if tensorboardX is installed.

    Args:
        model: The network that the run starts from.
        state: The state before the first step, with the sharding that a restored state shall have.
        step: The step; its metrics have "loss" and "gradient_norm". It draws its data from the number of the step.
        folder: Folder of the run.
        config: Configuration of the run, a dataclass with `steps`, `learning_rate` and `clip_norm`.
        data: What it is trained on: a pytree of arrays, or None. They are only compared with those of the run so far.
        trained: The network in a state: the first one with the averaged weights.
        validate: Maps that network to metrics, which are written to metrics.csv.
        log_every: Steps between rows of metrics.csv.
        checkpoint_every: Steps between checkpoints.
        validate_every: Steps between validations.
        stop_after: End at this step of the schedule; another call without it continues.

    Raises:
        Diverged: The loss or its gradient is not finite; the newest checkpoint is from an earlier step.
        OSError: The disk is full; the newest checkpoint is from an earlier step, and the same call continues.
        ValueError: The folder contains a run with another configuration, other first weights or other data; or none of
            its checkpoints can be read.
    """
    import orbax.checkpoint as ocp

    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    check_same_run(folder, config, model, data)
    set_damaged_aside(folder / "checkpoints")
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    with _told_of_a_full_disk(folder), ocp.CheckpointManager(folder / "checkpoints", options=options) as manager:
        state = restored(manager, state)
        table = Metrics(folder, int(state.step))
        progress = tqdm(total=config.steps, initial=int(state.step), unit="step", desc=folder.name, mininterval=5)
        started, counted = time.perf_counter(), 0
        last = config.steps if stop_after is None else min(stop_after, config.steps)
        for number in range(int(state.step) + 1, last + 1):
            state, metrics = step(state)
            counted += 1
            progress.update()
            shown, saved = number % log_every == 0 or number == last, number % checkpoint_every == 0 or number == last
            if shown or saved:
                row = {name: float(value) for name, value in metrics.items()}
                if not (math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"])):
                    raise Diverged(
                        f"the loss is {row['loss']} at step {number}, its gradient's norm {row['gradient_norm']}; the "
                        f"last good checkpoint is {manager.latest_step()} in {folder / 'checkpoints'}. Lower "
                        f"learning_rate (now {config.learning_rate}) or clip_norm (now {config.clip_norm})"
                    )
            if shown:
                row["steps_per_s"] = counted / (time.perf_counter() - started)
                started, counted = time.perf_counter(), 0
                table.add(number, row)
                progress.set_postfix({name: f"{row[name]:.3f}" for name in ("loss", "accuracy") if name in row})
            if validate is not None and (number % validate_every == 0 or number == last):
                found = validate(trained(model, state))
                table.add(number, {f"validation_{name}": value for name, value in found.items()})
                started, counted = time.perf_counter(), 0
            if saved:
                save(manager, number, state)
        progress.close()
        table.close()
    return trained(model, state)


@contextmanager
def _told_of_a_full_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Orbax wraps the error in several kinds of errors, which only have the text in common.
        if "No space left on device" not in str(error):
            raise
        raise OSError(
            errno.ENOSPC,
            "no space left on the disk; make room, and the same command continues from the last good checkpoint",
            str(folder),
        ) from error
