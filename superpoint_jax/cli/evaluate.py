"""`superpoint-jax evaluate hpatches | homographies | stereo | pose | shapes`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from superpoint_jax.cli.arguments import Extraction, Matching
from superpoint_jax.estimation.opencv import Method
from superpoint_jax.evaluation.detector import evaluate_shapes, shapes_table
from superpoint_jax.evaluation.extractors import Extractor, make_extractors
from superpoint_jax.evaluation.matchers import FeatureMatcher
from superpoint_jax.evaluation.pose import evaluate_pose, pose_table
from superpoint_jax.evaluation.protocol import evaluate_homographies, evaluate_hpatches
from superpoint_jax.evaluation.report import Evaluation, plot, save_json, table
from superpoint_jax.evaluation.stereo import evaluate_stereo, stereo_table

Folder = Annotated[Path, tyro.conf.Positional]
EXTRACTORS = "ours,sift,orb"
PAIRS = Extraction(max_keypoints=1000, keypoint_threshold=0.0, resize=640)
STEREO = Extraction(max_keypoints=1000, keypoint_threshold=0.0, resize=0)
SHAPES = Extraction(max_keypoints=300, keypoint_threshold=0.0, resize=0)
"""Extractors are compared at the same number of keypoints, so the threshold is 0."""


def hpatches(
    folder: Folder,
    *,
    extraction: tyro.conf.OmitArgPrefixes[Extraction] = PAIRS,
    extractors: str = EXTRACTORS,
    matching: tyro.conf.OmitArgPrefixes[Matching] = Matching(),
    estimator: Method = "ransac",
    json: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Measure repeatability, matching and homography estimation on a folder in the layout of HPatches.

    Args:
        folder: Folder of sequences (v_..., i_... or any name) with 1.ppm, 2.ppm, ... and H_1_2, ...; or img1.png,
            img2.png, ...
        extraction: How keypoints are found; --weights are those of the extractor "ours". The threshold is 0 so that all
            extractors are compared at an equal number of keypoints.
        extractors: Comma-separated: ours, sift, orb, or any other checkpoint's hub id, folder or file.
        matching: What matches, and what a match has to pass. A network matches SuperPoints only; SIFT and ORB keep
            nearest neighbours.
        estimator: How homographies are estimated.
        json: Write the metrics of every pair to this file.
        plot: Draw a plot of the metrics to this file.
    """
    results = evaluate_hpatches(
        folder,
        _extractors(extractors, extraction),
        max_keypoints=extraction.max_keypoints,
        long_side=extraction.resize,
        estimator=estimator,
        matcher=_matcher(matching),
        progress=True,
    )
    _report_pairs(results, json, plot)


