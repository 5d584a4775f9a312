"""The dense network in OpenVINO, in the model's place, for hosts whose only device is the processor.

    fast = superpoint_jax.openvino.compile(model, dtype="bfloat16")
    features = superpoint_jax.extract(fast, images)

OpenVINO computes the convolutions, JAX all the rest. Needs `pip install 'superpoint-jax[cpu]'`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, UInt8

from superpoint_jax.config import CELL_PX, SuperPointConfig
from superpoint_jax.features import DenseFeatures
from superpoint_jax.model import SuperPoint, check_images, finite_part, normalize, to_gray, zero_outside

MAX_SHAPES = 16
"""Compiled networks that are kept, one for each shape of a batch; the one that was not used for longest goes first."""

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


Engine = Literal["auto", "xla", "openvino"]
"""Who computes the dense network. "auto": OpenVINO where it is installed and JAX's default device is the CPU."""


def choose(model: SuperPoint, engine: Engine = "auto", *, dtype: str | None = None) -> SuperPoint | CompiledSuperPoint:
    """The model itself for XLA, or compiled for OpenVINO.

    Raises:
        ImportError: "openvino" was asked for and is not installed.
        ValueError: It was asked for and can't be: see `compile`.
    """
    dtype = model.rules.dtype if dtype is None else dtype
    possible = find_spec("openvino") is not None and jax.default_backend() == "cpu" and dtype in PRECISIONS
    return compile(model, dtype=dtype) if engine == "openvino" or (engine == "auto" and possible) else model


def describe(network: SuperPoint | CompiledSuperPoint) -> str:
    """Who computes the network, in a line."""
    if isinstance(network, CompiledSuperPoint):
        return f"the network is computed by OpenVINO {version('openvino')} on the CPU, in {network.rules.dtype}"
    return f"the network is computed by XLA on {jax.devices()[0].device_kind}, in {network.rules.dtype}"


def compile(model: SuperPoint, *, dtype: str | None = None) -> CompiledSuperPoint:
    """The model with its dense network in OpenVINO: what `extract` and the model's other callers take in its place.

    Each shape of a batch is compiled when it is first seen, in about a second. float32 agrees with XLA's to 1e-5 in
    scores and descriptors. bfloat16 is computed as such where the processor has instructions for it, and in float32
    elsewhere; logits and descriptors leave in float32.

    Args:
        model: Any SuperPoint. Its parameters are copied: later changes of the model do not reach what is compiled.
        dtype: "float32" or "bfloat16"; the model's compute type by default.

    Raises:
        ImportError: OpenVINO is not installed.
        ValueError: Another compute type, or JAX's default device is not the CPU.
    """
    if find_spec("openvino") is None:
        raise ImportError("this engine needs OpenVINO: pip install 'superpoint-jax[cpu]'")
    dtype = model.rules.dtype if dtype is None else dtype
    if dtype not in PRECISIONS:
        raise ValueError(f"dtype={dtype!r}; OpenVINO computes in float32 or bfloat16")
    _check_platform()
    return CompiledSuperPoint(model, dtype)


