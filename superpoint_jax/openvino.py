"""The dense network computed by OpenVINO, for machines whose only device is the CPU.

    fast = superpoint_jax.openvino.compile(model, dtype="bfloat16")
    features = superpoint_jax.extract(fast, images)

OpenVINO computes the convolutions and JAX everything else. It needs `pip install 'superpoint-jax[cpu]'`.
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
"""Number of compiled networks that are kept, one per shape of a batch; the least recently used is dropped first."""

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


Engine = Literal["auto", "xla", "openvino"]
"""What computes the dense network. "auto" is OpenVINO if it is installed and JAX's default device is the CPU."""


def choose(model: SuperPoint, engine: Engine = "auto", *, dtype: str | None = None) -> SuperPoint | CompiledSuperPoint:
    """The model itself for XLA, or the model compiled for OpenVINO.

    Raises:
        ImportError: `engine` is "openvino", which is not installed.
        ValueError: `engine` is "openvino", which can't be used; see `compile`.
    """
    dtype = model.rules.dtype if dtype is None else dtype
    possible = find_spec("openvino") is not None and jax.default_backend() == "cpu" and dtype in PRECISIONS
    return compile(model, dtype=dtype) if engine == "openvino" or (engine == "auto" and possible) else model


def describe(network: SuperPoint | CompiledSuperPoint, *, dtype: str | None = None) -> str:
    """One line that names what computes the network. `dtype` is what XLA is called with; by default the model's own."""
    if isinstance(network, CompiledSuperPoint):
        return f"the network is computed by OpenVINO {version('openvino')} on the CPU, in {network.rules.dtype}"
    return f"the network is computed by XLA on {jax.devices()[0].device_kind}, in {dtype or network.rules.dtype}"


def compile(model: SuperPoint, *, dtype: str | None = None) -> CompiledSuperPoint:
    """The model with its dense network in OpenVINO; `extract` and other functions accept it instead of the model.

    Each shape of a batch is compiled at its first use, in about a second. In float32, scores and descriptors agree with
    those of XLA to 1e-5. bfloat16 is used if the processor has instructions for it, otherwise float32; logits and
    descriptors are float32 in any case.

    Args:
        model: Any SuperPoint. Its parameters are copied, so later changes of the model have no effect on the result.
        dtype: "float32" or "bfloat16"; by default the model's compute type.

    Raises:
        ImportError: OpenVINO is not installed.
        ValueError: The compute type is another one, or JAX's default device is not the CPU.
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
    """A SuperPoint whose dense network OpenVINO computes; made by `compile`.

    It can be an argument of `jax.jit`, where it is static, and works under `jit`, `vmap`, `scan` and `shard_map`. It
    has no derivatives and no hidden states. Several threads may call it at once; a forked process must compile its own.

    Attributes:
        rules: As in the model.
        keypoint_threshold: As in the model.
        config: As in the model.
        refinement_head: As in the model; JAX computes it.
    """

    def __init__(self, model: SuperPoint, dtype: str) -> None:
        self.config: SuperPointConfig = model.config.replace(dtype=dtype)
        self.rules: SuperPointConfig = model.rules.replace(dtype=dtype)
        self.keypoint_threshold = np.asarray(model.keypoint_threshold[...])
        self._model: SuperPoint = jax.tree.map(lambda leaf: leaf, model)
        self.refinement_head = self._model.refinement_head
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
        """The dense features; see `SuperPoint.__call__`.

        Raises:
            ValueError: As in the model; also for hidden states, derivatives, a `dtype` other than the compiled one, or
                a platform other than the CPU.
        """
        check_images(images, image_sizes)
        _check_platform()
        if dtype not in (None, self.rules.dtype):
            raise ValueError(f"dtype={dtype!r}; this was compiled for {self.rules.dtype}: compile the model again")
        if output_hidden_states:
            raise ValueError("OpenVINO's network gives no hidden states; use the model itself")
        gray = to_gray(images, self.rules.channel_rule).astype(jnp.float32)
        if image_sizes is None:
            sizes = jnp.broadcast_to(jnp.array(gray.shape[1:3], jnp.int32), (gray.shape[0], 2))
        else:
            sizes = jnp.asarray(image_sizes, jnp.int32)
        gray, finite = finite_part(zero_outside(gray, sizes))
        hidden, descriptors = _dense(self, gray, sizes)
        # JAX computes the last layer of the detector in float32, because OpenVINO would round the logits to bfloat16.
        logits = self._model.keypoint_decoder.logits(hidden)
        return DenseFeatures(
            logits=jnp.where(finite, logits, jnp.nan), descriptors=jnp.where(finite, normalize(descriptors), jnp.nan)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """What to pickle: the model, from which another process compiles its own network."""
        return CompiledSuperPoint, (self._model, self.rules.dtype)

    def run(self, gray: Array | np.ndarray, sizes: Array | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The hidden layer of the detector and the descriptors before they are normalised, [..., h, w, C].

        Args:
            gray: Gray images [..., H, W, 1] that are 0 outside their valid area.
            sizes: (height, width) [..., 2] of the valid area in the top-left corner of each image.
        """
        if os.getpid() != self._process:
            raise RuntimeError("this was compiled in the parent process; compile the model in each forked process")
        gray, sizes = np.asarray(gray), np.asarray(sizes)
        *batch, height, width, _ = gray.shape
        images, sizes = gray.reshape(-1, 1, height, width), sizes.reshape(-1, 2)
        masked = bool((sizes != (height, width)).any())
        inputs = [images, *(_masks(sizes, height, width) if masked else [])]
        # One call at a time, because a call keeps all cores busy and its results are in memory of the request.
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
    raise ValueError("OpenVINO's network has no derivatives; use the model itself")


def _check_platform() -> None:
    if jax.default_backend() != "cpu":
        raise ValueError(
            f"OpenVINO computes on the CPU, but JAX's default device is a {jax.default_backend()}; use the model "
            f"itself, or start with JAX_PLATFORMS=cpu"
        )


def _import_openvino() -> Any:
    """The package openvino without its telemetry, which would fork the process; JAX's threads forbid that."""
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore
    import openvino
    import openvino.opset13

    return openvino


def _network(model: SuperPoint, batch: int, height: int, width: int, *, masked: bool) -> Any:
    """The graph from images [B,1,H,W], and from `_masks` if `masked`, to the results of `run`."""
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
        # A selection, because in a product with the mask, values that are not finite would not become zero.
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
    """The masks [B,1,h,w] of the valid areas of images of these sizes, in the activations of each block."""
    masks = []
    for i in range(4):
        rows = np.arange(height >> i)[None, :, None] < sizes[:, :1, None] >> i
        columns = np.arange(width >> i)[None, None, :] < sizes[:, 1:, None] >> i
        masks.append((rows & columns)[:, None])
    return masks
