"""`python -m benchmarks.draw RESULT.json... -o FOLDER`: pictures of results that `python -m benchmarks` wrote.

There is one picture per result. For a sweep it shows throughput over batch, or latency over resolution or keypoints,
with logarithmic axes; for a single setting, the time of each contender by suite.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

COLORS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#999999", "#000000")
"""The colours of Okabe and Ito, which colour-blind people can distinguish."""

AXES: dict[str, tuple[str, str, Callable[[dict[str, Any]], float], Callable[[dict[str, Any], float], float]]] = {
    "batch": ("images per batch", "images per second", lambda s: s["batch"], lambda s, seconds: s["batch"] / seconds),
    "resolution": (
        "megapixels",
        "milliseconds per image",
        lambda s: s["height"] * s["width"] / 1e6,
        lambda s, seconds: 1e3 * seconds / s["batch"],
    ),
    "keypoints": (
        "keypoints per image",
        "milliseconds per image",
        lambda s: s["max_keypoints"],
        lambda s, seconds: 1e3 * seconds / s["batch"],
    ),
}
"""For each sweep: label of x, label of y, x of a setting, y of a setting and its seconds."""


def varying(suites: list[dict[str, Any]]) -> str | None:
    """The sweep in which the settings of a result differ; None if all settings are equal."""
    settings = [suite["setting"] for suite in suites]
    for name, fields in (("batch", ["batch"]), ("resolution", ["height", "width"]), ("keypoints", ["max_keypoints"])):
        if len({tuple(setting[field] for field in fields) for setting in settings}) > 1:
            return name
    return None


def draw_sweep(suites: list[dict[str, Any]], axis: str, title: str) -> Any:
    """A figure with one line per contender over a sweep, for the first suite of the result."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    x_label, y_label, x_of, y_of = AXES[axis]
    chosen = [suite for suite in suites if suite["suite"] == suites[0]["suite"]]
    names = list(dict.fromkeys(name for suite in chosen for name in suite["results"]))
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for color, name in zip(_colors(len(names)), names, strict=True):
        points = [
            (x_of(suite["setting"]), y_of(suite["setting"], suite["results"][name]["median_s"]))
            for suite in chosen
            if name in suite["results"]
        ]
        axes.plot(*zip(*points, strict=True), "o-", color=color, label=name)
    axes.set(xlabel=x_label, ylabel=y_label, xscale="log", yscale="log")
    axes.set_title(f"{chosen[0]['suite']}\n{title}", fontsize="medium")
    ticks = sorted({x_of(suite["setting"]) for suite in chosen})
    axes.set_xticks(ticks, [f"{tick:.3g}" if tick < 100 else f"{tick:.0f}" for tick in ticks])
    axes.set_xticks([], minor=True)
    values = [value for line in axes.get_lines() for value in np.asarray(line.get_ydata())]
    if max(values) < 3 * min(values):
        # A logarithmic axis would exaggerate small differences.
        axes.set_yscale("linear")
        axes.set_ylim(0, 1.2 * max(values))
    else:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter("")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(which="both", alpha=0.25)
    axes.legend(fontsize="small")
    return figure


def draw_suites(suites: list[dict[str, Any]], title: str) -> Any:
    """A figure with one panel per suite and one bar per contender, with the spread of the rounds."""
    import matplotlib.pyplot as plt

    suites = [suite for suite in suites if any("median_s" in row for row in suite["results"].values())]
    heights = [max(len(suite["results"]), 1) for suite in suites]
    figure, panels = plt.subplots(
        len(suites),
        figsize=(8, 0.9 + 0.32 * sum(heights) + 0.6 * len(suites)),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    for axes, suite in zip(panels[:, 0], suites, strict=True):
        rows = suite["results"]
        names = list(rows)[::-1]
        medians = [1e3 * rows[name]["median_s"] for name in names]
        spread = [
            [1e3 * (rows[name]["median_s"] - rows[name]["min_s"]) for name in names],
            [1e3 * (rows[name]["max_s"] - rows[name]["median_s"]) for name in names],
        ]
        ours = suite["suite"] == "stages"
        colors = [COLORS[0] if ours or name.startswith("superpoint_jax") else COLORS[6] for name in names]
        bars = axes.barh(names, medians, xerr=spread, color=colors, error_kw=dict(lw=0.8))
        axes.bar_label(
            bars, [f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in medians], padding=6, fontsize="small"
        )
        axes.set_title(suite["suite"], loc="left", fontsize="medium")
        axes.margins(x=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1, 0].set_xlabel("milliseconds, median with smallest and largest")
    figure.suptitle(title, fontsize="medium")
    return figure


def main(
    results: tyro.conf.Positional[tuple[Path, ...]],
    *,
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
) -> None:
    """Draw results.

    Args:
        results: JSON files written by `python -m benchmarks`.
        output: Folder for the pictures, one NAME.png per result.
    """
    import matplotlib as mpl

    mpl.use("agg")
    output.mkdir(parents=True, exist_ok=True)
    for path in results:
        report = json.loads(path.read_text())
        if not report["suites"]:
            sys.exit(f"{path} contains no measurement")
        setting = report["suites"][0]["setting"]
        axis = varying(report["suites"])
        size = f"{setting['height']}x{setting['width']}"
        title = f"{size}, {setting['max_keypoints']} keypoints, batch {setting['batch']}"
        where = f"{report['machine']}, {report['date']}"
        if axis is None:
            figure = draw_suites(report["suites"], f"{title}\n{where}")
        else:
            figure = draw_sweep(report["suites"], axis, where)
        target = output / f"{path.stem}.png"
        figure.savefig(target, dpi=100)
        print(f"wrote {target}")


def _colors(count: int) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(count)]


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.draw")
