"""Difference between bfloat16 and float32, on scikit-image's photos or yours: `python -m benchmarks.agreement`.

A keypoint is common if the other type has one within a pixel; cosines are between the descriptors of such pairs. Two
engines in bfloat16 are compared with XLA in float32: XLA, which rounds after every convolution as on an accelerator,
and OpenVINO if it is installed.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

import superpoint_jax as sp
from benchmarks.__main__ import provenance
from convert.photos import load_photos
from superpoint_jax.evaluation.metrics import repeatability

WITHIN_PX = 1.0


def features(network: Any, gray: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    """The features of an image [H,W], without padding."""
    (found,) = sp.extract(network, gray[None, ..., None], dtype=dtype).to_list()
    return found


def agreement(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> tuple[float, np.ndarray]:
    """Fraction of the keypoints of both that are common, and for each common one of a, the cosine with its nearest."""
    distances = np.linalg.norm(a["keypoints"][:, None] - b["keypoints"][None], axis=-1)
    nearest = distances.argmin(axis=1)
    rows = np.flatnonzero(distances.min(axis=1) <= WITHIN_PX)
    cosines = np.sum(a["descriptors"][rows] * b["descriptors"][nearest[rows]], axis=-1)
    return repeatability(a["keypoints"], b["keypoints"], threshold_px=WITHIN_PX), cosines


def main(
    *,
    images: tuple[Path, ...] = (),
    max_keypoints: int = 1024,
    json_path: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Compare both types, print and write the results.

    Args:
        images: Photos; by default those of scikit-image.
        max_keypoints: Largest number of keypoints per photo.
        json_path: File to write the results to.
    """
    photos, model = load_photos(images), sp.from_pretrained(max_keypoints=max_keypoints)
    exact = {name: features(model, gray, "float32") for name, gray in photos.items()}
    engines: dict[str, Any] = {"XLA": model}
    if find_spec("openvino") is not None:
        engines["OpenVINO"] = sp.openvino.compile(model, dtype="bfloat16")
    report: dict[str, Any] = {**provenance(), "max_keypoints": max_keypoints, "engines": {}}
    print(f"{report['date']}, {report['machine']}; {len(photos)} photos")
    for name, network in engines.items():
        found = {photo: features(network, gray, "bfloat16") for photo, gray in photos.items()}
        common, cosines = zip(*(agreement(exact[photo], found[photo]) for photo in photos), strict=True)
        cosines = np.concatenate(cosines)
        row = {
            "common_mean": float(np.mean(common)),
            "common_lowest": float(np.min(common)),
            "cosine_median": float(np.median(cosines)),
            "cosine_percentile_1": float(np.percentile(cosines, 1)),
        }
        report["engines"][name] = row
        print(
            f"  {name + ' bfloat16':26}{row['common_mean']:.2%} of the keypoints within {WITHIN_PX:g} px (worst photo "
            f"{row['common_lowest']:.2%}); cosines {row['cosine_median']:.5f}, 1st percentile "
            f"{row['cosine_percentile_1']:.5f}"
        )
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.agreement")
