"""What compilers make of this library for chips that are not there: `python -m benchmarks.ahead`.

The compilers need environments of their own, because a process can have only one of them:

    python -m venv tpu && tpu/bin/pip install '.[train]' libtpu
    python -m venv cuda && cuda/bin/pip install '.[train]' 'jax[cuda13]'
    python -m benchmarks.ahead --tpu tpu/bin/python --cuda cuda/bin/python --output ahead.json

All figures are estimated by the compiler, not run. A cost model ranks programs; it does not measure them, and it has no
estimate for sorts, gathers and scatters, which are counted instead.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.compiled import BATCH, CHIPS, HEIGHT, KEYPOINTS, PROGRAMS, STAGES, TRAINING_SHAPE, WIDTH
from benchmarks.contenders.setting import Setting
from benchmarks.draw import COLORS
from benchmarks.floor import BYTES, work
from superpoint_jax.config import SuperPointConfig

NOTE = "estimated by the compiler, not run"
REPOSITORY = Path(__file__).parents[1]


def floor_seconds(chip: str, dtype: str) -> dict[str, float]:
    """The shortest time of the dense network, by the data sheet: of its operations, and of its bytes.

    The matrix units multiply bfloat16; float32 takes at least three passes.
    """
    need = work(SuperPointConfig.preset("superpoint_jax"), Setting(BATCH, HEIGHT, WIDTH, KEYPOINTS), dtype)
    passes = 3 if dtype == "float32" else 1
    return {
        "operations": passes * need["operations"] / CHIPS[chip].operations_per_s,
        "bytes": need["bytes"] / CHIPS[chip].bytes_per_s,
    }


def compile_in(python: Path, chip: str, program: str, dtype: str, devices: int) -> dict[str, Any]:
    """The result of `benchmarks.compiled` in another environment, or the reason why there is none."""
    command = [str(python), "-m", "benchmarks.compiled", chip, program, dtype, str(devices)]
    # jax[cuda13] refuses to start where CUDA's libraries can't say their versions, which a compiler does not need.
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1] if lines else f"the compiler ended with code {done.returncode}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def line(row: dict[str, Any]) -> str:
    """A line of the table."""
    title = f"{row['chip']:8} {row['program']:29} {row['dtype']:9} {row['devices']:2} chips"
    if "error" in row:
        return f"  {title}  not compiled: {row['error'][:200]}"
    chip = CHIPS[row["chip"]]
    found = row["cycles"] if chip.topology[0] else row["kernels"]
    total = sum(found.values())
    size = f"{total / 1e6:6.2f} M cycles" if chip.topology[0] else f"{total:5d} kernels"
    if row["program"].startswith("extract") and chip.topology[0]:
        size += f" (floor {max(floor_seconds(row['chip'], row['dtype']).values()) * chip.clock_hz / 1e6:.2f} M)"
    collectives = ", ".join(sorted({f"{c['kind']} of {c['values']} values" for c in row["collectives"]})) or "none"
    return (
        f"  {title}  {size}  {row['temporaries'] / 1e6:6.0f} MB  compiled in {row['compile_s']:.0f} s "
        f"({row['compile_cpu_s']:.0f} CPU s)  largest sort {max(row['sorts'], default=0)}  "
        f"{row['without_estimate']} operations without estimate  collectives: {collectives}"
    )


def drawn(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results that the picture shows."""
    return [row for row in rows if row["program"] == "extract" and row["devices"] == 1 and "error" not in row]


