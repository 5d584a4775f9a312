"""`python -m benchmarks`: times every contender in a process of its own, interleaved and warm."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from benchmarks.contenders import CONTENDERS, Setting

Suite = Literal["network", "decoding", "end-to-end"]
PACKAGES = ("superpoint-jax", "jax", "jaxlib", "flax", "torch", "transformers", "numpy")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Time SuperPoint here beside what a user would pick instead."""

    suite: tuple[Suite, ...] = ("network", "decoding", "end-to-end")
    """What is timed, each apart."""
    height: int = 480
    width: int = 640
    batch: int = 1
    max_keypoints: int = 1024
    rounds: int = 7
    """Every contender runs once a round, one after the other; ratios are taken round by round."""
    calls: int = 3
    """Calls a round; the median counts."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="OUT")] = None
    """File to keep the result in."""


class Worker:
    """A contender's process."""

    def __init__(self, name: str, suite: str, setting: Setting) -> None:
        self.name = name
        command = [sys.executable, "-m", "benchmarks.worker", name, suite, json.dumps(asdict(setting))]
        # A file, not a pipe: nobody reads it unless the process dies, and a full pipe would stop it.
        self.complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the worker)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.complaints, text=True
        )
        self.greeting = self._read()

    def run(self, calls: int) -> dict[str, Any]:
        """Seconds of each of `calls` calls, and the peak memory of the process."""
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
            raise RuntimeError(f"{self.name} ended early:\n{self.complaints.read()[-2000:]}")
        return json.loads(line)


def measure(suite: str, setting: Setting, *, rounds: int, calls: int) -> dict[str, Any]:
    """Median seconds of each contender with their spread, and the ratio to the last one, round by round."""
    workers, skipped = [], {}
    for name in CONTENDERS:
        worker = Worker(name, suite, setting)
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
    reference = seconds.get(list(CONTENDERS)[-1])
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


def main() -> None:
    """Measure, print a table a suite, write JSON."""
    arguments = tyro.cli(Arguments)
    setting = Setting(arguments.batch, arguments.height, arguments.width, arguments.max_keypoints)
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": {name: version(name) for name in PACKAGES},
        "suites": [],
    }
    print(f"{report['date']}, {report['machine']}, {setting}")
    for suite in arguments.suite:
        found = measure(suite, setting, rounds=arguments.rounds, calls=arguments.calls)
        report["suites"].append(found)
        print(f"\n{suite}")
        for name, row in found["results"].items():
            ratio = "" if row["ratio"] is None else f"   x {row['ratio']:.2f}"
            spread = f"{row['min_s'] * 1e3:.0f} to {row['max_s'] * 1e3:.0f}"
            peak = f"{row['peak_bytes'] / 2**20:.0f} MiB"
            print(f"  {name:26}{row['median_s'] * 1e3:9.1f} ms  ({spread} ms)   {peak:>9}{ratio}")
        for name, reason in found["skipped"].items():
            print(f"  {name:26}  skipped: {reason}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def version(package: str) -> str | None:
    """Installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine() -> str:
    """The device that jax sees and the processor, in words."""
    script = "import jax; print(jax.device_count(), 'x', jax.devices()[0].device_kind)"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return f"{answer.stdout.strip()}, {len(names) or 1} cores of {names[0] if names else processor}"


if __name__ == "__main__":
    main()
