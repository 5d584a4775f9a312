"""What Winograd's filtering buys on this processor and costs to compile: `python -m benchmarks.winograd --json OUT`.

`extract` with all convolutions direct, and with those by Winograd whose operations for an image exceed a threshold, be
the processor one for which convolution/choice.py chooses so or not. A process each, in rounds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import tyro

from benchmarks.__main__ import provenance
from benchmarks.contenders.setting import Setting, photo

THRESHOLDS = {"none": 1e99, "above 10 GFLOP": 1e10, "above 4 GFLOP": 4e9, "above 2 GFLOP": 2e9, "above 1 GFLOP": 1e9}
CALLS = 9


def measure_threshold(setting: Setting, min_operations: float) -> dict[str, float]:
    """Seconds to trace and compile `extract`, and the median of calls."""
    import jax
    import jax.numpy as jnp

    import superpoint_jax as sp
    from superpoint_jax.convolution import choice, processor

    model = sp.from_pretrained(max_keypoints=setting.max_keypoints)
    images = jnp.asarray(photo(setting))
    seconds = []
    with (
        mock.patch.object(choice, "MIN_OPERATIONS", dict.fromkeys(choice.MIN_OPERATIONS, min_operations)),
        mock.patch.object(processor, "flags", return_value=frozenset({"avx2"})),
    ):
        for _ in range(CALLS + 1):
            started = time.perf_counter()
            jax.block_until_ready(sp.extract(model, images))
            seconds.append(time.perf_counter() - started)
    return {"median_s": statistics.median(seconds[1:]), "first_s": seconds[0]}


def main(
    *,
    height: int = 480,
    width: int = 640,
    rounds: int = 3,
    json_path: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Measure, print and write.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        rounds: Every threshold has its turn in each.
        json_path: File of the results.
    """
    setting = Setting(1, height, width, 1024)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in THRESHOLDS}
    for _ in range(rounds):
        for name, rows in found.items():
            command = [sys.executable, "-m", "benchmarks.winograd", json.dumps(asdict(setting)), str(THRESHOLDS[name])]
            rows.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    results: dict[str, Any] = {}
    for name, rows in found.items():
        ratios = [row["median_s"] / direct["median_s"] for row, direct in zip(rows, found["none"], strict=True)]
        results[name] = {key: statistics.median(row[key] for row in rows) for key in ("median_s", "first_s")}
        results[name]["ratio"] = statistics.median(ratios)
        print(
            f"  {name:16}{results[name]['median_s'] * 1e3:7.0f} ms   x {results[name]['ratio']:.2f}   "
            f"first call {results[name]['first_s']:5.1f} s"
        )
    report = {**provenance(), "setting": asdict(setting), "results": results}
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].startswith("{"):
        print(json.dumps(measure_threshold(Setting(**json.loads(sys.argv[1])), float(sys.argv[2]))))
    else:
        tyro.cli(main, prog="python -m benchmarks.winograd")
