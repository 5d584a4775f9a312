"""Training of SuperPoint: its step, which `superpoint_jax.training.runs` repeats.

The state is a pytree. A step is one jitted function of (state, photos), which draws its data from the seed and the
number of the step. So a run that resumes from a checkpoint gives bitwise the same result as one without interruption.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Float

from superpoint_jax.description import sample_descriptors
from superpoint_jax.features import DenseFeatures
from superpoint_jax.geometry import PRNGKey, exact_product, inverse
from superpoint_jax.model import SuperPoint
from superpoint_jax.sharding import vary_like
from superpoint_jax.training.augmentation import photometric
from superpoint_jax.training.labelled import Photos
from superpoint_jax.training.layers import for_training
from superpoint_jax.training.losses import corner_targets, descriptor_hinge_loss, detector_loss, info_nce_loss
from superpoint_jax.training.pairs import Pairs, sample_pairs
from superpoint_jax.training.refinement.head import without_head
from superpoint_jax.training.run_config import TrainConfig as TrainConfig
from superpoint_jax.training.runs import (
    DATA,
    TrainState,
    data_mesh,
    initial_state,
    replicated,
    run_steps,
    updated,
    with_parameters,
)
from superpoint_jax.training.synthetic import render_shapes

MAX_LOG_SCALE = math.log(100.0)
"""Limit of the learned inverse temperature, 100 as in CLIP; beyond it, single pairs dominate the gradient."""


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """The optimiser: clipping, then AdamW with a one-cycle cosine schedule and weight decay only on kernels."""
    schedule = optax.cosine_onecycle_schedule(
        config.steps, config.learning_rate, pct_start=config.warmup, div_factor=25, final_div_factor=100
    )
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            schedule, weight_decay=config.weight_decay, mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
        ),
    )


def create_state(model: SuperPoint, config: TrainConfig) -> TrainState:
    """The initial state of a run that starts from the weights of the model.

    Its parameters are {"model": those of the model, "log_scale": logarithm of InfoNCE's inverse temperature}.
    """
    params = {"model": nnx.state(model, nnx.Param), "log_scale": jnp.asarray(math.log(20.0), jnp.float32)}
    return initial_state(params, make_optimizer(config))


def trained_model(model: SuperPoint, state: TrainState) -> SuperPoint:
    """The model with the averaged weights of the run."""
    return with_parameters(model, state.ema["model"])


@partial(jax.jit, static_argnames=("config", "mesh"), donate_argnames=("state",))
def train_step(
    state: TrainState, model: SuperPoint, photos: Photos | None, *, config: TrainConfig, mesh: Mesh | None = None
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """The new state and the metrics after one optimiser step on data drawn from (seed, step).

    `model` gives the structure and what is not trained (running statistics); its parameters are not read. `mesh` comes
    from `data_mesh`; the arguments are replicated over it, and the micro-batches are divided among its devices.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    gradient, metrics = mean_gradient(state.params, model, photos, key, config=config, mesh=mesh)
    metrics["gradient_norm"] = optax.tree.norm(gradient)
    return updated(state, gradient, make_optimizer(config), ema_decay=config.ema_decay), metrics


def mean_gradient(
    params: dict[str, Any],
    model: SuperPoint,
    photos: Photos | None,
    key: PRNGKey,
    *,
    config: TrainConfig,
    mesh: Mesh | None = None,
) -> tuple[dict[str, Any], dict[str, Float[Array, ""]]]:
    """Gradient and metrics of a step, as means over its `config.accumulate` micro-batches.

    Micro-batch i is drawn from `fold_in(key, i)`; if there is only one, it is drawn from `key`. Each device computes
    its micro-batches one after the other; with a `mesh`, that is `config.accumulate / mesh.size` per device.
    """
    graph, _, rest = nnx.split(model, nnx.Param, ...)

    def of_batch(params: Any, rest: Any, photos: Photos | None, key: Array) -> tuple[dict[str, Any], dict[str, Array]]:
        def loss_of(params: dict[str, Any]) -> tuple[Array, dict[str, Array]]:
            return _loss(nnx.merge(graph, params["model"], rest), params["log_scale"], key, photos, config)

        (_, metrics), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
        return gradient, metrics

    if config.accumulate == 1:
        return of_batch(params, rest, photos, key)

    def total_of(params: Any, rest: Any, photos: Photos | None, key: Array) -> Any:
        indices = jnp.arange(config.accumulate)
        if mesh is not None:
            # Each device sums its gradients, before one sum over the mesh.
            device = jax.lax.axis_index(DATA)
            params, rest, photos, key = vary_like((params, rest, photos, key), device)
            indices = device * len(indices) // mesh.size + indices[: len(indices) // mesh.size]

        def add(total: Any, index: Array) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, of_batch(params, rest, photos, jax.random.fold_in(key, index))), None

        leaves = jax.eval_shape(of_batch, params, rest, photos, key)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), leaves)
        total, _ = jax.lax.scan(add, vary_like(zeros, indices), indices)
        return total if mesh is None else jax.lax.psum(total, DATA)

    if mesh is not None:
        total_of = jax.shard_map(total_of, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec())
    total = total_of(params, rest, photos, key)
    return jax.tree.map(lambda leaf: leaf / config.accumulate, total)