@jax.tree_util.register_static
class CompiledSuperPoint:
    """A SuperPoint whose dense network OpenVINO computes. Made by `compile`.

    It can be an argument of `jax.jit`, where it is static, and works under `jit`, `vmap`, `scan` and `shard_map`. It
    has no derivatives and no hidden states. Threads may call it at once; a forked process must compile its own.

    Attributes:
        rules: As of the model.
        keypoint_threshold: As of the model.
        config: As of the model.
    """

    def __init__(self, model: SuperPoint, dtype: str) -> None:
        self.config: SuperPointConfig = model.config.replace(dtype=dtype)
        self.rules: SuperPointConfig = model.rules.replace(dtype=dtype)
        self.keypoint_threshold = np.asarray(model.keypoint_threshold[...])
        self._model: SuperPoint = jax.tree.map(lambda leaf: leaf, model)
        self._networks: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._lock = threading.Lock()
        self._process = os.getpid()

    def __call__(
        self,
        images: Float[Array | np.ndarray, "b h w c"] | UInt8[Array | np.ndarray, "b h w c"],
        *,
        image_sizes: Int[Array | np.ndarray, "b 2"] | None = None,
        dtype: str | None = None,
        output_hidden_states: bool = False,
    ) -> DenseFeatures:
        """See `SuperPoint.__call__`.

        Raises:
            ValueError: As the model, and for hidden states, derivatives, another `dtype` than it was compiled for, or
                another platform than the CPU.
        """
        check_images(images, image_sizes)
        _check_platform()
        if dtype not in (None, self.rules.dtype):
            raise ValueError(f"dtype={dtype!r}; this was compiled for {self.rules.dtype}: compile the model once more")
        if output_hidden_states:
            raise ValueError("OpenVINO's network gives no hidden states; use the model itself")
        gray = to_gray(images, self.rules.channel_rule).astype(jnp.float32)
        if image_sizes is None:
            sizes = jnp.broadcast_to(jnp.array(gray.shape[1:3], jnp.int32), (gray.shape[0], 2))
        else:
            sizes = jnp.asarray(image_sizes, jnp.int32)
        gray, finite = finite_part(zero_outside(gray, sizes))
        hidden, descriptors = _dense(self, gray, sizes)
        # JAX computes the last layer of the detector, in float32: OpenVINO would round the logits to bfloat16.
        logits = self._model.keypoint_decoder.logits(hidden)
        return DenseFeatures(
            logits=jnp.where(finite, logits, jnp.nan), descriptors=jnp.where(finite, normalize(descriptors), jnp.nan)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process compiles its own."""
        return CompiledSuperPoint, (self._model, self.rules.dtype)

    def run(self, gray: Array | np.ndarray, sizes: Array | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The detector's hidden layer and the descriptors before they are normalised, [..., h, w, C].

        Of gray images [..., H, W, 1] that are valid in their top-left (height, width) `sizes` [..., 2], and 0 outside.
        """
        if os.getpid() != self._process:
            raise RuntimeError("this engine belongs to the process that was forked; compile the model in each process")
        gray, sizes = np.asarray(gray), np.asarray(sizes)
        *batch, height, width, _ = gray.shape
        images, sizes = gray.reshape(-1, 1, height, width), sizes.reshape(-1, 2)
        masked = bool((sizes != (height, width)).any())
        inputs = [images, *(_masks(sizes, height, width) if masked else [])]
        # One at a time: OpenVINO keeps all cores busy with one call, and its results lie in memory of the request.
        with self._lock:
            request = self._request((len(images), height, width, masked))
            results = request.infer(inputs, share_inputs=True, share_outputs=True)
            hidden, descriptors = (results[i].reshape(*batch, *results[i].shape[1:]).copy() for i in range(2))
        return hidden, descriptors

    def _request(self, shape: tuple[int, ...]) -> Any:
        if shape not in self._networks:
            openvino = _import_openvino()
            batch, height, width, masked = shape
            network = _network(self._model, batch, height, width, masked=bool(masked))
            options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": PRECISIONS[self.rules.dtype]}
            compiled = openvino.Core().compile_model(network, "CPU", options)
            self._networks[shape] = compiled.create_infer_request()
            if len(self._networks) > MAX_SHAPES:
                self._networks.popitem(last=False)
        self._networks.move_to_end(shape)
        return self._networks[shape]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _dense(engine: CompiledSuperPoint, gray: Array, sizes: Array) -> tuple[Array, Array]:
    batch, height, width, _ = gray.shape
    cells = (batch, height // CELL_PX, width // CELL_PX)
    channels = engine.rules.decoder_hidden_size, engine.rules.descriptor_decoder_dim
    shapes = tuple(jax.ShapeDtypeStruct((*cells, count), jnp.float32) for count in channels)
    return jax.pure_callback(engine.run, shapes, gray, sizes, vmap_method="broadcast_all")


@_dense.defjvp
def _no_derivative(engine: CompiledSuperPoint, primals: Any, tangents: Any) -> Any:
    raise ValueError("OpenVINO's network has no derivatives; use the model itself, which has them")


def _check_platform() -> None:
    if jax.default_backend() != "cpu":
        raise ValueError(
            f"OpenVINO computes on the CPU, and JAX's default device is a {jax.default_backend()}; use the model "
            f"itself there, or start with JAX_PLATFORMS=cpu"
        )


def _import_openvino() -> Any:
    """The package without its telemetry, which sends a message from a forked process: JAX's threads forbid forks."""
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore
    import openvino
    import openvino.opset13

    return openvino


def _network(model: SuperPoint, batch: int, height: int, width: int, *, masked: bool) -> Any:
    """The graph from images [B,1,H,W], with `_masks` where asked for, to what `run` returns."""
    openvino = _import_openvino()
    ops = openvino.opset13

    def constant(values: Any) -> Any:
        return ops.constant(np.ascontiguousarray(values, np.float32))

    def per_channel(values: Any) -> Any:
        return constant(np.reshape(values, (1, -1, 1, 1)))

    def apply(x: Any, conv: Any, norm: Any, *, relu: bool = True) -> Any:
        kernel = np.transpose(conv.kernel[...], (3, 2, 0, 1))
        pads = [kernel.shape[2] // 2] * 2
        x = ops.add(ops.convolution(x, constant(kernel), [1, 1], pads, pads, [1, 1]), per_channel(conv.bias[...]))
        x = ops.relu(x) if relu else x
        if norm is None:
            return x
        scale = norm.scale[...] * jax.lax.rsqrt(norm.var[...] + norm.epsilon)
        return ops.add(ops.multiply(x, per_channel(scale)), per_channel(norm.bias[...] - norm.mean[...] * scale))

    def keep(x: Any, level: int) -> Any:
        # Not a product with the mask: what is not finite times zero is not zero.
        return ops.select(masks[level], x, constant(0.0)) if masked else x

    image = ops.parameter([batch, 1, height, width], np.float32)
    levels = [(height >> i, width >> i) for i in range(4)]
    masks = [ops.parameter([batch, 1, *level], np.bool_) for level in levels] if masked else []
    x = image
    for level, block in enumerate(model.encoder.conv_blocks):
        for conv, norm in ((block.conv_a, block.norm_a), (block.conv_b, block.norm_b)):
            x = keep(apply(x, conv, norm), level)
        if block.pool:
            x = keep(ops.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2], "floor").output(0), level + 1)
    detector, descriptor = model.keypoint_decoder, model.descriptor_decoder
    described = apply(x, descriptor.conv_descriptor_a, descriptor.norm_descriptor_a)
    heads = (
        apply(x, detector.conv_score_a, detector.norm_score_a),
        apply(described, descriptor.conv_descriptor_b, descriptor.norm_descriptor_b, relu=False),
    )
    return openvino.Model([ops.transpose(head, ops.constant([0, 2, 3, 1])) for head in heads], [image, *masks])


def _masks(sizes: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """Where images of these sizes are valid in the activations of each block, [B,1,h,w]."""
    masks = []
    for i in range(4):
        rows = np.arange(height >> i)[None, :, None] < sizes[:, :1, None] >> i
        columns = np.arange(width >> i)[None, None, :] < sizes[:, 1:, None] >> i
        masks.append((rows & columns)[:, None])
    return masks
