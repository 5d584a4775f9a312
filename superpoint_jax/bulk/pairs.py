"""Which images of a set are matched, and what a match has to pass."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from superpoint_jax.files import require_regular
from superpoint_jax.matching.thresholds import RATIO_APART

Pairs = Literal["none", "exhaustive", "sequential"]
SEQUENCE = 10
"""In sequential pairs, each image is matched with this many next ones."""


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Which images are matched for a COLMAP database, and which of their pairs count.

    Attributes:
        matches: Only for a COLMAP database: match every image with every other, or each with the next 10 by name.
        loops: Only for a COLMAP database: also match each image with this many others that look most like it and are
            not matched in any case. With sequential matches, this finds returns to a place.
        pairs: Only for a COLMAP database, instead of --matches: a text file of the pairs to match, two names per line
            as in hloc.
        min_verified: A pair with fewer geometrically verified matches is not written as a verified pair. By default,
            COLMAP's mapper needs 15 too.
    """

    matches: Pairs = "none"
    loops: int = 0
    pairs: Path | None = None
    min_verified: int = 15

    @property
    def wanted(self) -> bool:
        """Whether any images are matched."""
        return self.pairs is not None or self.matches != "none" or self.loops > 0


@dataclass(frozen=True, kw_only=True)
class Matching(Pairing):
    """What is matched for a COLMAP database, and what a match has to pass.

    The defaults of `ratio` and `ratio_apart` are measured; see docs/extraction.md.

    Attributes:
        ratio: Lowe's ratio test: the distance to the nearest descriptor must be less than this times the distance to
            the second nearest. None leaves the test out. A network that matches does not use it.
        ratio_apart: How far from the nearest the second nearest keypoint must be, as a fraction of the longer side of
            the photo; 0 or None for Lowe's own test. See `superpoint_jax.match`.
        max_distance: Largest L2 distance between the descriptors of a match. A network that matches does not use it.
        min_score: Smallest score of a match: the cosine similarity of the descriptors, or the probability of a network
            that matches, by default its own.
    """

    ratio: float | None = 0.85
    ratio_apart: float | None = RATIO_APART
    max_distance: float | None = None
    min_score: float | None = None

    def check(self) -> None:
        """Raise a ValueError if an option is out of range."""
        if self.pairs is not None and self.matches != "none":
            raise ValueError(f"matches={self.matches!r} and pairs={str(self.pairs)!r} exclude each other; give one")
        if self.loops < 0 or (self.loops and self.matches == "exhaustive"):
            raise ValueError(
                f"loops={self.loops}; 0 or more is needed, and 0 where every image is matched with every other"
            )
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ValueError(f"ratio={self.ratio}; above 0 and at most 1 is needed, or None to leave the test out")
        if self.ratio_apart is not None and not 0 <= self.ratio_apart <= 1:
            raise ValueError(f"ratio_apart={self.ratio_apart}; 0 to 1 is needed, a fraction of the longer side")
        if self.max_distance is not None and not self.max_distance > 0:
            raise ValueError(f"max_distance={self.max_distance}; a positive number is needed, or None for no limit")
        if self.min_score is not None and not -1 <= self.min_score <= 1:
            raise ValueError(f"min_score={self.min_score}; a cosine is needed, from -1 to 1, or None for no limit")
        if self.min_verified < 1:
            raise ValueError(f"min_verified={self.min_verified}; at least 1 is needed")


class PairCount(NamedTuple):
    """How many pairs of images were matched, and how many of them have enough verified matches."""

    tried: int
    verified: int


def pairs_of(names: Sequence[str], pairs: Pairs) -> Iterator[tuple[str, str]]:
    """The names of the images that are matched with each other."""
    if pairs == "exhaustive":
        yield from itertools.combinations(names, 2)
    elif pairs == "sequential":
        yield from ((a, b) for i, a in enumerate(names) for b in names[i + 1 : i + 1 + SEQUENCE])


def read_pairs(path: Path, names: Collection[str]) -> list[tuple[str, str]]:
    """The pairs of a text file with two names per line, separated by white space, as hloc writes them.

    Empty lines and lines that begin with # are left out, and a pair is taken once, in whatever order it is named. Names
    with spaces in them are understood, and those with backslashes instead of slashes.

    Args:
        path: The file.
        names: The names of all images.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A line has no two names, or an image that is not there; the message has its number.
    """
    known = frozenset(names)
    pairs: dict[frozenset[str], tuple[str, str]] = {}
    require_regular(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file; two names of images per line are needed") from error
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            a, b = _two_names(line.strip(), known, f"{path}, line {number}")
            pairs.setdefault(frozenset((a, b)), (a, b))
    if not pairs:
        raise ValueError(f"{path}: no pairs; two names of images per line are needed")
    return list(pairs.values())


def _two_names(line: str, known: frozenset[str], where: str) -> tuple[str, str]:
    splits = [(line[: gap.start()], line[gap.end() :]) for gap in re.finditer(r"\s+", line)]
    splits = [tuple(name if name in known else name.replace("\\", "/") for name in pair) for pair in splits]
    if not splits:
        raise ValueError(f"{where}: {line!r} is one name; two names of images are needed")
    found = [(a, b) for a, b in splits if a in known and b in known]
    if not found:
        missing = [name for name in splits[0] if name not in known] if len(splits) == 1 else [line]
        what = " and no image ".join(map(repr, missing))
        raise ValueError(f"{where}: there is no image {what}; names are relative to the root")
    a, b = found[0]
    if a == b:
        raise ValueError(f"{where}: {a!r} is paired with itself; two images are needed")
    return a, b