def _loss(
    model: SuperPoint, log_scale: Array, key: Array, photos: Photos | None, config: TrainConfig
) -> tuple[Array, dict[str, Array]]:
    pair_key, shape_key = jax.random.split(key)
    parts, pairs = [], None
    if config.photos:
        assert photos is not None
        pairs = sample_pairs(pair_key, photos, config.photos, config=config.pairs)
        parts.append((pairs.images, pairs.targets, pairs.valid_cells))
    if config.shapes:
        parts.append(_synthetic_part(shape_key, config))
    images, targets, valid = (jnp.concatenate(column) for column in zip(*parts, strict=True))
    # The data does not depend on the parameters, so nothing is differentiated through the warps.
    images, targets = jax.lax.stop_gradient((images, targets))
    dense = model(images, dtype=config.dtype)
    detector = detector_loss(dense.logits, targets, valid)
    metrics = {"loss": detector, "detector": detector}
    if pairs is not None:
        descriptor, accuracy = _descriptor_loss(dense, pairs, log_scale, config)
        metrics |= {
            "loss": detector + config.descriptor_weight * descriptor,
            "descriptor": descriptor,
            "accuracy": accuracy,
            "inverse_temperature": jnp.exp(log_scale),
        }
    return metrics["loss"], metrics


def _synthetic_part(key: Array, config: TrainConfig) -> tuple[Array, Array, Array]:
    draw_key, light_key = jax.random.split(key)
    shape = config.pairs.shape
    shapes = render_shapes(draw_key, batch=config.shapes, shape=shape)
    images = photometric(light_key, shapes.images, strength=config.pairs.strength)
    targets = corner_targets(shapes.corners_xy, shapes.corners_mask.astype(jnp.float32), shape)
    return images, targets, jnp.ones(targets.shape[:3], bool)


def _descriptor_loss(dense: DenseFeatures, pairs: Pairs, log_scale: Array, config: TrainConfig) -> tuple[Array, Array]:
    batch = pairs.points_mask.shape[0]
    if config.descriptor_loss == "hinge":
        between = exact_product(pairs.homographies[batch:], inverse(pairs.homographies[:batch]))
        maps, valid = dense.descriptors, pairs.valid_cells[batch : 2 * batch]
        return descriptor_hinge_loss(maps[:batch], maps[batch : 2 * batch], between, valid), jnp.zeros(())
    sizes = jnp.broadcast_to(jnp.array(pairs.images.shape[1:3], jnp.int32), (2 * batch, 2))
    mask = jnp.concatenate([pairs.points_mask, pairs.points_mask])
    sampled = sample_descriptors(dense.descriptors[: 2 * batch], pairs.points, mask, sizes, rule="centered")
    return info_nce_loss(
        sampled[:batch],
        sampled[batch:],
        pairs.points[:batch],
        pairs.points[batch:],
        pairs.points_mask,
        inverse_temperature=jnp.exp(jnp.minimum(log_scale, MAX_LOG_SCALE)),
    )


def train(
    model: SuperPoint,
    photos: Photos | None,
    folder: str | Path,
    *,
    config: TrainConfig,
    validate: Callable[[SuperPoint], dict[str, float]] | None = None,
    devices: Sequence[Any] | None = None,
    **options: Any,
) -> SuperPoint:
    """The trained model (averaged weights); see `run_steps`, also for what is written to the folder.

    Args:
        model: The model that training starts from. A refinement head is left out, because it was trained for the
            keypoints of this model: train another one afterwards (see `superpoint_jax.training.refinement`).
        photos: Labelled photos; None if `config.photos` is 0.
        folder: Folder of the run.
        config: Configuration of the run.
        validate: Maps the averaged model to metrics, which are written to metrics.csv.
        devices: `jax.Device`s to choose from; by default all of this process. The largest number that divides
            `config.accumulate` is used.
        **options: Options of `run_steps`: `log_every`, `checkpoint_every`, `validate_every`, `stop_after`.

    Raises:
        Diverged, OSError, ValueError: As `run_steps`.
    """
    model = without_head(model)
    mesh = data_mesh(config.accumulate, devices)
    state = create_state(model, config)
    state, network, placed = replicated((state, for_training(model), photos), mesh)
    return run_steps(
        model,
        state,
        lambda state: train_step(state, network, placed, config=config, mesh=mesh),
        folder,
        config=config,
        data=photos,
        trained=trained_model,
        validate=validate,
        **options,
    )
