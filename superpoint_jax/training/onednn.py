"""The network through oneDNN (by way of torch), for training on a CPU. Accelerators never come here.

XLA on CPU turns bfloat16 convolutions into float32 ones and is slow at the gradient to their kernels; oneDNN runs both
on the matrix units. So where torch is at hand, a training step on a CPU can leave its convolutions to it through
`jax.pure_callback`: the same function of the same arrays, held against the plain path by tests/test_onednn.py.
Everything else of the step (data, losses, optimiser) stays in XLA.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float

from superpoint_jax.config import CELL_PX
from superpoint_jax.features import DenseFeatures
from superpoint_jax.model import SuperPoint, normalize

if TYPE_CHECKING:
    import torch

Layers = list[tuple[Array, Array]]
"""(kernel HWIO, bias) of the encoder's eight convolutions, then of the detector's two and the descriptor's two."""

Convolutions = Literal["xla", "onednn"]
"""Who computes the convolutions: XLA, or oneDNN on a CPU where torch is at hand."""

_graphs: dict[int, Any] = {}
"""Autograd graph of the newest forward pass by its ticket, so that the backward pass need not run it again."""
_tickets = itertools.count()


def dense_features(model: SuperPoint, images: Float[Array, "b h w 1"], *, dtype: str) -> DenseFeatures:
    """What `model(images, dtype=dtype)` gives, convolutions by oneDNN. Differentiable in the parameters alone.

    Raises:
        ValueError: A model with batch normalisation.
        ImportError: No torch.
    """
    if model.config.batch_norm:
        raise ValueError("the oneDNN path has no batch normalisation; train this model with convolutions='xla'")
    import torch  # noqa: F401  (a clear error now rather than one inside the compiled step)

    logits, descriptors = _network(_layers(model), images, dtype)
    return DenseFeatures(logits=logits, descriptors=normalize(descriptors))


def _layers(model: SuperPoint) -> Layers:
    convolutions: list[nnx.Conv] = [c for block in model.encoder.conv_blocks for c in (block.conv_a, block.conv_b)]
    detector, descriptor = model.keypoint_decoder, model.descriptor_decoder
    convolutions += [detector.conv_score_a, detector.conv_score_b]
    convolutions += [descriptor.conv_descriptor_a, descriptor.conv_descriptor_b]
    return [(c.kernel[...], c.bias[...]) for c in convolutions]  # pyright: ignore[reportOptionalSubscript]


def _network_call(layers: Layers, images: Array, dtype: str) -> tuple[Array, Array, Array]:
    batch, height, width, _ = images.shape
    cells = (batch, height // CELL_PX, width // CELL_PX)
    shapes = [jax.ShapeDtypeStruct((*cells, layers[i][0].shape[-1]), jnp.float32) for i in (9, 11)]
    ticket = jax.ShapeDtypeStruct((), jnp.int32)
    return jax.pure_callback(lambda *args: _forward(*args, dtype=dtype), (*shapes, ticket), layers, images)


def _network(layers: Layers, images: Array, dtype: str) -> tuple[Array, Array]:
    @jax.custom_vjp
    def network(layers: Layers) -> tuple[Array, Array]:
        return _network_call(layers, images, dtype)[:2]

    def forward(layers: Layers) -> tuple[tuple[Array, Array], tuple[Layers, Array, Array]]:
        logits, descriptors, ticket = _network_call(layers, images, dtype)
        return (logits, descriptors), (layers, images, ticket)

    def backward(saved: tuple[Layers, Array, Array], cotangents: tuple[Array, Array]) -> tuple[Layers]:
        layers, images, ticket = saved
        shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), layers)
        call = jax.pure_callback(
            lambda *args: _backward(*args, dtype=dtype), shapes, layers, images, ticket, cotangents
        )
        return (call,)

    network.defvjp(forward, backward)
    return network(layers)


def _forward(layers: Any, images: Any, *, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    parameters, outputs = _run(layers, images, dtype)
    ticket = next(_tickets)
    _graphs.clear()
    _graphs[ticket] = parameters, outputs
    logits, descriptors = (output.detach().permute(0, 2, 3, 1).float().contiguous().numpy() for output in outputs)
    return logits, descriptors, np.asarray(ticket, np.int32)


def _backward(layers: Any, images: Any, ticket: Any, cotangents: Any, *, dtype: str) -> list[tuple[np.ndarray, ...]]:
    import torch

    parameters, outputs = _graphs.pop(int(ticket), None) or _run(layers, images, dtype)
    arriving = [
        torch.from_numpy(np.array(c)).permute(0, 3, 1, 2).to(output.dtype)
        for c, output in zip(cotangents, outputs, strict=True)
    ]
    gradients = torch.autograd.grad(outputs, parameters, arriving)
    arrays = [(g.permute(2, 3, 1, 0) if g.ndim == 4 else g).contiguous().numpy() for g in gradients]
    return [tuple(arrays[i : i + 2]) for i in range(0, len(arrays), 2)]


def _run(layers: Any, images: Any, dtype: str) -> tuple[list[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    import torch
    from torch.nn import functional

    parameters = []
    for kernel, bias in layers:
        parameters.append(torch.from_numpy(np.array(kernel)).permute(3, 2, 0, 1).contiguous().requires_grad_())
        parameters.append(torch.from_numpy(np.array(bias)).requires_grad_())
    compute = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]

    def conv(x: torch.Tensor, i: int) -> torch.Tensor:
        weight = parameters[2 * i].to(compute, memory_format=torch.channels_last)
        return functional.conv2d(x, weight, parameters[2 * i + 1].to(compute), padding=weight.shape[-1] // 2)

    with torch.enable_grad():
        x = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).to(compute, memory_format=torch.channels_last)
        for i in range(8):
            x = functional.relu(conv(x, i))
            if i in (1, 3, 5):
                x = functional.max_pool2d(x, 2)
        logits = conv(functional.relu(conv(x, 8)), 9)
        descriptors = conv(functional.relu(conv(x, 10)), 11)
    return parameters, (logits, descriptors)
