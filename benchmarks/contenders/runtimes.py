"""Inference runtimes for CPUs, ONNX Runtime and OpenVINO, with only the dense network."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks.contenders.ours import features
from benchmarks.contenders.pytorch import dense_network, port
from benchmarks.contenders.setting import NotAvailable, Setting, photo


def onnx_runtime(suite: str, setting: Setting, dtype: str) -> Callable[[], Any]:
    """A call of ONNX Runtime on the CPU."""
    if suite == "lightglue":
        return _lightglue(setting)
    _only_network(suite)
    import onnxruntime  # pyright: ignore[reportMissingImports]
    import torch

    images = photo(setting).transpose(0, 3, 1, 2).copy()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "network.onnx")
        network = dense_network(port(setting).cpu())
        torch.onnx.export(
            network, (torch.from_numpy(images),), path, input_names=["images"], dynamo=True, verbose=False
        )
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"images": images})


def _lightglue(setting: Setting) -> Callable[[], Any]:
    """A call of this library's LightGlue, converted by jax2onnx as `export` does."""
    import jax
    import numpy as np
    import onnx
    import onnxruntime  # pyright: ignore[reportMissingImports]
    from flax import nnx
    from jax.extend.core import jaxpr_as_fun
    from jax2onnx import to_onnx

    import superpoint_jax as sp

    matcher = sp.LightGlue(sp.LightGlueConfig(), rngs=nnx.Rngs(0))
    a, b = features(setting)

    def matched(points_a: Any, descriptors_a: Any, points_b: Any, descriptors_b: Any) -> Any:
        found = sp.match(
            replace(a, keypoints=points_a, descriptors=descriptors_a),
            replace(b, keypoints=points_b, descriptors=descriptors_b),
            matcher=matcher,
        )
        return found.indices, found.scores

    given = [np.asarray(array) for side in (a, b) for array in (side.keypoints, side.descriptors)]
    names = ["points_a", "descriptors_a", "points_b", "descriptors_b"]
    shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in given]
    traced = jax.make_jaxpr(matched)(*shapes)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "lightglue.onnx")
        graph: Any = to_onnx(jaxpr_as_fun(traced), shapes, model_name="lightglue", opset=18, input_names=names)
        onnx.save(graph, path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = dict(zip(names, given, strict=True))
    return lambda: session.run(None, inputs)


def openvino(suite: str, setting: Setting, dtype: str) -> Callable[[], Any]:
    """A call of OpenVINO on the CPU, in latency mode and the inference precision `dtype`."""
    _only_network(suite)
    import openvino as ov  # pyright: ignore[reportMissingImports]
    import torch

    images = photo(setting).transpose(0, 3, 1, 2).copy()
    network = dense_network(port(setting).cpu())
    converted = ov.convert_model(network, example_input=torch.from_numpy(images), input=[images.shape])
    precision = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    compiled = ov.compile_model(converted, "CPU", options)
    return lambda: compiled([images])


def _only_network(suite: str) -> None:
    if suite != "network":
        raise NotAvailable("it computes only the dense network")
