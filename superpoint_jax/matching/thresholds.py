"""The tests that a match by nearest neighbours has to pass: their thresholds, and which of them go together."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array

RATIO_APART = 0.01
"""The `ratio_apart` of the commands: nearer to the partner, keypoints show the same structure (docs/extraction.md)."""


class Thresholds(NamedTuple):
    """Thresholds, which are traced, so that a new value compiles nothing; None leaves a test out."""

    ratio: float | Array | None
    ratio_apart: float | Array | None
    max_distance: float | Array | None
    temperature: float | Array | None
    min_score: float | Array | None


def check_only_min_score(tests: Thresholds, *, mutual: bool) -> None:
    """Raise a ValueError if an option is given that a matcher does not take."""
    given = [name for name, value in tests._replace(min_score=None)._asdict().items() if value is not None]
    given += [] if mutual else ["mutual"]
    if given:
        raise ValueError(
            f"{', '.join(given)}: for nearest neighbours only; a matcher takes min_score and no other option"
        )


def checked_thresholds(
    ratio: float | Array | None,
    ratio_apart: float | Array | None,
    max_distance: float | Array | None,
    temperature: float | Array | None,
    min_score: float | Array | None,
) -> Thresholds:
    """The tests; a ValueError if a number is out of range, or two of them exclude each other."""
    for name, value in (("ratio", ratio), ("max_distance", max_distance), ("temperature", temperature)):
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(f"{name}={value} must be positive, or None to leave it out")
    if isinstance(ratio_apart, int | float) and not 0 <= ratio_apart <= 1:
        raise ValueError(f"ratio_apart={ratio_apart}; a fraction of the image's longer side, 0 to 1, is needed")
    if ratio is None and ratio_apart is not None:
        raise ValueError("ratio_apart is a part of the ratio test; give ratio, too")
    if ratio is not None and temperature is not None:
        raise ValueError("ratio and temperature exclude each other: the dual softmax already weighs the second best")
    return Thresholds(ratio, ratio_apart, max_distance, temperature, min_score)
