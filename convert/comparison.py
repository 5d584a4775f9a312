"""Comparison of our results with those of the original, stage by stage, and whether differences are only rounding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from superpoint_jax.config import SuperPointConfig

from .stages import Stages

RELATIVE_TOLERANCE = 1e-5
"""Largest difference of blocks and logits, as a fraction of the range of a map. In each layer, two libraries sum up to
2304 float32 products in different orders. A wrong weight, padding or epsilon causes differences a hundred times
larger."""

SCORE_TOLERANCE = 1e-5
"""Largest difference of scores, which are probabilities. On trained weights, float32 differs from float64 by 3e-6."""

COSINE_TOLERANCE = 1e-5
"""Largest 1 - cosine of two unit vectors, which is half of the squared angle; 1e-5 is a quarter of a degree."""


@dataclass(frozen=True)
class Row:
    """One row of the table: one stage of one photo.

    Attributes:
        difference: Largest difference, in units of `unit`.
        allowed: Largest difference that passes.
    """

    stage: str
    photo: str
    difference: float
    allowed: float
    unit: str
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the difference is allowed; False for NaN."""
        return self.difference <= self.allowed


def compare(photo: str, original: Stages, ours: Stages, config: SuperPointConfig) -> list[Row]:
    """One row per stage."""
    rows = [
        Row(name, photo, _relative(a, b), RELATIVE_TOLERANCE, "of range")
        for name, a, b in (
            *((f"block {i + 1}", *pair) for i, pair in enumerate(zip(original.blocks, ours.blocks, strict=True))),
            ("logits", original.logits, ours.logits),
        )
    ]
    rows.append(Row("score map", photo, _largest(original.score_map - ours.score_map), SCORE_TOLERANCE, "absolute"))
    explained, unexplained = split_by_reason(original, ours, config)
    rows.append(
        Row("suppressed map", photo, len(unexplained), 0, "pixels", f"{len(explained)} more decided by rounding")
    )
    return [*rows, *_keypoint_rows(photo, original, ours, config, explained)]


def _keypoint_rows(
    photo: str, original: Stages, ours: Stages, config: SuperPointConfig, explained: set[tuple[int, int]]
) -> Iterable[Row]:
    theirs_at, ours_at = (
        {(int(x), int(y)): i for i, (x, y) in enumerate(np.round(s.keypoints_xy))} for s in (original, ours)
    )
    common = sorted(theirs_at.keys() & ours_at.keys())
    alone = theirs_at.keys() ^ ours_at.keys()
    by_rounding = {
        (x, y)
        for x, y in alone
        if (x, y) in explained or abs(original.score_map[y, x] - config.keypoint_threshold) <= SCORE_TOLERANCE
    }
    note = f"{len(common)} in common of {len(theirs_at)} and {len(ours_at)}"
    yield Row("keypoints", photo, len(alone - by_rounding), 0, "keypoints", note)
    a, b = [theirs_at[p] for p in common], [ours_at[p] for p in common]
    yield Row("scores", photo, _largest(original.scores[a] - ours.scores[b]), SCORE_TOLERANCE, "absolute")
    cosine = np.sum(original.descriptors[a].astype(np.float64) * ours.descriptors[b].astype(np.float64), axis=-1)
    lengths = [np.linalg.norm(s.descriptors[i].astype(np.float64), axis=-1) for s, i in ((original, a), (ours, b))]
    # Descriptors sampled outside the map are zero in both, and so agree.
    both_zero = (lengths[0] == 0) & (lengths[1] == 0)
    distance = np.where(both_zero, 0, 1 - cosine / np.where(both_zero, 1, lengths[0] * lengths[1]))
    yield Row("descriptors", photo, _largest(distance), COSINE_TOLERANCE, "1 - cosine")


def split_by_reason(
    original: Stages, ours: Stages, config: SuperPointConfig
) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """Pixels (x, y) that only one of the suppressions keeps: (those that rounding can explain, the others).

    Rounding explains a pixel whose score is within `SCORE_TOLERANCE` of another score in its window, or of the
    threshold if that is applied first. It also explains pixels within two radii of an explained one: one radius to a
    pixel that the first one suppresses, and another radius to a pixel that is kept as a result.
    """
    rows, columns = np.nonzero((original.suppressed > 0) != (ours.suppressed > 0))
    waiting = {(int(x), int(y)) for x, y in zip(columns, rows, strict=True)}
    front = {point for point in waiting if _is_near_tie(original.score_map, point, config)}
    explained: set[tuple[int, int]] = set()
    while front:
        explained |= front
        waiting -= front
        reach = 2 * config.nms_radius
        front = {(x, y) for x, y in waiting if any(max(abs(x - u), abs(y - v)) <= reach for u, v in front)}
    return explained, waiting


def _is_near_tie(scores: np.ndarray, point: tuple[int, int], config: SuperPointConfig) -> bool:
    x, y = point
    radius = config.nms_radius
    window = scores[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
    near = int(np.count_nonzero(np.abs(window - scores[y, x]) <= SCORE_TOLERANCE)) > 1  # The pixel itself counts once.
    at_threshold = abs(float(scores[y, x]) - config.keypoint_threshold) <= SCORE_TOLERANCE
    return near or (config.suppression_rule == "greedy" and at_threshold)


def worst(rows: Iterable[Row]) -> list[Row]:
    """For each stage, the row of the photo with the largest difference."""
    stages: dict[str, list[Row]] = {}
    for row in rows:
        stages.setdefault(row.stage, []).append(row)
    # NaN counts as the largest difference.
    return [max(group, key=lambda row: np.nan_to_num(row.difference, nan=np.inf)) for group in stages.values()]


def table(rows: Iterable[Row]) -> Iterator[str]:
    """The lines of the table."""
    yield f"{'stage':<15} {'difference':>11} {'allowed':>9}  {'':<10}  {'':<4}  worst photo"
    for row in rows:
        verdict = "pass" if row.passed else "FAIL"
        note = f" ({row.note})" if row.note else ""
        yield (
            f"{row.stage:<15} {row.difference:>11.3g} {row.allowed:>9.3g}  {row.unit:<10}  {verdict}  {row.photo}{note}"
        )


def _relative(original: np.ndarray, ours: np.ndarray) -> float:
    if original.shape != ours.shape:
        return float("inf")
    spread = float(np.ptp(original))
    return _largest(original - ours) / spread if spread else _largest(original - ours)


def _largest(difference: np.ndarray) -> float:
    return float(np.max(np.abs(difference))) if difference.size else 0.0
