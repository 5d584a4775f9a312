"""`superpoint-jax evaluate hpatches | homographies | shapes`: thin functions for tyro, mounted by the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from superpoint_jax.cli.arguments import Engine
from superpoint_jax.estimation.opencv import Method
from superpoint_jax.evaluation.detector import evaluate_shapes, shapes_table
from superpoint_jax.evaluation.extractors import Extractor, make_extractor
from superpoint_jax.evaluation.protocol import evaluate_homographies, evaluate_hpatches
from superpoint_jax.evaluation.report import Evaluation, plot, save_json, table

Folder = Annotated[Path, tyro.conf.Positional]
EXTRACTORS = "ours,sift,orb"


def hpatches(
    folder: Folder,
    *,
    weights: str | None = None,
    engine: Engine = "auto",
    extractors: str = EXTRACTORS,
    max_keypoints: int = 1000,
    long_side: int = 640,
    estimator: Method = "ransac",
    json: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Repeatability, matching and homography figures on a folder in HPatches' layout.

    Args:
        folder: Sequences (v_..., i_... or any name) with 1.ppm, 2.ppm, ... and H_1_2, ...; or img1.png, img2.png, ...
        weights: Of the extractor "ours": a hub id, folder or file; those in the package by default.
        engine: Who computes the network; by default OpenVINO where it is installed and there is no accelerator.
        extractors: Comma-separated: ours, sift, orb, or any other checkpoint's hub id, folder or file.
        max_keypoints: Keypoints of an image, at most.
        long_side: Larger images are reduced to it, in pixels.
        estimator: How homographies are estimated.
        json: Write the figures of every pair to this file.
        plot: Draw the figures to this file.
    """
    named = _extractors(extractors, weights, max_keypoints, engine)
    results = evaluate_hpatches(
        folder, named, max_keypoints=max_keypoints, long_side=long_side, estimator=estimator, progress=True
    )
    _report(results, json, plot)


def homographies(
    folder: Folder,
    *,
    weights: str | None = None,
    engine: Engine = "auto",
    extractors: str = EXTRACTORS,
    max_keypoints: int = 1000,
    long_side: int = 640,
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
    """The same figures on random warps of any photos.

    Args:
        folder: Photos, at any depth.
        weights: Of the extractor "ours": a hub id, folder or file; those in the package by default.
        engine: Who computes the network; by default OpenVINO where it is installed and there is no accelerator.
        extractors: Comma-separated: ours, sift, orb, or any other checkpoint's hub id, folder or file.
        max_keypoints: Keypoints of an image, at most.
        long_side: Larger photos are reduced to it, in pixels.
        estimator: How homographies are estimated.
        photos: Use the first so many photos by name; all of them by default.
        per_photo: Warps of a photo.
        seed: Of the random warps.
        scale: Smallest and largest magnification.
        rotation: Standard deviation of the rotation, in radians.
        perspective: Largest change of depth across half the image, below 0.5.
        photometric: Strength of blur, shade, contrast, brightness and noise in the warps; 1 is that of training.
        json: Write the figures of every pair to this file.
        plot: Draw the figures to this file.
    """
    change = None
    if photometric:
        from functools import partial

        from superpoint_jax.training.augmentation import photometric as photometric_change

        change = partial(photometric_change, strength=photometric)
    warps: dict[str, Any] = dict(seed=seed, per_photo=per_photo, limit=photos, change=change)
    warps.update(scale=scale, rotation=rotation, perspective=perspective)
    named = _extractors(extractors, weights, max_keypoints, engine)
    results = evaluate_homographies(
        folder,
        named,
        pair_options=warps,
        max_keypoints=max_keypoints,
        long_side=long_side,
        estimator=estimator,
        progress=True,
    )
    _report(results, json, plot)


def shapes(
    *,
    weights: str | None = None,
    engine: Engine = "auto",
    extractors: str = "ours",
    images: int = 500,
    shape: tuple[int, int] = (240, 320),
    strengths: tuple[float, ...] = (0.0, 1.0),
    max_keypoints: int = 300,
    seed: int = 0,
    json: Path | None = None,
) -> None:
    """Average precision of detections on synthetic shapes, whose corners are known; without and with noise.

    Args:
        weights: Of the extractor "ours": a hub id, folder or file; those in the package by default.
        engine: Who computes the network; by default OpenVINO where it is installed and there is no accelerator.
        extractors: Comma-separated: ours, sift, orb, or any other checkpoint's hub id, folder or file.
        images: How many are drawn.
        shape: (height, width) of an image.
        strengths: Of the photometric noise; 1 is that of training.
        max_keypoints: Keypoints of an image, at most.
        seed: Of the shapes.
        json: Write the figures to this file.
    """
    named = _extractors(extractors, weights, max_keypoints, engine)
    results = evaluate_shapes(named, images=images, shape=shape, strengths=strengths, seed=seed)
    print(shapes_table(results))
    if json is not None:
        save_json(results, json)


def main(arguments: Sequence[str]) -> None:
    """`superpoint-jax evaluate ARGUMENTS`."""
    commands = {"hpatches": hpatches, "homographies": homographies, "shapes": shapes}
    tyro.extras.subcommand_cli_from_dict(commands, prog="superpoint-jax evaluate", args=arguments)


def _extractors(names: str, weights: str | None, max_keypoints: int, engine: Engine) -> dict[str, Extractor]:
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    if not chosen:
        raise ValueError(f"extractors={names!r} names none; for instance --extractors {EXTRACTORS}")
    return {name: make_extractor(name, weights=weights, max_keypoints=max_keypoints, engine=engine) for name in chosen}


def _report(results: list[Evaluation], json: Path | None, plot_file: Path | None) -> None:
    print(table(results))
    if json is not None:
        save_json(results, json)
    if plot_file is not None:
        plot(results, plot_file)
