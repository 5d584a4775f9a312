"""The decoding as ONNX nodes: dense features -> keypoints with descriptors, as in `superpoint_jax.extraction.decode`.

There is no loop, and no array whose size depends on what an image shows, as TensorRT and similar compilers need it.
"""

from __future__ import annotations

import numpy as np

from superpoint_jax.config import CELL_PX, SuperPointConfig
from superpoint_jax.export.onnx_network import Dense, convolution, normalized, part
from superpoint_jax.export.onnx_nodes import Nodes, Value
from superpoint_jax.model import SuperPoint
from superpoint_jax.refinement import NOISE, PATCH_PX, PATCH_RADIUS_PX, REACH_PX, SMALLEST_SCORE


def decoded_nodes(
    nodes: Nodes, model: SuperPoint, dense: Dense, *, config: SuperPointConfig, masked: bool
) -> tuple[str, str, str, str]:
    """The outputs of a file: keypoints [B,K,2], scores [B,K], descriptors [B,K,D], mask [B,K].

    `masked` says that images may be smaller than their arrays.
    """
    cells = nodes("Div", dense.sizes, np.int64(CELL_PX))
    whole = nodes("Mul", cells, np.int64(CELL_PX))
    kept = _keypoint_mask(nodes, dense, whole, config, masked=masked)
    best, index = _best(nodes, nodes("Where", kept, dense.scores, np.float32(-1)), config)
    mask = nodes("GreaterOrEqual", best, np.float32(0))
    index = nodes("Where", mask, index, np.int64(0))
    width = nodes.length(dense.scores, 3)
    y = nodes("Div", index, width)
    x = nodes("Sub", index, nodes("Mul", y, width))
    peaks = _stacked(nodes, nodes.cast(x, np.float32), nodes.cast(y, np.float32))
    keypoints = peaks
    if config.refinement == "soft_argmax":
        keypoints = nodes("Add", peaks, _centre_of_mass(nodes, dense.scores, x, y, whole, config.refinement_radius))
    elif config.refinement == "learned":
        moved = nodes("Add", peaks, _learned_offsets(nodes, model, dense, x, y, whole))
        last = nodes("Sub", _width_height(nodes, dense.sizes), np.float32(1))
        keypoints = nodes("Min", nodes("Max", moved, np.float32(0)), last)
    row = nodes("Unsqueeze", mask, np.array([2]))
    keypoints = nodes("Where", row, keypoints, np.float32(0))
    descriptors = nodes("Where", row, _sampled(nodes, dense.descriptors, keypoints, cells, config), np.float32(0))
    if config.enlarge != 1:
        scale = nodes("Div", _width_height(nodes, dense.given), _width_height(nodes, dense.sizes))
        given = nodes("Sub", nodes("Mul", nodes("Add", keypoints, np.float32(0.5)), scale), np.float32(0.5))
        keypoints = nodes("Where", row, given, np.float32(0))
    return keypoints, nodes("Where", mask, best, np.float32(0)), descriptors, mask


def _keypoint_mask(nodes: Nodes, dense: Dense, whole: str, config: SuperPointConfig, *, masked: bool) -> str:
    """[B,1,8h,8w], True at keypoints; see `superpoint_jax.detection.keypoint_mask`."""
    scores = dense.scores
    rows, columns = (
        nodes("Reshape", nodes.places(nodes.length(scores, axis)), np.array(shape))
        for axis, shape in ((2, [1, 1, -1, 1]), (3, [1, 1, 1, -1]))
    )

    def before(ends: str, distance: int) -> str:
        ends = nodes("Sub", nodes("Reshape", ends, np.array([-1, 2, 1, 1])), np.int64(distance))
        inside = (nodes("Less", places, part(nodes, ends, 1, i, i + 1)) for i, places in enumerate((rows, columns)))
        return nodes("And", *inside)

    # Pixels that do not exist are below every other.
    present = nodes("Where", before(whole, 0), scores, np.float32(-np.inf)) if masked else scores
    kept = _three_pass(nodes, present, config.nms_radius)
    least = np.float32(config.keypoint_threshold)
    above = nodes("Greater" if config.threshold_rule == "greater" else "GreaterOrEqual", present, least)
    kept = nodes("And", nodes("And", kept, above), nodes("Greater", present, np.float32(0)))
    border = config.border_removal_distance
    from_start = nodes("And", *(nodes("GreaterOrEqual", places, np.int64(border)) for places in (rows, columns)))
    kept = nodes("And", kept, from_start)
    if config.border_rule == "top_left":
        return kept
    return nodes("And", kept, before(dense.sizes if config.border_rule == "image" else whole, border))


