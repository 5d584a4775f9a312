"""Times of an exported ONNX file beside its dense network alone: `python -m benchmarks.exported`.

Both run in ONNX Runtime and in OpenVINO, in turns, on images of one size.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

import superpoint_jax as sp
from benchmarks.__main__ import provenance
from benchmarks.contenders.setting import Setting, photo
from superpoint_jax.export import export_onnx
from superpoint_jax.export.onnx_network import dense_nodes
from superpoint_jax.export.onnx_nodes import Nodes

Call = Callable[[], Any]


def main(
    *,
    height: int = 480,
    width: int = 640,
    max_keypoints: int = 1024,
    rounds: int = 15,
    json_path: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Time the file, its form for mixed sizes, and its dense network.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        max_keypoints: Rows of the output.
        rounds: Every round calls everything once.
        json_path: File to write the results to.
    """
    model = sp.from_pretrained()
    images = photo(Setting(batch=1, height=height, width=width, max_keypoints=max_keypoints))
    sizes = np.array([[height, width]], np.int32)
    calls: dict[str, Call] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in ("dense network", "whole", "whole, mixed sizes")}
        _write_dense(model, files["dense network"])
        export_onnx(model, files["whole"], max_keypoints=max_keypoints)
        export_onnx(model, files["whole, mixed sizes"], max_keypoints=max_keypoints, mixed_sizes=True)
        for name, path in files.items():
            feeds = {"images": images} | ({"image_sizes": sizes} if "mixed" in name else {})
            calls[f"ONNX Runtime, {name}"] = _in_onnx_runtime(path, feeds)
            calls[f"OpenVINO, {name}"] = _in_openvino(path, feeds)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 2):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if number >= 2:  # The first two are for warming up.
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        quartiles = statistics.quantiles(values, n=4)
        ratio = medians[name] / medians[name.split(",")[0] + ", dense network"]
        spread = f"{1e3 * quartiles[0]:.0f} to {1e3 * quartiles[2]:.0f}"
        print(f"{name:34} {1e3 * medians[name]:6.0f} ms ({spread}), {ratio:.2f} times its dense network")
    if json_path is not None:
        found = {"setting": {"height": height, "width": width, "max_keypoints": max_keypoints}, "seconds": seconds}
        json_path.write_text(json.dumps(provenance() | found, indent=1) + "\n", encoding="utf-8")


def _write_dense(model: sp.SuperPoint, path: Path) -> None:
    import onnx

    nodes = Nodes()
    dense = dense_nodes(nodes, model, "images", None, config=model.config, channels=1)
    nodes.named(dense.scores, "scores")
    nodes.named(dense.descriptors, "descriptors")
    outputs: Any = {
        "scores": (np.float32, ("batch", 1, "rows", "columns")),
        "descriptors": (np.float32, ("batch", 256, "cells_down", "cells_across")),
    }
    onnx.save(nodes.model({"images": (np.float32, ("batch", "height", "width", 1))}, outputs), path)


def _in_onnx_runtime(path: Path, feeds: dict[str, Any]) -> Call:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)


def _in_openvino(path: Path, feeds: dict[str, Any]) -> Call:
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore  (it forks the process)
    import openvino as ov  # pyright: ignore[reportMissingImports]

    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = ov.compile_model(str(path), "CPU", options)
    return lambda: compiled(feeds)


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.exported")
