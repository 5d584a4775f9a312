"""What turned photos cost, and what `match --rotations` gains: `python -m benchmarks.rotations FOLDER`.

The second photo of each pair of a folder in the layout of HPatches or Oxford's affine regions is turned by 0, 90, 180
and 270 degrees, and matched as it is then. With `--rotations 4` it is matched under all four, so the result does not
depend on how it was turned before.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tqdm import tqdm

import superpoint_jax as sp
from benchmarks.__main__ import provenance
from superpoint_jax.evaluation.datasets import sequence_pairs
from superpoint_jax.evaluation.images import reduce_image
from superpoint_jax.evaluation.metrics import corner_error
from superpoint_jax.lightglue.load import choose
from superpoint_jax.photos.rotations import rotated_matches, turned_images

WITHIN_PX = (1, 3, 5)


def main(
    folder: tyro.conf.Positional[Path],
    *,
    max_keypoints: int = 1000,
    long_side: int = 640,
    matcher: str = "nearest",
    json_path: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Measure homographies of turned pairs, print and write the results.

    Args:
        folder: Folder of sequences with homographies.
        max_keypoints: Keypoints per photo.
        long_side: Photos are reduced to this longer side, in pixels.
        matcher: "nearest", "lightglue", or the source of a matcher.
        json_path: File to write the results to.
    """
    network = sp.openvino.choose(sp.from_pretrained(), "auto")
    matched = partial(sp.match, matcher=choose(matcher))
    estimate = partial(sp.estimate_homography, method="ransac")
    options: dict[str, Any] = dict(resize=0, max_keypoints=max_keypoints, keypoint_threshold=0.0)
    pairs = sequence_pairs(folder)
    rows: dict[str, list[tuple[float, float]]] = {}
    for pair in tqdm(pairs, unit="pair"):
        (first, resize_a), (second, resize_b) = (
            reduce_image(image if isinstance(image, np.ndarray) else sp.load_image(image), long_side)
            for image in (pair.image_a, pair.image_b)
        )
        truth = resize_b @ pair.homography @ np.linalg.inv(resize_a)
        a, *turned = sp.extract_images(network, [first, *turned_images(second, 4)], **options)
        results = rotated_matches(a, turned, matched=matched, estimate=estimate)
        named = {f"turned by {result.degrees}": result for result in results}
        named["--rotations 4"] = max(results, key=lambda result: int(np.sum(result.estimate.inliers)))
        for name, result in named.items():
            matrix = np.asarray(result.estimate.matrix) if result.estimate.found else None
            error = corner_error(matrix, truth, (first.shape[0], first.shape[1]))
            rows.setdefault(name, []).append((error, float(np.sum(result.estimate.inliers))))
    report: dict[str, Any] = {**provenance(), "pairs": len(pairs), "matcher": matcher, "rows": {}}
    print(f"{report['date']}, {report['machine']}; {len(pairs)} pairs, {matcher}")
    print(f"{'':26}" + "".join(f"{f'right at {px} px':>16}" for px in WITHIN_PX) + f"{'inliers, median':>18}")
    for name, values in rows.items():
        errors, inliers = np.array(values).T
        right = [float(np.mean(errors <= px)) for px in WITHIN_PX]
        report["rows"][name] = {"right": right, "inliers": float(np.median(inliers))}
        print(f"{name:26}" + "".join(f"{value:16.3f}" for value in right) + f"{np.median(inliers):18.0f}")
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.rotations")
