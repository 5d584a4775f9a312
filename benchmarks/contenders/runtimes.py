"""Inference runtimes for CPUs, ONNX Runtime and OpenVINO, with only the dense network."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

from benchmarks.contenders.pytorch import dense_network, port
from benchmarks.contenders.setting import NotAvailable, Setting, photo


def onnx_runtime(suite: str, setting: Setting, dtype: str) -> Callable[[], Any]:
    """A call of ONNX Runtime on the CPU."""
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
