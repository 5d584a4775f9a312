"""Inference runtimes for CPUs, ONNX Runtime and OpenVINO, with only the dense network."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
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
    """A call of this library's LightGlue, converted as `export` does."""
    import numpy as np
    import onnx
    import onnxruntime  # pyright: ignore[reportMissingImports]
    from flax import nnx

    import superpoint_jax as sp
    from superpoint_jax.export.onnx_matching import MATCHED, SIZES, matching_graph

    matcher = sp.LightGlue(sp.LightGlueConfig(), rngs=nnx.Rngs(0))
    a, b = features(setting)
    pairs, rows, dim = a.descriptors.shape
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "lightglue.onnx")
        onnx.save(matching_graph(matcher, pairs, rows, dim), path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    fields = [name.removeprefix(MATCHED).replace(SIZES, "image_sizes") for name in names]
    inputs = {
        name: np.stack([getattr(side, field) for side in (a, b)], axis=1)
        for name, field in zip(names, fields, strict=True)
    }
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
