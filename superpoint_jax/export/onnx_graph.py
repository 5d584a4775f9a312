"""ONNX files: network, decoding and, if wanted, matching in one graph."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from superpoint_jax.config import SuperPointConfig
from superpoint_jax.export.onnx_decoding import decoded_nodes
from superpoint_jax.export.onnx_matching import SIZES, with_matching
from superpoint_jax.export.onnx_network import dense_nodes
from superpoint_jax.export.onnx_nodes import Ends, Nodes
from superpoint_jax.export.signature import INPUTS, OUTPUTS, ExportedMatcher, check_input
from superpoint_jax.extraction import rules_of
from superpoint_jax.lightglue import LightGlue
from superpoint_jax.model import SuperPoint
from superpoint_jax.weights.config_json import ORIGIN
from superpoint_jax.weights.licence import NOTICE


def export_onnx(
    model: SuperPoint,
    path: str | os.PathLike[str],
    *,
    matcher: ExportedMatcher = None,
    shape: tuple[int, int] | None = None,
    channels: int = 1,
    batch: int | None = None,
    mixed_sizes: bool = False,
    weights: Literal["inside", "beside"] = "inside",
    **options: Any,
) -> list[Path]:
    """The paths of the files written, which contain `extract` as ONNX; with a `matcher`, `extract` and `match`.

    Inputs and outputs are those of `superpoint_jax.export.signature`. The keypoints are those of `extract`, with fixed
    K and mask.

    Args:
        model: Any SuperPoint, in float32.
        path: File to write.
        matcher: What matches the two images of each pair: a network, for example `superpoint_jax.LightGlue`, or
            "nearest" for mutual nearest neighbours. By default nothing is matched.
        shape: (height, width) of the arrays. By default they are free from call to call, at least 8x8. The file does
            not check what it is given.
        channels: 1 for gray, 3 for RGB.
        batch: Number of images. By default it is free. With a `matcher`, number of pairs, by default 1.
        mixed_sizes: Whether images of one call may have different sizes: the file then has the input `image_sizes`. An
            image in the top-left corner of its array gives the same result as without padding. It costs time in the
            network.
        weights: "inside" the file, or "beside" it in PATH.data, as ONNX's external data.
        **options: Options of `extract`. With max_keypoints=-1, K depends on the size of the images.

    Raises:
        ValueError: An option is out of range, or not possible in ONNX: greedy suppression (the preset "magicleap"),
            keypoints spread over a grid, enlarged images of mixed sizes, a compute type other than float32, a LightGlue
            that stops early, or a matcher for a free number of keypoints.
        OSError: The file can't be written.
        ImportError: onnx is not installed, or jax2onnx, which matchers need.
    """
    rules_of(model, options)  # It raises if an option does not exist or is fixed by the weights.
    config = model.config.replace(**options)
    _check_possible(config, matcher, mixed_sizes=mixed_sizes)
    check_input(shape, channels, weights)
    if batch is not None and not (isinstance(batch, int) and batch >= 1):
        raise ValueError(f"batch={batch!r}; a graph takes at least one image")
    for package in ("onnx", *(("jax2onnx",) if matcher is not None else ())):
        if find_spec(package) is None:
            raise ImportError(f"ONNX needs {package}: pip install 'superpoint-jax[export]'")

    pairs = batch or 1
    height, width = shape or ("height", "width")
    number: tuple[int | str, ...] = (batch or "batch",) if matcher is None else (pairs, 2)
    nodes = Nodes()
    inputs: Ends = {INPUTS[0]: (np.float32, (*number, height, width, channels))}
    if mixed_sizes:
        inputs[INPUTS[1]] = (np.int32, (*number, 2))
    images, *sizes = inputs
    if matcher is not None:
        images = nodes("Reshape", images, nodes.joined(np.array([-1]), nodes.lengths(images, 2, 3, 4)))
    dense = dense_nodes(nodes, model, images, *sizes or (None,), config=config, channels=channels)
    found = decoded_nodes(nodes, model, dense, config=config, masked=mixed_sizes)

    count = "keypoints_per_image" if config.max_keypoints == -1 else config.max_keypoints
    shapes = ((count, 2), (count,), (count, config.descriptor_decoder_dim), (count,))
    outputs: Ends = {
        name: (np.bool_ if name == "mask" else np.float32, (*number, *rest))
        for name, rest in zip(OUTPUTS, shapes, strict=True)
    }
    for value, (name, (_, form)) in zip(found, outputs.items(), strict=True):
        nodes.named(value if matcher is None else nodes("Reshape", value, np.array(form)), name)
    if matcher is None:
        return _saved(nodes.model(inputs, outputs), model, Path(path), weights)
    outputs[SIZES] = (np.int32, (pairs, 2, 2))
    every = nodes("Expand", dense.given, np.array([2 * pairs, 2]))
    nodes.named(nodes("Reshape", nodes.cast(every, np.int32), np.array([pairs, 2, 2])), SIZES)
    graph = with_matching(nodes.model(inputs, outputs), matcher, pairs, config)
    return _saved(graph, model, Path(path), weights)


def _check_possible(config: SuperPointConfig, matcher: ExportedMatcher, *, mixed_sizes: bool) -> None:
    if config.dtype != "float32":
        raise ValueError(f"dtype={config.dtype}: ONNX is written in float32; a runtime can lower the precision itself")
    if config.suppression_rule == "greedy":
        raise ValueError(
            "the greedy suppression of this variant is a loop, which ONNX files of this package don't have; export "
            'StableHLO, or choose suppression_rule="three_pass", which gives nearly the same keypoints'
        )
    if config.spread != "none":
        raise ValueError(f"spread={config.spread!r} is not possible in ONNX; export StableHLO")
    if config.enlarge != 1 and mixed_sizes:
        raise ValueError("enlarged images of mixed sizes are not possible in ONNX; export StableHLO")
    if isinstance(matcher, LightGlue) and matcher.config.depth_confidence is not None:
        raise ValueError(
            f"depth_confidence={matcher.config.depth_confidence}: in ONNX every layer runs; load the LightGlue without "
            f"depth_confidence, or export StableHLO"
        )
    if isinstance(matcher, LightGlue) and matcher.config.dtype != "float32":
        raise ValueError(f"the dtype of the LightGlue is {matcher.config.dtype}: ONNX is written in float32")
    if matcher is not None and config.max_keypoints == -1:
        raise ValueError("max_keypoints=-1: a matcher in ONNX needs a fixed number of keypoints")


def _saved(graph: Any, model: SuperPoint, path: Path, weights: str) -> list[Path]:
    """The paths of the files that contain a graph. Its metadata say whose licence its weights have."""
    import onnx

    if model.origin is not None:
        onnx.helper.set_model_props(graph, {ORIGIN: model.origin, "licence": NOTICE})
    if weights == "inside":
        onnx.save(graph, path)
        return [path]
    beside = path.with_name(path.name + ".data")
    beside.write_bytes(b"")  # onnx appends to the file.
    onnx.save(graph, path, save_as_external_data=True, location=beside.name, size_threshold=1024)
    return [path, beside]