def _three_pass(nodes: Nodes, scores: str, radius: int) -> str:
    """The mask of what three-pass suppression keeps; see `superpoint_jax.detection.suppress_three_pass`."""

    def window_max(x: str) -> str:
        side = 2 * radius + 1
        x = nodes("MaxPool", x, kernel_shape=[side, 1], pads=[radius, 0, radius, 0])
        return nodes("MaxPool", x, kernel_shape=[1, side], pads=[0, radius, 0, radius])

    kept = nodes("Equal", scores, window_max(scores))
    for _ in range(2):
        near = nodes("Greater", window_max(nodes.cast(kept, np.float32)), np.float32(0))
        rest = nodes("Where", near, np.float32(0), scores)
        more = nodes("And", nodes("Equal", rest, window_max(rest)), nodes("Not", near))
        kept = nodes("Or", kept, more)
    return kept


def _best(nodes: Nodes, candidates: str, config: SuperPointConfig) -> tuple[str, str]:
    """The K best scores [B,K], -1 where there are fewer, and the numbers of their pixels."""
    if config.max_keypoints == -1:
        spacing = np.int64(config.nms_radius + 1)
        sides = nodes("Add", nodes.lengths(candidates, 2, 3), spacing - 1)
        count = nodes("ReduceProd", nodes("Div", sides, spacing), np.array([0]), keepdims=1)
    else:
        count = np.array([config.max_keypoints])
    flat = nodes("Flatten", candidates, axis=1)
    # A small image may have fewer pixels than there are rows.
    fill = nodes("Expand", np.array([[-1]], np.float32), nodes.joined(nodes.lengths(flat, 0), count))
    return nodes("TopK", nodes("Concat", flat, fill, axis=1), count, outputs=2, axis=1)


def _centre_of_mass(nodes: Nodes, scores: str, x: str, y: str, whole: str, radius: int) -> str:
    """The offsets [B,K,2]; see `superpoint_jax.detection.refine_soft_argmax`."""
    dy, dx = np.mgrid[-radius : radius + 1, -radius : radius + 1].reshape(2, -1)
    rows = nodes("Add", nodes("Unsqueeze", y, np.array([2])), dy)
    columns = nodes("Add", nodes("Unsqueeze", x, np.array([2])), dx)
    ends = nodes("Unsqueeze", whole, np.array([1]))
    inside = nodes("And", *(nodes("GreaterOrEqual", places, np.int64(0)) for places in (rows, columns)))
    for axis, places in enumerate((rows, columns)):
        inside = nodes("And", inside, nodes("Less", places, part(nodes, ends, 2, axis, axis + 1)))
    rows, columns = (nodes("Where", inside, places, np.int64(0)) for places in (rows, columns))
    weights = nodes("Where", inside, _gathered(nodes, scores, rows, columns), np.float32(0))
    total = nodes("Max", nodes("ReduceSum", weights, np.array([2]), keepdims=1), np.float32(1e-12))
    steps = np.stack([dx, dy], axis=1).astype(np.float32)
    return nodes("Div", nodes("MatMul", weights, steps), total)


