"""`python -m benchmarks`: times every contender in its own process, warmed up, in interleaved rounds."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from benchmarks.contenders import CONTENDERS, REFERENCE
from benchmarks.contenders.setting import Setting, Suite
from benchmarks.floor import BYTES, floor_seconds
from benchmarks.measuring import FAILED, measure, measure_first_result
from superpoint_jax.config import SuperPointConfig

PACKAGES = ("superpoint-jax", "jax", "jaxlib", "flax", "torch", "transformers", "onnxruntime", "openvino", "numpy")

SWEEPS: dict[str, list[dict[str, int]]] = {
    "batch": [dict(batch=batch) for batch in (1, 2, 4, 8, 16, 32, 64)],
    "resolution": [
        dict(height=height, width=width)
        for height, width in ((240, 320), (480, 640), (720, 960), (1080, 1920), (2160, 3840))
    ],
    "keypoints": [dict(max_keypoints=count) for count in (256, 512, 1024, 2048, 4096, 8192)],
}
"""The values of each sweep; the other options keep their values."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Time this library and its alternatives."""

    suite: tuple[Suite | Literal["first-result", "stages"], ...] = ("network", "decoding", "end-to-end")
    """What is timed; each suite is timed separately."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Device of all contenders; by default jax and torch each choose their own."""
    contenders: tuple[str, ...] = ()
    """Only contenders whose name contains one of these."""
    reference: bool = True
    """Also time transformers in float32, the reference of the ratios; it needs 1 GiB per image of 480x640."""
    sweep: Literal["none", "batch", "resolution", "keypoints"] = "none"
    """Repeat the suites over a range of values of this."""
    height: int = 480
    width: int = 640
    batch: int = 1
    max_keypoints: int = 1024
    rounds: int = 7
    """Number of rounds. In each, every contender runs once, one after the other, and a ratio is computed."""
    calls: int = 3
    """Calls per round; the median is used."""
    patience: float = 240
    """Seconds after which a contender that is not ready is skipped; it makes two calls to be ready."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="OUT")] = None
    """File to write the result to."""


def main() -> None:
    """Measure, print one table per suite, and write JSON."""
    arguments = tyro.cli(Arguments, prog="python -m benchmarks")
    choose_device(arguments.device)
    names = selected(arguments.contenders, reference=arguments.reference)
    setting = Setting(arguments.batch, arguments.height, arguments.width, arguments.max_keypoints)
    needed = {"network", "stages"} & set(arguments.suite)
    ceilings = json.loads(_of_a_process("-m", "benchmarks.floor")) if needed else None
    report = {**provenance(), "ceilings": ceilings, "suites": []}
    print(f"{report['date']}, {report['machine']}")
    if ceilings is not None:
        rates = ", ".join(f"{ceilings[dtype]['operations_per_s'] / 1e9:.0f} GFLOP/s in {dtype}" for dtype in BYTES)
        print(f"ceilings: {rates}, {ceilings['bytes_per_s'] / 1e9:.0f} GB/s")
    for changes in SWEEPS.get(arguments.sweep, [{}]):
        for suite in arguments.suite:
            changed = replace(setting, **changes)
            if suite == "first-result":
                found = measure_first_result(changed, names, patience=arguments.patience)
            elif suite == "stages":
                found = measure_stages(changed, ceilings, rounds=arguments.rounds)
            else:
                found = measure(
                    suite,
                    changed,
                    names,
                    rounds=arguments.rounds,
                    calls=arguments.calls,
                    patience=arguments.patience,
                )
            if suite == "network" and ceilings is not None:
                add_floor(found, changed, ceilings)
            report["suites"].append(found)
            print(f"\n{suite}, {changed}")
            print("\n".join(table(found)), flush=True)
            if arguments.json:  # Written after each suite, so that a sweep that is stopped keeps its results.
                arguments.json.parent.mkdir(parents=True, exist_ok=True)
                arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    if failed := failures(report["suites"]):
        sys.exit(f"these failed, and have no result: {', '.join(failed)}")


def failures(suites: list[dict[str, Any]]) -> list[str]:
    """The contenders that ended with an error, and where, unlike those that say why they do not take part."""
    return [
        f"{name} in {suite['suite']}, {Setting(**suite['setting'])}"
        for suite in suites
        for name, reason in suite.get("skipped", {}).items()
        if reason.startswith(FAILED)
    ]


def selected(parts: tuple[str, ...], *, reference: bool = True) -> list[str]:
    """Contenders whose name contains one of the parts (all if there are no parts), and the reference of the ratios."""
    found = [name for name in CONTENDERS if not parts or any(part in name for part in parts)]
    names = [name for name in CONTENDERS if name in found or (reference and name == REFERENCE)]
    if not found:
        sys.exit(f"no contender's name contains {' or '.join(parts)}; there are: {', '.join(CONTENDERS)}")
    return names


def choose_device(device: str) -> None:
    """Set the device of all processes that are started from here."""
    if device == "auto":
        return
    os.environ["JAX_PLATFORMS"] = {"gpu": "cuda"}.get(device, device)
    if device != "gpu":  # torch would use a GPU if it found one.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        _of_a_process("-c", "import jax; jax.devices()")
    except subprocess.CalledProcessError as error:
        sys.exit(f"jax finds no {device} here: {error.stderr.strip().splitlines()[-1]}")


def measure_stages(setting: Setting, ceilings: dict[str, Any] | None, *, rounds: int) -> dict[str, Any]:
    """The time of each stage, and its rate as a fraction of the highest measured rate."""
    assert ceilings is not None
    results = json.loads(_of_a_process("-m", "benchmarks.stages", json.dumps(asdict(setting)), str(rounds)))
    for name, row in results.items():
        dtype = name.split(", ")[1]
        row["ceiling_fraction"] = row["operations"] / row["median_s"] / ceilings[dtype]["operations_per_s"]
    return {"suite": "stages", "setting": asdict(setting), "results": results, "skipped": {}}


def add_floor(found: dict[str, Any], setting: Setting, ceilings: dict[str, Any]) -> None:
    """Add to the result of a suite the floor of the setting, and the fraction of it that each contender reaches."""
    config = SuperPointConfig.preset("superpoint_jax")
    found["floor_s"] = {dtype: floor_seconds(config, setting, dtype, ceilings) for dtype in BYTES}
    for name, row in found["results"].items():
        row["floor_fraction"] = found["floor_s"]["bfloat16" if "bfloat16" in name else "float32"] / row["median_s"]


def table(found: dict[str, Any]) -> list[str]:
    """The lines of the table, one per contender."""
    lines = []
    for name, row in found["results"].items():
        if found["suite"] == "first-result":
            compiling = f" ({row['compiling_s']:.1f} s compiling)" if "compiling_s" in row else ""
            cached = f"{row['cached_s']:9.1f} s with the persistent cache" if "cached_s" in row else ""
            cpu = f", first call {row['first_call_extra_cpu_s']:.1f} CPU s more than the second"
            lines.append(f"  {name:34}{row['cold_s']:9.1f} s cold{compiling}{cpu} {cached}")
            continue
        spread = f"{row['min_s'] * 1e3:.0f} to {row['max_s'] * 1e3:.0f}"
        line = f"  {name:34}{row['median_s'] * 1e3:9.1f} ms  ({spread} ms)"
        if row.get("operations"):
            rate = row["operations"] / row["median_s"] / 1e9
            line += f"   {rate:5.0f} GFLOP/s of the direct sum, {row['ceiling_fraction']:.0%} of the ceiling"
        if "peak_bytes" in row:
            line += f"   {row['peak_bytes'] / 2**20:5.0f} MiB"
        if row.get("ratio") is not None:
            line += f"   x {row['ratio']:.2f}"
        if "floor_fraction" in row:
            line += f"   {row['floor_fraction']:.0%} of the floor's speed"
        lines.append(line)
    return [*lines, *(f"  {name:34}skipped: {reason}" for name, reason in found["skipped"].items())]


def provenance() -> dict[str, Any]:
    """Date, machine and versions, the first entries of every result."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def version(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine() -> str:
    """The device of jax and the processor, as text."""
    script = "import jax; print(jax.device_count(), 'x', jax.devices()[0].device_kind)"
    device = _of_a_process("-c", script)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    units = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{device}, {len(names) or 1} cores of {processor} ({', '.join(units) or 'no AVX-512'})"


def _of_a_process(*arguments: str) -> str:
    """What Python prints with these arguments, in another process, so that this one does not occupy the device."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
