"""A training run of LightGlue: its configuration, the step, and the network that it starts from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float

from superpoint_jax.config import ComputeDtype
from superpoint_jax.lightglue import LightGlue
from superpoint_jax.training.matcher.losses import every_layer_loss, truth_of
from superpoint_jax.training.matcher.pairs import MatchingPairs
from superpoint_jax.training.run_config import fastest_dtype
from superpoint_jax.training.runs import (
    TrainState,
    data_mesh,
    divided,
    initial_state,
    replicated,
    run_steps,
    updated,
    with_parameters,
)

PROJECTION = "input_projection"


@dataclass(frozen=True, kw_only=True)
class MatcherTrainConfig:
    """Configuration of a run. It is hashable, because it is a static argument of the step.

    Attributes:
        steps: Length of the run, in optimiser steps.
        batch: Pairs per step. They are divided among the devices.
        max_keypoints: Keypoints per image, those with the best scores.
        learning_rate: Largest learning rate; it falls to 0 as a cosine.
        new_learning_rate: The same for a new projection of the descriptors, which a run has when it starts from weights
            for descriptors of another length.
        new_steps: Steps in which only a new projection is trained; without one, the learning rate rises in these steps.
        layer_decay: Weight of the loss of a layer, relative to that of the next.
        match_px: Largest distance between partners, in pixels.
        no_match_px: A keypoint without any other within this distance of its true position has no partner.
        weight_decay: Weight decay of AdamW, on kernels.
        clip_norm: Largest norm of the gradient.
        ema_decay: Decay of the running average of the weights, which is validated and saved.
        dtype: Compute type of attention and linear maps; the weights and the optimiser are float32.
        seed: Seed of everything that is drawn.
    """

    steps: int = 2000
    batch: int = 6
    max_keypoints: int = 256
    learning_rate: float = 1e-4
    new_learning_rate: float = 1e-3
    new_steps: int = 150
    layer_decay: float = 0.8
    match_px: float = 3.0
    no_match_px: float = 5.0
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    ema_decay: float = 0.995
    dtype: ComputeDtype = field(default_factory=fastest_dtype)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "max_keypoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; at least 1 is needed")


class Start(NamedTuple):
    """The network that a run starts from, and whether the projection of its descriptors is new."""

    model: LightGlue
    new_projection: bool


def start_from(source: str | Path | None, *, descriptor_length: int, layers: int | None = None, seed: int = 0) -> Start:
    """The network that a run starts from, with the first layers of a source, for descriptors of a length.

    If the source takes descriptors of another length, it gets a new projection: orthogonal, so that distances between
    descriptors are kept, and scaled so that the first states have the mean length that the old ones had.

    Args:
        source: Anything that `LightGlue.from_pretrained` takes; None for the matcher in the package.
        descriptor_length: Length of the extractor's descriptors.
        layers: Number of layers that are kept; by default all.
        seed: Seed of the new projection.

    Raises:
        ValueError: The source has fewer layers.
    """
    old = LightGlue.from_pretrained(source)
    count = old.rules.num_hidden_layers if layers is None else layers
    if not 1 <= count <= old.rules.num_hidden_layers:
        raise ValueError(f"layers={layers}; the network of {source} has {old.rules.num_hidden_layers}")
    fits = old.rules.input_dim == descriptor_length
    config = old.config.replace(
        input_dim=descriptor_length,
        num_hidden_layers=count,
        input_projection=old.rules.input_projection or not fits,
    )
    model = LightGlue(config, rngs=nnx.Rngs(seed))
    own = dict(nnx.to_flat_state(nnx.state(old, nnx.Param)))
    values = nnx.to_flat_state(nnx.state(model, nnx.Param))
    kept = {
        path: leaf.replace(own[path][...][: leaf.shape[0]])
        for path, leaf in values
        if path in own and (path[0] != PROJECTION or fits)
    }
    nnx.update(model, nnx.from_flat_state(list(kept.items())))
    if not fits and (projection := model.input_projection) is not None:
        _fill(projection, old, jax.random.key(seed))
    return Start(model, not fits)


def _fill(projection: nnx.Linear, old: LightGlue, key: Array) -> None:
    """Set a new projection of descriptors to states."""
    random = jax.random.normal(key, (1024, old.rules.input_dim))
    first = random / jnp.linalg.norm(random, axis=-1, keepdims=True)
    if (before := old.input_projection) is not None:
        first = before(first)
        if projection.bias is not None and before.bias is not None:
            projection.bias[...] = before.bias[...]
    kernel = projection.kernel[...]
    orthogonal = jax.nn.initializers.orthogonal()(key, kernel.shape, kernel.dtype)
    projection.kernel[...] = jnp.mean(jnp.linalg.norm(first, axis=-1)) * orthogonal


def make_optimizer(config: MatcherTrainConfig, *, new_projection: bool) -> optax.GradientTransformation:
    """The optimiser: clipping, then AdamW with weight decay on kernels; a new projection has its own learning rate."""

    def adamw(peak: float, ramp: Callable[[Array], Array | float]) -> optax.GradientTransformation:
        cosine = optax.cosine_decay_schedule(peak, config.steps)
        kernels = _by_path(lambda path: "kernel" in path)
        return optax.adamw(
            lambda step: ramp(jnp.asarray(step)) * cosine(step), weight_decay=config.weight_decay, mask=kernels
        )

    clip = optax.clip_by_global_norm(config.clip_norm)
    if not new_projection:
        return optax.chain(
            clip, adamw(config.learning_rate, lambda step: jnp.minimum((step + 1) / config.new_steps, 1))
        )
    of_label: dict[Hashable, optax.GradientTransformation] = {
        "new": adamw(config.new_learning_rate, lambda step: 1.0),
        "old": adamw(config.learning_rate, lambda step: (step >= config.new_steps).astype(jnp.float32)),
    }
    return optax.chain(clip, optax.partition(of_label, _by_path(lambda path: "new" if PROJECTION in path else "old")))


def _by_path(label: Callable[[str], Any]) -> Callable[[Any], Any]:
    """A function from parameters to their labels, by the name of each."""
    return lambda params: jax.tree_util.tree_map_with_path(lambda path, _: label(jax.tree_util.keystr(path)), params)


@partial(jax.jit, static_argnames=("config", "new_projection", "mesh"), donate_argnames="state")
def train_step(
    state: TrainState,
    model: LightGlue,
    pairs: MatchingPairs,
    *,
    config: MatcherTrainConfig,
    new_projection: bool = False,
    mesh: Mesh | None = None,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """The new state and the metrics after one optimiser step on pairs drawn from (seed, step).

    `model` gives the structure; its parameters are not read. The arguments are replicated over the `mesh`, and the
    pairs of the step are divided among its devices.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    batch = divided(_drawn(key, pairs, config), mesh)
    truth = truth_of(batch, match_px=config.match_px, no_match_px=config.no_match_px)

    def loss_of(params: Any) -> tuple[Array, dict[str, Array]]:
        network = with_parameters(model, params)
        return every_layer_loss(network, batch, truth, layer_decay=config.layer_decay, dtype=config.dtype)

    (loss, metrics), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    metrics |= {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
    optimizer = make_optimizer(config, new_projection=new_projection)
    return updated(state, gradient, optimizer, ema_decay=config.ema_decay), metrics


def _drawn(key: Array, pairs: MatchingPairs, config: MatcherTrainConfig) -> MatchingPairs:
    """Pairs drawn at random, half of them with a and b exchanged, with the best keypoints of each image."""
    row_key, swap_key = jax.random.split(key)
    rows = jax.random.randint(row_key, (config.batch,), 0, len(pairs))
    first = jax.random.bernoulli(swap_key, shape=(config.batch, 1)).astype(jnp.int32)
    sides = jnp.concatenate([first, 1 - first], axis=1)

    def best(leaf: Array) -> Array:
        # Keypoints are in order of their scores.
        return leaf[:, :, : config.max_keypoints][rows[:, None], sides]

    return MatchingPairs(
        keypoints=best(pairs.keypoints),
        scores=best(pairs.scores),
        descriptors=best(pairs.descriptors),
        mask=best(pairs.mask),
        image_sizes=pairs.image_sizes[rows[:, None], sides],
        positions=best(pairs.positions),
        known=best(pairs.known),
        flat=pairs.flat[rows],
    )


def train_matcher(
    start: Start,
    pairs: MatchingPairs,
    folder: str | Path,
    *,
    config: MatcherTrainConfig,
    validate: Callable[[LightGlue], dict[str, float]] | None = None,
    devices: Sequence[Any] | None = None,
    **options: Any,
) -> LightGlue:
    """The trained network (averaged weights); see `run_steps`, also for what is written to the folder.

    Args:
        start: What training starts from: see `start_from`.
        pairs: Pairs with known matches: see `superpoint_jax.training.matcher.pairs`.
        folder: Folder of the run.
        config: Configuration of the run.
        validate: Maps the averaged network to metrics, which are written to metrics.csv.
        devices: `jax.Device`s to choose from; by default all of this process. The largest number that divides
            `config.batch` is used.
        **options: Options of `run_steps`: `log_every`, `checkpoint_every`, `validate_every`, `stop_after`.

    Raises:
        ValueError: The descriptors of the pairs have another length; or as `run_steps`.
        Diverged, OSError: As `run_steps`.
    """
    model, new_projection = start
    if (length := pairs.descriptors.shape[-1]) != model.rules.input_dim:
        raise ValueError(f"the pairs have descriptors of length {length}; this LightGlue takes {model.rules.input_dim}")
    mesh = data_mesh(config.batch, devices)
    optimizer = make_optimizer(config, new_projection=new_projection)
    state = initial_state(nnx.state(model, nnx.Param), optimizer)
    state, network, placed = replicated((state, model, pairs), mesh)
    return run_steps(
        model,
        state,
        lambda state: train_step(state, network, placed, config=config, new_projection=new_projection, mesh=mesh),
        folder,
        config=config,
        data=pairs,
        validate=validate,
        **options,
    )
