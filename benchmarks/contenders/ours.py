"""This library, with its own weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from benchmarks.contenders.setting import (
    NotAvailable,
    Setting,
    camera_photo,
    descriptor_sets,
    keypoint_pairs,
    photo,
    training_batch,
)


def ours(suite: str, setting: Setting, dtype: str, *, engine: Literal["xla", "openvino"] = "xla") -> Callable[[], Any]:
    """A call of the suite in the compute type `dtype`, with the dense network computed by XLA or OpenVINO."""
    import jax

    if engine == "openvino" and suite not in ("network", "end-to-end"):
        raise NotAvailable("OpenVINO computes only the dense network")
    if suite == "train-step":
        call = _train_step(setting, dtype)
    elif suite == "match":
        call = _match(setting, dtype)
    elif suite == "lightglue":
        call = _lightglue(setting, dtype)
    elif suite == "preprocessing":
        call = _preprocessing(setting, dtype)
    else:
        call = _extraction(suite, setting, dtype, engine)
    return lambda: jax.block_until_ready(call())


def _extraction(suite: str, setting: Setting, dtype: str, engine: Literal["xla", "openvino"]) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    import superpoint_jax as sp
    from superpoint_jax.extraction import decode

    model = sp.from_pretrained(max_keypoints=setting.max_keypoints, dtype=dtype)
    images = jnp.asarray(photo(setting))
    try:
        chosen = sp.openvino.choose(model, engine)
    except ValueError as error:
        raise NotAvailable(str(error)) from error
    if suite == "end-to-end":
        return lambda: sp.extract(chosen, images)
    if engine == "openvino":
        return lambda: chosen(images)
    network = jax.jit(lambda model, images: model(images))
    if suite == "network":
        return lambda: network(model, images)
    dense = network(model, images)
    sizes = jnp.broadcast_to(jnp.array([setting.height, setting.width], jnp.int32), (setting.batch, 2))
    head = model.refinement_head
    decoding = jax.jit(lambda dense, sizes, gray, head: decode(dense, sizes, config=model.config, gray=gray, head=head))
    return lambda: decoding(dense, sizes, images, head)


def _match(setting: Setting, dtype: str) -> Callable[[], Any]:
    import superpoint_jax as sp

    if dtype != "float32":
        raise NotAvailable("descriptors are float32")
    a, b = features(setting)
    return lambda: sp.match(a, b)


def _lightglue(setting: Setting, dtype: str) -> Callable[[], Any]:
    """A call of LightGlue with random weights, which change nothing about its time."""
    from flax import nnx

    import superpoint_jax as sp

    matcher = sp.LightGlue(sp.LightGlueConfig(dtype=dtype), rngs=nnx.Rngs(0))  # pyright: ignore[reportArgumentType]
    a, b = features(setting)
    return lambda: sp.match(a, b, matcher=matcher)


def features(setting: Setting) -> list[Any]:
    """The keypoints of both sides, as `extract` returns them."""
    import jax.numpy as jnp

    import superpoint_jax as sp

    shape, places = (setting.batch, setting.max_keypoints), keypoint_pairs(setting)
    return [
        sp.Keypoints(
            keypoints=jnp.asarray(places[:, side]),
            scores=jnp.ones(shape),
            descriptors=jnp.asarray(descriptors),
            mask=jnp.ones(shape, bool),
            num_detected=jnp.full(shape[:1], setting.max_keypoints),
            image_sizes=jnp.broadcast_to(jnp.array([setting.height, setting.width]), (setting.batch, 2)),
        )
        for side, descriptors in enumerate(descriptor_sets(setting))
    ]


def _preprocessing(setting: Setting, dtype: str) -> Callable[[], Any]:
    """A call of the processor with Hugging Face's rules, on the host."""
    import superpoint_jax as sp

    if dtype != "float32":
        raise NotAvailable("pixels are float32")
    size = {"height": setting.height, "width": setting.width}
    processor, pixels = sp.SuperPointImageProcessor.huggingface(size=size), camera_photo(setting)
    return lambda: processor([pixels] * setting.batch).pixel_values


def _train_step(setting: Setting, dtype: str) -> Callable[[], Any]:
    """A training step: forward, cross entropy of the detector, mean square of the descriptors, backward, AdamW."""
    from functools import partial

    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    import superpoint_jax as sp
    from superpoint_jax.training.layers import for_training

    model = sp.from_pretrained()
    model = for_training(model)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    optimizer = optax.adamw(1e-6)
    images, classes = (jnp.asarray(array) for array in training_batch(setting))

    def loss_of(params: Any) -> jax.Array:
        network = nnx.merge(graph, params, rest)
        dense = network(images, dtype=dtype)
        detector = optax.softmax_cross_entropy_with_integer_labels(dense.logits, classes).mean()
        return detector + jnp.mean(jnp.square(dense.descriptors[..., :128]))

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(loss_of)(params), state, params)
        return optax.apply_updates(params, updates), state

    current = [jax.tree.map(jnp.copy, params), optimizer.init(params)]

    def call() -> Any:
        current[:] = step(*current)
        return current

    return call
