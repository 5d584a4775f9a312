"""Convert weights, and prove it: `python -m convert SRC -o OUT [--verify] [--images PHOTO ...]`.

Exit code 0: converted, and verified if asked. 1: the result is not what the original computes. 2: it could not be done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convert.comparison import Row, compare, table, worst
from convert.photos import load_photos
from convert.stages import our_stages
from superpoint_jax.config import SuperPointConfig
from superpoint_jax.lightglue.conversion import convert as convert_matcher
from superpoint_jax.lightglue.conversion import is_lightglue
from superpoint_jax.model import SuperPoint
from superpoint_jax.weights import convert, from_pretrained
from superpoint_jax.weights.config_json import HUGGING_FACE_FIELDS
from superpoint_jax.weights.load import build, read

if TYPE_CHECKING:
    from convert.originals import Original


@dataclass(frozen=True)
class Pair:
    """The original with the source's weights, and ours with the converted ones; both decode by the same rules."""

    title: str
    original: Original
    model: SuperPoint


def load_pair(source: str, folder: Path, *, revision: str | None = None) -> Pair:
    """Both networks, under the rules published with that kind of weights and without a cut to `max_keypoints`."""
    from convert.originals import original

    checkpoint = read(source, revision=revision)
    converted = build(checkpoint).config
    sizes = {name: getattr(converted, name) for name in (*HUGGING_FACE_FIELDS, "batch_norm", "batch_norm_eps")}
    config = SuperPointConfig.preset(checkpoint.layout.name, **sizes).replace(max_keypoints=-1)
    return Pair(
        title=f"original: {checkpoint.layout.title}; rules: {checkpoint.layout.name!r}",
        original=original(checkpoint.tensors, checkpoint.layout, config),
        model=from_pretrained(folder, config=config),
    )


def verify(pair: Pair, photos: Mapping[str, np.ndarray]) -> list[Row]:
    """Rows of every stage and photo; prints a line a photo on the way."""
    print(pair.title, flush=True)
    rows: list[Row] = []
    for name, gray in photos.items():
        found = compare(name, pair.original(gray), our_stages(pair.model, gray), pair.model.config)
        points = next(row for row in found if row.stage == "keypoints")
        print(f"{name}: {gray.shape[1]}x{gray.shape[0]}, keypoints: {points.note}", flush=True)
        rows += found
    return rows


def _proof(
    source: str, folder: Path, photos: Mapping[str, np.ndarray], *, matcher: bool, revision: str | None
) -> list[Row]:
    if not matcher:
        return verify(load_pair(source, folder, revision=revision), photos)
    import convert.matcher

    return convert.matcher.verify(convert.matcher.load_pair(source, folder, revision=revision), photos)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m convert", description="Convert weights, and prove it.")
    parser.add_argument("source", metavar="SRC", help="hub id, folder, .safetensors, .bin or .pth")
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, required=True, help="folder to write")
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument("--verify", action="store_true", help="run the PyTorch original beside ours on photos")
    parser.add_argument("--images", metavar="PHOTO", nargs="+", type=Path, default=[], help="photos to verify on")
    options = parser.parse_args(arguments)
    try:
        photos = load_photos(options.images) if options.verify else {}
        matcher = is_lightglue(options.source, revision=options.revision)
        folder = (convert_matcher if matcher else convert)(options.source, options.output, revision=options.revision)
        print(f"{options.source} -> {folder}", flush=True)
        if not options.verify:
            return 0
        rows = _proof(options.source, folder, photos, matcher=matcher, revision=options.revision)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(*table(worst(rows)), sep="\n")
    passed = all(row.passed for row in rows)
    print("the same within rounding" if passed else "NOT the same: see the stages that fail")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
