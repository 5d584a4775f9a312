"""Results of an evaluation: metrics of each pair and their means, as a table, as JSON and as a plot."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import matplotlib.figure

    from superpoint_jax.evaluation.detector import ShapesResult
    from superpoint_jax.evaluation.pose import PoseResult
from superpoint_jax.evaluation.stereo import StereoResult

CURVE_PX = tuple(range(1, 11))
"""Thresholds of the curves, in pixels."""

FIGURES_PX = (1, 3, 5)
"""Thresholds of the metrics in tables, in pixels."""


@dataclass(frozen=True, kw_only=True)
class PairResult:
    """The metrics of one pair; `superpoint_jax.evaluation.metrics` defines them.

    Attributes:
        name: Name of the pair.
        group: Group over which pairs are averaged: "i" or "v" in HPatches, else the sequence.
        keypoints: Numbers of keypoints in image a and in image b.
        visible: Numbers of those keypoints in the area that both images show.
        matches: Number of matches.
        repeatability: At the threshold of the protocol, like the next three metrics.
        localization_error: In pixels; NaN if no keypoint is repeated.
        matching_score: Correct matches divided by visible keypoints.
        nn_map: Mean average precision of nearest neighbours.
        matching_accuracy: Fraction of matches within each of `CURVE_PX`.
        homography_error: Mean error of the corners in pixels; infinity if no homography was found.
    """

    name: str
    group: str
    keypoints: tuple[int, int]
    visible: tuple[int, int]
    matches: int
    repeatability: float
    localization_error: float
    matching_score: float
    nn_map: float
    matching_accuracy: tuple[float, ...]
    homography_error: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One extractor on one set of pairs.

    Attributes:
        extractor: Name of the extractor.
        protocol: The options that the metrics depend on.
        pairs: Results of the pairs.
        seconds_per_image: Mean wall time of the extractor, without the first call, which may compile.
    """

    extractor: str
    protocol: dict[str, Any]
    pairs: tuple[PairResult, ...]
    seconds_per_image: float

    def groups(self) -> list[str]:
        """The groups in the order of the pairs."""
        return list(dict.fromkeys(pair.group for pair in self.pairs))

    def summary(self, group: str | None = None) -> dict[str, float]:
        """Means over the pairs of a group, or over all pairs; NaN if no pair has the metric."""
        pairs = [pair for pair in self.pairs if group in (None, pair.group)]
        means = {
            "pairs": float(len(pairs)),
            "keypoints": _mean([sum(pair.keypoints) / 2 for pair in pairs]),
            "matches": _mean([pair.matches for pair in pairs]),
            "repeatability": _mean([pair.repeatability for pair in pairs]),
            "localization_error": _mean([pair.localization_error for pair in pairs]),
            "matching_score": _mean([pair.matching_score for pair in pairs]),
            "nn_map": _mean([pair.nn_map for pair in pairs]),
        }
        for px in FIGURES_PX:
            accuracies = [pair.matching_accuracy[CURVE_PX.index(px)] for pair in pairs]
            means[f"matching_accuracy_{px}px"] = _mean(accuracies)
        for px in FIGURES_PX:
            means[f"homography_accuracy_{px}px"] = _mean([pair.homography_error <= px for pair in pairs])
        return means


def table(evaluations: Sequence[Evaluation]) -> str:
    """The means as text, with one line per extractor, first for all pairs, then for each group."""
    header = f"{'':24}{'rep.':>7}{'loc. err.':>11}{'accuracy 1/3/5 px':>21}{'score':>8}{'NN mAP':>8}"
    header += f"{'homography 1/3/5 px':>21}{'points':>8}{'matches':>9}{'ms/image':>10}"
    lines = []
    groups = list(dict.fromkeys(group for evaluation in evaluations for group in evaluation.groups()))
    for group in [None, *groups] if len(groups) > 1 else [None]:
        subset = [evaluation for evaluation in evaluations if group is None or group in evaluation.groups()]
        count = int(subset[0].summary(group)["pairs"]) if subset else 0
        lines += ["", f"{group or 'all'} ({count} pairs)", header]
        for evaluation in subset:
            mean = evaluation.summary(group)
            accuracy, homography = (
                " ".join(f"{mean[f'{what}_{px}px']:.3f}" for px in FIGURES_PX)
                for what in ("matching_accuracy", "homography_accuracy")
            )
            lines.append(
                f"{_short(evaluation.extractor):24}{mean['repeatability']:7.3f}{mean['localization_error']:11.2f}"
                f"{accuracy:>21}{mean['matching_score']:8.3f}{mean['nn_map']:8.3f}{homography:>21}"
                f"{mean['keypoints']:8.0f}{mean['matches']:9.0f}{1000 * evaluation.seconds_per_image:10.0f}"
            )
    return "\n".join(lines[1:])


def save_json(
    evaluations: Sequence[Evaluation] | Sequence[ShapesResult] | Sequence[StereoResult] | Sequence[PoseResult],
    path: str | Path,
) -> None:
    """Write results as JSON; for pairs, with their means, groups and every pair. Infinity and NaN become null."""
    content = [
        asdict(evaluation) | (_means(evaluation) if isinstance(evaluation, Evaluation) else {})
        for evaluation in evaluations
    ]
    Path(path).write_text(json.dumps(_finite(content), indent=1, allow_nan=False) + "\n")


def _means(evaluation: Evaluation) -> dict[str, Any]:
    groups = {group: evaluation.summary(group) for group in evaluation.groups()}
    return {"curve_px": CURVE_PX, "mean": evaluation.summary(), "groups": groups}


def plot(evaluations: Sequence[Evaluation], path: str | Path | None = None) -> matplotlib.figure.Figure:
    """A plot of matching accuracy and homography accuracy over the threshold, and of the other metrics as bars.

    Args:
        evaluations: Evaluations; each gets its own colour.
        path: File to write, in the format of its suffix.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    matching, homography, bars = figure.subplots(1, 3)
    names = ("repeatability", "matching_score", "nn_map")
    width = 0.8 / max(len(evaluations), 1)
    for i, evaluation in enumerate(evaluations):
        label = _short(evaluation.extractor)
        curves = np.array([pair.matching_accuracy for pair in evaluation.pairs]).mean(axis=0)
        matching.plot(CURVE_PX, curves, marker="o", markersize=3, label=label)
        errors = np.array([pair.homography_error for pair in evaluation.pairs])
        homography.plot(CURVE_PX, [np.mean(errors <= px) for px in CURVE_PX], marker="o", markersize=3, label=label)
        mean = evaluation.summary()
        places = np.arange(len(names)) + (i - (len(evaluations) - 1) / 2) * width
        bars.bar_label(bars.bar(places, [mean[name] for name in names], width), fmt="%.2f", fontsize=7)
    for axes, title in ((matching, "correct matches"), (homography, "correct homographies")):
        axes.set(title=title, xlabel="threshold (px)", xticks=CURVE_PX, ylim=(0, 1), ylabel="fraction")
        axes.grid(alpha=0.3)
    threshold = evaluations[0].protocol["threshold_px"] if evaluations else 3
    bars.set(title=f"at {threshold:g} px", ylim=(0, 1))
    bars.set_xticks(range(len(names)), ["repeatability", "matching score", "NN mAP"])
    if evaluations:
        matching.legend(loc="lower right", fontsize=8)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _mean(values: Sequence[float | int | bool]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _short(name: str) -> str:
    return name if len(name) <= 23 else "…" + name[-22:]


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
