"""The dense network as ONNX nodes: images -> scores of all pixels and dense descriptors, as in `superpoint_jax.model`.

Activations are [B,C,H,W], as ONNX's operators want them. Height, width and number of images are free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from superpoint_jax.config import CELL_PX, SuperPointConfig
from superpoint_jax.export.onnx_nodes import Nodes
from superpoint_jax.model import FIELD_OF_VIEW_CELLS, LUMA, SuperPoint


@dataclass(frozen=True)
class Dense:
    """What the decoding needs: names of values in the graph.

    Attributes:
        gray: Gray images as the network saw them, float32 [B,1,H,W].
        scores: Score maps, float32 [B,1,8h,8w].
        descriptors: Dense descriptors of unit length, float32 [B,D,h,w].
        sizes: (height, width) of the images as the network saw them, int64 [B,2], or [1,2] for all of them.
        given: The same of the images as they were passed in.
    """

    gray: str
    scores: str
    descriptors: str
    sizes: str
    given: str


def dense_nodes(
    nodes: Nodes, model: SuperPoint, images: str, image_sizes: str | None, *, config: SuperPointConfig, channels: int
) -> Dense:
    """The network on `images` [B,H,W,channels], or with `image_sizes` [B,2] on the top-left part of each of them."""
    gray = _gray(nodes, nodes("Transpose", images, perm=[0, 3, 1, 2]), config, channels)
    given = nodes.lengths(gray, 2, 3) if image_sizes is None else nodes.cast(image_sizes, np.int64)
    given = sizes = nodes("Reshape", given, np.array([-1, 2]))
    if config.enlarge != 1:
        gray, sizes = _enlarged(nodes, gray, config.enlarge)
    valid = [None] * 4 if image_sizes is None else [_valid(nodes, gray, sizes, level) for level in range(4)]
    gray = _kept(nodes, gray, valid[0])
    finite = _finite(nodes, gray)
    gray = nodes("Where", finite, gray, np.float32(0))

    x = gray
    for level, block in enumerate(model.encoder.conv_blocks):
        for conv, norm in ((block.conv_a, block.norm_a), (block.conv_b, block.norm_b)):
            x = _kept(nodes, convolution(nodes, x, conv, norm), valid[level])
        if block.pool:
            x = _kept(nodes, nodes("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), valid[level + 1])
    detector, descriptor = model.keypoint_decoder, model.descriptor_decoder
    logits = convolution(nodes, x, detector.conv_score_a, detector.norm_score_a)
    logits = convolution(nodes, logits, detector.conv_score_b, detector.norm_score_b, relu=False)
    described = convolution(nodes, x, descriptor.conv_descriptor_a, descriptor.norm_descriptor_a)
    described = convolution(nodes, described, descriptor.conv_descriptor_b, descriptor.norm_descriptor_b, relu=False)
    unseen = _damaged_cells(nodes, finite, logits)
    scores = nodes("Where", unseen, np.float32(0), _scores(nodes, logits, config.score_rule))
    descriptors = nodes("Where", unseen, np.float32(0), normalized(nodes, described, axis=1))
    return Dense(
        gray=gray,
        scores=nodes("DepthToSpace", scores, blocksize=CELL_PX),
        descriptors=_kept(nodes, descriptors, valid[3]),
        sizes=sizes,
        given=given,
    )


def normalized(nodes: Nodes, vectors: str, *, axis: int) -> str:
    """Vectors of unit length along an axis; see `superpoint_jax.model.normalize`."""
    squared = nodes("ReduceSumSquare", vectors, np.array([axis]), keepdims=1)
    return nodes("Div", vectors, nodes("Sqrt", nodes("Max", squared, np.float32(1e-24))))


def part(nodes: Nodes, x: str, axis: int, start: int, end: int) -> str:
    """A range of an axis."""
    return nodes("Slice", x, np.array([start]), np.array([end]), np.array([axis]))


def _gray(nodes: Nodes, images: str, config: SuperPointConfig, channels: int) -> str:
    """[B,1,H,W] from [B,C,H,W]; see `superpoint_jax.model.to_gray`."""
    if channels == 1:
        return images
    if config.channel_rule == "first":
        return part(nodes, images, 1, 0, 1)
    red, green, blue = (nodes("Mul", part(nodes, images, 1, i, i + 1), np.float32(LUMA[i])) for i in range(3))
    return nodes("Add", nodes("Add", red, green), blue)


def _enlarged(nodes: Nodes, gray: str, factor: float) -> tuple[str, str]:
    """The enlarged images, NaN where a value that is not finite has a part, and their (height, width) [1,2].

    See `superpoint_jax.enlargement`. The operator Resize is not used, because runtimes differ at the borders.
    """
    sides = nodes("Mul", nodes.cast(nodes.lengths(gray, 2, 3), np.float32), np.float32(factor))
    sides = nodes.cast(nodes("Floor", nodes("Add", sides, np.float32(0.5))), np.int64)
    weights = [_linear(nodes, nodes.length(gray, 2 + i), nodes("Gather", sides, np.int64(i))) for i in (0, 1)]
    finite = _finite(nodes, gray)
    values = _resized(nodes, nodes("Where", finite, gray, np.float32(0)), *weights)
    damaged = _resized(nodes, nodes.cast(nodes("Not", finite), np.float32), *weights)
    near = nodes("Greater", damaged, np.float32(0))
    return nodes("Where", near, np.float32(np.nan), values), nodes("Reshape", sides, np.array([1, 2]))


def _resized(nodes: Nodes, x: str, down: str, across: str) -> str:
    """Images [B,1,H,W] after an interpolation with the weights [after,before] of both axes."""
    return nodes("MatMul", nodes("MatMul", down, x), nodes("Transpose", across, perm=[1, 0]))


def _linear(nodes: Nodes, before: str, after: str) -> str:
    """The weights [after,before] of linear interpolation of an axis; see `superpoint_jax.enlargement`."""
    steps = nodes("Mul", after, np.int64(2))
    odd = nodes("Add", nodes("Mul", nodes.places(after), np.int64(2)), np.int64(1))
    places = nodes("Sub", nodes("Mul", odd, before), after)
    last = nodes("Mul", steps, nodes("Sub", before, np.int64(1)))
    places = nodes("Unsqueeze", nodes("Min", nodes("Max", places, np.int64(0)), last), np.array([1]))
    distances = nodes("Abs", nodes("Sub", places, nodes("Mul", steps, nodes.places(before))))
    weights = nodes("Max", nodes("Sub", steps, distances), np.int64(0))
    return nodes("Div", nodes.cast(weights, np.float32), nodes.cast(steps, np.float32))


def _valid(nodes: Nodes, gray: str, sizes: str, level: int) -> str:
    """The mask [B,1,H,W] of the valid areas in the activations after `level` poolings."""
    ends = nodes("Div", sizes, np.int64(2**level))

    def before(axis: int, shape: list[int]) -> str:
        count = nodes("Div", nodes.length(gray, 2 + axis), np.int64(2**level))
        places = nodes("Reshape", nodes.places(count), np.array(shape))
        return nodes("Less", places, nodes("Reshape", part(nodes, ends, 1, axis, axis + 1), np.array([-1, 1, 1, 1])))

    return nodes("And", before(0, [1, 1, -1, 1]), before(1, [1, 1, 1, -1]))


def _finite(nodes: Nodes, x: str) -> str:
    return nodes("LessOrEqual", nodes("Abs", x), np.finfo(np.float32).max)


def _kept(nodes: Nodes, x: str, valid: str | None) -> str:
    return x if valid is None else nodes("Where", valid, x, np.float32(0))


def convolution(nodes: Nodes, x: str, conv: Any, norm: Any, *, relu: bool = True) -> str:
    """A convolution with what follows it. Batch norm comes after the ReLU, so it can't be folded into the kernel."""
    kernel = np.asarray(conv.kernel[...]).transpose(3, 2, 0, 1)
    pads = [kernel.shape[2] // 2 if conv.padding == "SAME" else 0] * 4
    x = nodes("Conv", x, kernel, np.asarray(conv.bias[...]), kernel_shape=list(kernel.shape[2:]), pads=pads)
    x = nodes("Relu", x) if relu else x
    if norm is None:
        return x
    statistics = (np.asarray(values[...], np.float32) for values in (norm.scale, norm.bias, norm.mean, norm.var))
    return nodes("BatchNormalization", x, *statistics, epsilon=norm.epsilon)


def _damaged_cells(nodes: Nodes, finite: str, cells: str) -> str:
    """The mask [B,1,h,w] of cells with a pixel in their view that is not finite; see `model.finite_part`."""
    damaged = nodes.cast(nodes("Not", finite), np.float32)
    side = 2 * FIELD_OF_VIEW_CELLS + 1
    damaged = nodes("MaxPool", damaged, kernel_shape=[CELL_PX] * 2, strides=[CELL_PX] * 2, ceil_mode=1)
    damaged = nodes("MaxPool", damaged, kernel_shape=[side, side], pads=[FIELD_OF_VIEW_CELLS] * 4)
    whole = nodes("Slice", damaged, np.array([0, 0]), nodes.lengths(cells, 2, 3), np.array([2, 3]))
    return nodes("Greater", whole, np.float32(0))


def _scores(nodes: Nodes, logits: str, rule: str) -> str:
    """The scores [B,64,h,w] of the pixels of each cell; see `superpoint_jax.detection.score_map`."""
    if rule == "softmax":
        probabilities = nodes("Softmax", logits, axis=1)
    else:
        largest = nodes("ReduceMax", logits, np.array([1]), keepdims=1)
        excess = nodes("Relu", nodes("Sub", largest, np.float32(80)))
        exponentials = nodes("Exp", nodes("Sub", logits, excess))
        total = nodes("ReduceSum", exponentials, np.array([1]), keepdims=1)
        least = nodes("Mul", nodes("Exp", nodes("Neg", excess)), np.float32(1e-5))
        probabilities = nodes("Div", exponentials, nodes("Add", total, least))
    return part(nodes, probabilities, 1, 0, CELL_PX**2)
