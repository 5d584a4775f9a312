"""How far bfloat16 is from float32: `python -m benchmarks.agreement --json OUT`, on scikit-image's photos or your own.

Keypoints in common are those that have one of the other type within a pixel, either way; cosines are those between the
descriptors of such a pair. Two ways of bfloat16: the one that this platform takes, and the plain one, which rounds
after every convolution as an accelerator does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import jax
import numpy as np
import tyro

import superpoint_jax as sp
from benchmarks.__main__ import provenance
from convert.photos import load_photos
from superpoint_jax.convolution import choice
from superpoint_jax.evaluation.metrics import repeatability

WITHIN_PX = 1.0


def features(gray: np.ndarray, max_keypoints: int, dtype: str) -> dict[str, np.ndarray]:
    """Unpadded features of an image [H,W] by the package's weights."""
    model = sp.from_pretrained(max_keypoints=max_keypoints)
    (found,) = sp.extract(model, gray[None, ..., None], dtype=dtype).to_list()
    return found


def agreement(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> tuple[float, np.ndarray]:
    """Fraction of the keypoints of both that are in common, and the cosine of each of a and its nearest, if common."""
    distances = np.linalg.norm(a["keypoints"][:, None] - b["keypoints"][None], axis=-1)
    nearest = distances.argmin(axis=1)
    rows = np.flatnonzero(distances.min(axis=1) <= WITHIN_PX)
    cosines = np.sum(a["descriptors"][rows] * b["descriptors"][nearest[rows]], axis=-1)
    return repeatability(a["keypoints"], b["keypoints"], threshold_px=WITHIN_PX), cosines


@contextmanager
def plain_path() -> Iterator[None]:
    """Within, nothing is chosen for the CPU: what is compiled is what other platforms compile."""
    with ExitStack() as stack:
        for name in ("is_faster", "in_strips"):
            stack.enter_context(mock.patch.object(choice, name, return_value=0))
        jax.clear_caches()
        yield
    jax.clear_caches()


def main(
    *,
    images: tuple[Path, ...] = (),
    max_keypoints: int = 1024,
    json_path: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Compare, print and write.

    Args:
        images: Photos; scikit-image's by default.
        max_keypoints: Of each.
        json_path: File of the results.
    """
    photos = load_photos(images)
    exact = {name: features(gray, max_keypoints, "float32") for name, gray in photos.items()}
    here = {name: features(gray, max_keypoints, "bfloat16") for name, gray in photos.items()}
    with plain_path():
        plain = {name: features(gray, max_keypoints, "bfloat16") for name, gray in photos.items()}
    report: dict[str, Any] = {**provenance(), "max_keypoints": max_keypoints, "paths": {}}
    print(f"{report['date']}, {report['machine']}; {len(photos)} photos")
    for path, found in {"this platform's": here, "plain": plain}.items():
        common, cosines = zip(*(agreement(exact[name], found[name]) for name in photos), strict=True)
        cosines = np.concatenate(cosines)
        row = {
            "common_mean": float(np.mean(common)),
            "common_lowest": float(np.min(common)),
            "cosine_median": float(np.median(cosines)),
            "cosine_percentile_1": float(np.percentile(cosines, 1)),
        }
        report["paths"][path] = row
        print(
            f"  {path + ' bfloat16':26}{row['common_mean']:.2%} of the keypoints within {WITHIN_PX:g} px (worst photo "
            f"{row['common_lowest']:.2%}); cosines {row['cosine_median']:.5f}, 1st percentile "
            f"{row['cosine_percentile_1']:.5f}"
        )
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.agreement")
