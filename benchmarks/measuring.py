"""Timing of contenders, each in its own process, in rounds in which every contender runs once."""

from __future__ import annotations

import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from typing import Any

from benchmarks.contenders import REFERENCE
from benchmarks.contenders.setting import Setting

FAILED = "failed: "
"""What the reason begins with if a contender ended with an error."""


class Worker:
    """The process of a contender, which is skipped if it is not ready after `patience` seconds."""

    def __init__(self, name: str, suite: str, setting: Setting, *, patience: float, **environment: str) -> None:
        self.name = name
        command = [sys.executable, "-m", "benchmarks.worker", name, suite, json.dumps(asdict(setting))]
        # A file, because a pipe that is not read while the process lives could become full and block the process.
        self.complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the worker)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.complaints,
            text=True,
            env=os.environ | environment,
        )
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], patience)[0]:
            self.process.kill()
            self.greeting = {"skipped": f"two calls take more than {patience:.0f} s here"}
            return
        try:
            self.greeting = self._read()
        except RuntimeError as error:
            self.greeting = {"skipped": f"{FAILED}{error}"}

    def run(self, calls: int) -> dict[str, Any]:
        """The seconds of each of `calls` calls, and the peak memory of the process."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        self.process.communicate()
        self.complaints.close()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.complaints.seek(0)
            lines = self.complaints.read().strip().splitlines()
            raise RuntimeError(lines[-1] if lines else f"{self.name} ended early")
        return json.loads(line)


def measure(
    suite: str, setting: Setting, names: list[str], *, rounds: int, calls: int, patience: float
) -> dict[str, Any]:
    """Median seconds of each contender with their spread, and the median of the ratios to the reference per round."""
    workers, skipped = [], {}
    for name in names:
        worker = Worker(name, suite, setting, patience=patience)
        if "skipped" in worker.greeting:
            skipped[name] = worker.greeting["skipped"]
            worker.close()
        else:
            workers.append(worker)
    seconds: dict[str, list[float]] = {worker.name: [] for worker in workers}
    peaks: dict[str, int] = {}
    for _ in range(rounds):
        for worker in workers:
            answer = worker.run(calls)
            seconds[worker.name].append(statistics.median(answer["seconds"]))
            peaks[worker.name] = answer["peak_bytes"]
    for worker in workers:
        worker.close()
    reference = seconds.get(REFERENCE)
    results = {}
    for worker in workers:
        times = seconds[worker.name]
        ratios = [t / r for t, r in zip(times, reference, strict=True)] if reference else None
        results[worker.name] = {
            "median_s": statistics.median(times),
            "min_s": min(times),
            "max_s": max(times),
            "ratio": statistics.median(ratios) if ratios else None,
            "peak_bytes": peaks[worker.name],
            "seconds_to_first_result": worker.greeting["seconds_to_first_result"],
        }
    return {"suite": suite, "setting": asdict(setting), "results": results, "skipped": skipped}


def measure_first_result(setting: Setting, names: list[str], *, patience: float) -> dict[str, Any]:
    """Seconds from the imports to the first end-to-end result, without and with a compilation cache."""
    results, skipped = {}, {}

    def greeting(name: str, **environment: str) -> dict[str, Any]:
        worker = Worker(name, "end-to-end", setting, patience=patience, **environment)
        worker.close()
        return worker.greeting

    for name in names:
        cold = greeting(name)
        if "skipped" in cold:
            skipped[name] = cold["skipped"]
            continue
        results[name] = {
            "cold_s": cold["seconds_to_first_result"],
            "first_call_extra_cpu_s": cold["first_call_extra_cpu_s"],
        }
        if CACHED in name:
            with tempfile.TemporaryDirectory() as folder:
                cache = dict(JAX_COMPILATION_CACHE_DIR=folder, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
                _, warm = (greeting(name, **cache) for _ in range(2))
            results[name] |= dict(compiling_s=cold["compiling_s"], cached_s=warm["seconds_to_first_result"])
    return {"suite": "first-result", "setting": asdict(setting), "results": results, "skipped": skipped}


CACHED = "superpoint_jax"
"""Contenders with this in their name are also timed with a compilation cache."""