def draw(rows: list[dict[str, Any]], title: str) -> Any:
    """A figure with a bar per chip and type, divided by stage: cycles of `extract` for TPUs, kernels for GPUs."""
    import matplotlib.pyplot as plt

    chosen = drawn(rows)
    panels = {
        "million cycles": [row for row in chosen if CHIPS[row["chip"]].topology[0]],
        "kernels": [row for row in chosen if CHIPS[row["chip"]].target],
    }
    panels = {name: found for name, found in panels.items() if found}
    figure, axes = plt.subplots(
        len(panels),
        figsize=(9, 1.6 + 0.5 * len(chosen) + 0.6 * len(panels)),
        height_ratios=[len(found) for found in panels.values()],
        layout="constrained",
        squeeze=False,
    )
    stages = (*STAGES, "other")
    shades = [*COLORS, "#882255", "#AA4499", "#DDCC77", "#BBBBBB"]
    for panel, (unit, found) in zip(axes[:, 0], panels.items(), strict=True):
        names = [f"{row['chip']}, {row['dtype']}" for row in found][::-1]
        left = [0.0] * len(found)
        for stage, shade in zip(stages, shades, strict=True):
            values = [
                row["cycles"].get(stage, 0) / 1e6 if unit == "million cycles" else row["kernels"].get(stage, 0)
                for row in found[::-1]
            ]
            panel.barh(names, values, left=left, color=shade, label=stage.replace("_", " "))
            left = [a + b for a, b in zip(left, values, strict=True)]
        if unit == "million cycles":
            for position, row in enumerate(found[::-1]):
                floor = max(floor_seconds(row["chip"], row["dtype"]).values()) * CHIPS[row["chip"]].clock_hz / 1e6
                panel.plot([floor, floor], [position - 0.45, position + 0.45], color="black", lw=2)
        panel.set_xlabel(unit + (", the black line is the floor of the network" if unit == "million cycles" else ""))
        panel.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(fontsize="x-small", ncols=2, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(f"{title}\n{NOTE}", fontsize="medium")
    return figure


def main(
    *,
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    tpu: Path | None = None,
    cuda: Path | None = None,
    chips: tuple[str, ...] = tuple(CHIPS),
    programs: tuple[str, ...] = PROGRAMS,
    dtypes: tuple[str, ...] = tuple(BYTES),
    devices: tuple[int, ...] = (1,),
) -> None:
    """Compile this library for chips that are not there, print what the compilers say, and draw it.

    Args:
        output: JSON file for the result; the picture lies beside it as PNG.
        tpu: Python of an environment with libtpu.
        cuda: Python of an environment with jax[cuda13].
        chips: Chips to compile for.
        programs: Programs to compile.
        dtypes: Compute types.
        devices: Numbers of chips that share a batch; more than one is for TPUs only.
    """
    if tpu is None and cuda is None:
        sys.exit(f"give the environments of the compilers, --tpu and --cuda, which are made so:\n{__doc__}")
    if unknown := [name for name in chips if name not in CHIPS]:
        sys.exit(f"chips {', '.join(unknown)} are not known; choose from {', '.join(CHIPS)}")
    if unknown := [name for name in programs if name not in PROGRAMS]:
        sys.exit(f"programs {', '.join(unknown)} are not known; choose from {', '.join(PROGRAMS)}")
    report: dict[str, Any] = {"date": datetime.date.today().isoformat(), "note": NOTE, "results": []}
    title = f"{HEIGHT}x{WIDTH}, batch {BATCH} per chip, {KEYPOINTS} keypoints"
    print(f"{report['date']}, {title}; training views {TRAINING_SHAPE[0]}x{TRAINING_SHAPE[1]}: {NOTE}")
    for chip in chips:
        python = cuda if CHIPS[chip].target else tpu
        if python is None:
            print(f"  {chip}: left out, because its environment is not given")
            continue
        for program in programs:
            # Descriptors are float32 in every compute type.
            for dtype in dtypes if program != "match" else dtypes[:1]:
                for count in devices if CHIPS[chip].topology[0] else (1,):
                    row = {"chip": chip, "program": program, "dtype": dtype, "devices": count}
                    report["results"].append(row | compile_in(python, chip, program, dtype, count))
                    print(line(report["results"][-1]), flush=True)
                    output.parent.mkdir(parents=True, exist_ok=True)
                    output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if drawn(report["results"]):
        import matplotlib as mpl

        mpl.use("agg")
        picture = output.with_suffix(".png")
        draw(report["results"], title).savefig(picture, dpi=100)
        print(f"wrote {picture}")


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.ahead")