def homographies(
    folder: Folder,
    *,
    extraction: tyro.conf.OmitArgPrefixes[Extraction] = PAIRS,
    extractors: str = EXTRACTORS,
    matching: tyro.conf.OmitArgPrefixes[Matching] = Matching(),
    estimator: Method = "ransac",
    photos: int | None = None,
    per_photo: int = 1,
    seed: int = 0,
    scale: tuple[float, float] = (0.8, 1.6),
    rotation: float = 0.3,
    perspective: float = 0.25,
    photometric: float = 0.0,
    json: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Measure the same on random warps of any photos.

    Args:
        folder: Folder of photos, at any depth.
        extraction: How keypoints are found; --weights are those of the extractor "ours". The threshold is 0 so that all
            extractors are compared at an equal number of keypoints.
        extractors: Comma-separated: ours, sift, orb, or any other checkpoint's hub id, folder or file.
        matching: What matches, and what a match has to pass. A network matches SuperPoints only; SIFT and ORB keep
            nearest neighbours.
        estimator: How homographies are estimated.
        photos: Use only this many photos, the first by name; all of them by default.
        per_photo: Warps per photo.
        seed: Seed of the random warps.
        scale: Smallest and largest magnification.
        rotation: Standard deviation of the rotation, in radians.
        perspective: Largest change of depth across half the image, below 0.5.
        photometric: Strength of blur, shade, contrast, brightness and noise in the warps; 1 is that of training.
        json: Write the metrics of every pair to this file.
        plot: Draw a plot of the metrics to this file.
    """
    results = evaluate_homographies(
        folder,
        _extractors(extractors, extraction),
        pair_options=dict(
            seed=seed,
            per_photo=per_photo,
            limit=photos,
            scale=scale,
            rotation=rotation,
            perspective=perspective,
            photometric=photometric,
        ),
        max_keypoints=extraction.max_keypoints,
        long_side=extraction.resize,
        estimator=estimator,
        matcher=_matcher(matching),
        progress=True,
    )
    _report_pairs(results, json, plot)


def shapes(
    *,
    extraction: tyro.conf.OmitArgPrefixes[Extraction] = SHAPES,
    extractors: str = "ours",
    images: int = 500,
    shape: tuple[int, int] = (240, 320),
    strengths: tuple[float, ...] = (0.0, 1.0),
    seed: int = 0,
    json: Path | None = None,
) -> None:
    """Measure the average precision of keypoints on synthetic shapes with known corners, without and with noise.

    Args:
        extraction: How keypoints are found; --weights are those of the extractor "ours". The threshold is 0 so that all
            extractors are compared at an equal number of keypoints.
        extractors: Comma-separated: ours, sift, orb, or any other checkpoint's hub id, folder or file.
        images: Number of images drawn.
        shape: (height, width) of an image.
        strengths: Strengths of the photometric noise; 1 is that of training.
        seed: Seed of the shapes.
        json: Write the metrics to this file.
    """
    named = _extractors(extractors, extraction)
    results = evaluate_shapes(named, images=images, shape=shape, strengths=strengths, seed=seed)
    _report(shapes_table(results), results, json)


def stereo(
    folder: Folder,
    *,
    extraction: tyro.conf.OmitArgPrefixes[Extraction] = STEREO,
    extractors: str = EXTRACTORS,
    matching: tyro.conf.OmitArgPrefixes[Matching] = Matching(),
    json: Path | None = None,
) -> None:
    """Matching on rectified stereo pairs of known disparities: real parallax. Images keep their own size.

    Args:
        folder: A folder with pairs.txt, whose lines name left image, right image, disparities and their scale.
        extraction: How keypoints are found; --weights are those of the extractor "ours".
        extractors: Comma-separated: ours, sift, orb, or any other checkpoint's hub id, folder or file.
        matching: What matches, and what a match has to pass. A network matches SuperPoints only; SIFT and ORB keep
            nearest neighbours.
        json: Write the figures of every pair to this file.
    """
    named = _extractors(extractors, extraction)
    results = evaluate_stereo(
        folder,
        named,
        max_keypoints=extraction.max_keypoints,
        matcher=_matcher(matching),
        progress=True,
    )
    _report(stereo_table(results), results, json)


def pose(
    folder: Folder,
    *,
    extraction: tyro.conf.OmitArgPrefixes[Extraction] = STEREO,
    extractors: str = EXTRACTORS,
    matching: tyro.conf.OmitArgPrefixes[Matching] = Matching(),
    pairs: int = 200,
    shape: tuple[int, int] = (480, 640),
    strength: float = 0.5,
    threshold_px: float = 1.0,
    seed: int = 0,
    json: Path | None = None,
) -> None:
    """Measure relative poses on views with parallax, which are rendered from photos with a made-up depth.

    Args:
        folder: Folder of photos, at any depth.
        extraction: How keypoints are found; --weights are those of the extractor "ours".
        extractors: Comma-separated: ours, sift, orb, or any other checkpoint's hub id, folder or file.
        matching: What matches, and what a match has to pass. A network matches SuperPoints only; SIFT and ORB keep
            nearest neighbours.
        pairs: Number of pairs of views.
        shape: (height, width) of a view.
        strength: Strength of the changes of light, blur and noise; 1 is that of training.
        threshold_px: Largest distance of an inlier from its epipolar line, in pixels.
        seed: Seed of photos, depths, cameras and light.
        json: Write the figures of every pair to this file.
    """
    results = evaluate_pose(
        folder,
        _extractors(extractors, extraction),
        pairs=pairs,
        shape=shape,
        strength=strength,
        seed=seed,
        max_keypoints=extraction.max_keypoints,
        threshold_px=threshold_px,
        matcher=_matcher(matching),
        progress=True,
    )
    _report(pose_table(results), results, json)


def main(arguments: Sequence[str]) -> None:
    """`superpoint-jax evaluate ARGUMENTS`."""
    commands = {"hpatches": hpatches, "homographies": homographies, "shapes": shapes, "stereo": stereo, "pose": pose}
    tyro.extras.subcommand_cli_from_dict(commands, prog="superpoint-jax evaluate", args=arguments)


def _extractors(names: str, extraction: Extraction) -> dict[str, Extractor]:
    return make_extractors(names, weights=extraction.weights, engine=extraction.engine, resize=0, **extraction.given())


def _matcher(matching: Matching) -> FeatureMatcher:
    tests = matching.tests()
    name = " ".join([matching.matcher, *(f"{test}={value}" for test, value in tests.items())])
    return FeatureMatcher(name, matching.network(), tests)


def _report(text: str, results: Any, json: Path | None) -> None:
    print(text)
    if json is not None:
        save_json(results, json)


def _report_pairs(results: list[Evaluation], json: Path | None, plot_file: Path | None) -> None:
    _report(table(results), results, json)
    if plot_file is not None:
        plot(results, plot_file)