def _learned_offsets(nodes: Nodes, model: SuperPoint, dense: Dense, x: str, y: str, whole: str) -> str:
    """The offsets [B,K,2] by the refinement head; see `superpoint_jax.refinement`."""
    head, side = model.refinement_head, PATCH_PX
    assert head is not None
    dy, dx = (np.indices((side, side)) - PATCH_RADIUS_PX).reshape(2, -1)

    def patches(values: str, sizes: str) -> str:
        """[B*K,P*P]; beyond an area of these sizes, its border is repeated."""
        last = nodes("Sub", nodes("Unsqueeze", sizes, np.array([1])), np.int64(1))
        rows, columns = (
            nodes(
                "Min",
                nodes("Max", nodes("Add", nodes("Unsqueeze", places, np.array([2])), steps), np.int64(0)),
                part(nodes, last, 2, axis, axis + 1),
            )
            for axis, (places, steps) in enumerate(((y, dy), (x, dx)))
        )
        return nodes("Reshape", _gathered(nodes, values, rows, columns), np.array([-1, side * side]))

    grays = patches(dense.gray, dense.sizes)
    centred = nodes("Sub", grays, nodes("ReduceMean", grays, np.array([1]), keepdims=1))
    variance = nodes("ReduceMean", nodes("Mul", centred, centred), np.array([1]), keepdims=1)
    contrast = nodes("Sqrt", nodes("Add", variance, np.float32(NOISE**2)))
    logs = nodes("Log", nodes("Max", patches(dense.scores, whole), np.float32(SMALLEST_SCORE)))
    middle = side * side // 2
    relative = nodes("Max", nodes("Sub", logs, part(nodes, logs, 1, middle, middle + 1)), np.float32(-8))
    relative = nodes("Add", nodes("Mul", relative, np.float32(0.5)), np.float32(1))
    both = (
        nodes("Reshape", values, np.array([-1, 1, side, side]))
        for values in (nodes("Div", centred, contrast), relative)
    )
    hidden = nodes("Concat", *both, axis=1)
    for conv in (head.conv_a, head.conv_b, head.conv_c):
        hidden = convolution(nodes, hidden, conv, None, relu=conv is not head.conv_c)
    weights = nodes("Softmax", nodes("Flatten", hidden, axis=1), axis=1)
    dy, dx = (np.indices((2 * REACH_PX + 1,) * 2) - REACH_PX).reshape(2, -1)
    offsets = nodes("MatMul", weights, np.stack([dx, dy], axis=1).astype(np.float32))
    return nodes("Reshape", offsets, nodes.joined(nodes.lengths(x, 0, 1), np.array([2])))


def _sampled(nodes: Nodes, descriptors: str, keypoints: str, cells: str, config: SuperPointConfig) -> str:
    """[B,K,D] at the keypoints [B,K,2]; see `superpoint_jax.description.sample_descriptors`."""
    n = _width_height(nodes, cells)

    def times(x: Value, factor: float | int) -> str:
        return nodes("Mul", x, np.float32(factor))

    def plus(x: Value, summand: float | int) -> str:
        return nodes("Add", x, np.float32(summand))

    if config.sampling_rule == "legacy":
        u = nodes("Div", plus(keypoints, -3.5), plus(times(n, CELL_PX), -4.5))
        u = nodes("Mul", u, plus(n, -1))
    elif config.sampling_rule == "demo_2018":
        u = nodes("Div", nodes("Mul", keypoints, plus(n, -1)), times(n, CELL_PX))
    else:
        u = plus(keypoints, 0.5) if config.sampling_rule == "centered" else keypoints
        u = plus(times(u, 1 / CELL_PX), -0.5)
    # GridSample counts from -1 at the left edge of the first cell to 1 at the right edge of the last one.
    array = nodes.cast(nodes.lengths(descriptors, 3, 2), np.float32)
    grid = plus(nodes("Div", plus(times(u, 2), 1), array), -1)
    grid = nodes("Unsqueeze", grid, np.array([2]))
    sampled = nodes("GridSample", descriptors, grid, mode="bilinear", padding_mode="zeros", align_corners=0)
    sampled = nodes("Transpose", nodes("Squeeze", sampled, np.array([3])), perm=[0, 2, 1])
    return normalized(nodes, sampled, axis=2)


def _gathered(nodes: Nodes, values: str, rows: str, columns: str) -> str:
    """The values [B,1,H,W] at pixels [B,K,P], in an array of their shape."""
    index = nodes("Add", nodes("Mul", rows, nodes.length(values, 3)), columns)
    found = nodes("GatherElements", nodes("Flatten", values, axis=1), nodes("Flatten", index, axis=1), axis=1)
    return nodes("Reshape", found, nodes("Shape", index))


def _stacked(nodes: Nodes, *columns: str) -> str:
    return nodes("Concat", *(nodes("Unsqueeze", column, np.array([2])) for column in columns), axis=2)


def _width_height(nodes: Nodes, sizes: str) -> str:
    """float32 [B,1,2] (width, height) from int64 [B,2] (height, width)."""
    return nodes("Unsqueeze", nodes.cast(nodes("Gather", sizes, np.array([1, 0]), axis=1), np.float32), np.array([1]))
