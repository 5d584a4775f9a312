"""Convert weights, and compare our results with those of the PyTorch original on photos, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from superpoint_jax.config import SuperPointConfig
from superpoint_jax.lightglue.conversion import convert as convert_matcher
from superpoint_jax.lightglue.conversion import is_lightglue
from superpoint_jax.model import SuperPoint
from superpoint_jax.weights import convert, from_pretrained
from superpoint_jax.weights.config_json import HUGGING_FACE_FIELDS
from superpoint_jax.weights.load import build, read

from .comparison import Row, compare, table, worst
from .stages import our_stages

if TYPE_CHECKING:
    from .originals import Original


@dataclass(frozen=True)
class Pair:
    """The original with the weights of the source, and ours with the converted ones; both decode by the same rules."""

    title: str
    original: Original
    model: SuperPoint


def load_pair(source: str, folder: Path, *, revision: str | None = None) -> Pair:
    """Both networks, with the rules published with that kind of weights and without a cut to `max_keypoints`."""
    from .originals import original

    checkpoint = read(source, revision=revision)
    converted = build(checkpoint).config
    sizes = {name: getattr(converted, name) for name in (*HUGGING_FACE_FIELDS, "batch_norm", "batch_norm_eps")}
    config = SuperPointConfig.preset(checkpoint.layout.preset, **sizes).replace(max_keypoints=-1)
    return Pair(
        title=f"original: {checkpoint.layout.title}; rules: {checkpoint.layout.preset!r}",
        original=original(checkpoint.tensors, checkpoint.layout, config),
        model=from_pretrained(folder, config=config),
    )


def verify(pair: Pair, photos: Mapping[str, np.ndarray]) -> list[Row]:
    """The rows of all stages and photos; prints one line per photo."""
    print(pair.title, flush=True)
    rows: list[Row] = []
    for name, gray in photos.items():
        found = compare(name, pair.original(gray), our_stages(pair.model, gray), pair.model.config)
        points = next(row for row in found if row.stage == "keypoints")
        print(f"{name}: {gray.shape[1]}x{gray.shape[0]}, keypoints: {points.note}", flush=True)
        rows += found
    return rows


def run(
    source: str, output: Path, *, revision: str | None = None, verify_photos: Mapping[str, np.ndarray] | None
) -> bool:
    """False if the converted weights differ from the original by more than rounding; without photos, always True.

    The weights are converted to a folder. With photos, a table of the differences is printed.

    Raises:
        ValueError: The source is not weights, or a photo is not an image.
        OSError: A file can't be read or written.
        ImportError: torch is not installed, which the original needs.
    """
    matches = is_lightglue(source, revision=revision)
    folder = (convert_matcher if matches else convert)(source, output, revision=revision)
    print(f"{source} -> {folder}", flush=True)
    if verify_photos is None:
        return True
    if matches:
        from . import matcher

        rows = matcher.verify(matcher.load_pair(source, folder, revision=revision), verify_photos)
    else:
        rows = verify(load_pair(source, folder, revision=revision), verify_photos)
    print(*table(worst(rows)), sep="\n")
    passed = all(row.passed for row in rows)
    print("the same within rounding" if passed else "NOT the same: see the stages that fail")
    return passed
