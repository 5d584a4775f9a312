"""`superpoint-jax detect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tyro

import superpoint_jax as sp
from superpoint_jax import visualization
from superpoint_jax.cli.arguments import Engine, OptionalOutput, OptionalPath, Weights
from superpoint_jax.cli.errors import CommandError, complain, told
from superpoint_jax.cli.features import load_extractor
from superpoint_jax.cli.saving import check_outputs, picture_paths, save_json, save_picture
from superpoint_jax.processing import load_image


def detect(
    images: tyro.conf.Positional[tuple[Path, ...]],
    *,
    output: OptionalOutput = None,
    weights: Weights = None,
    engine: Engine = "auto",
    max_keypoints: int = 1024,
    json: OptionalPath = None,
    descriptors: bool = False,
) -> int:
    """Find the keypoints of images, print a line for each image, and draw them.

    Args:
        images: Files of any format that Pillow reads. EXIF rotation is respected. 16-bit values count over their full
            range: 12 bits in a 16-bit file are nearly black.
        output: Draw the keypoints, size and colour by score. For one image, the picture to write (.png, .jpg, .pdf,
            .svg); for several, or if it has no suffix, a folder for a picture NAME.png each.
        weights: Folder, file or Hugging Face id; those in the package by default.
        engine: Who computes the network; by default OpenVINO where it is installed and there is no accelerator.
        max_keypoints: Keep the best; -1 keeps all (but for crowds of exactly equal scores).
        json: Write the keypoints to this file: a list with an object for each image that could be read, of "image" (the
            path as given), "width", "height" (of the upright image), "num_detected" (before the cut to
            --max-keypoints), "keypoints" ([[x, y], ...] in pixels of the original image, pixel centres at integers) and
            "scores", by which they descend.
        descriptors: Put "descriptors", the unit-length vectors, into the JSON file, too.
    """
    if not images:
        raise CommandError("no image was given: superpoint-jax detect IMAGE...")
    # Before the work, so that none of it is lost.
    pictures = picture_paths(images, output)
    check_outputs([path for path in (*pictures, json) if path is not None], images)
    features_of = load_extractor(weights, max_keypoints, engine=engine)
    entries, failed = [], False
    for path, picture in zip(images, pictures, strict=True):
        try:
            with told():
                found = features_of(pixels := load_image(path))
            if picture is not None:
                save_picture(visualization.draw_keypoints(pixels, found), picture)
        except CommandError as error:
            complain(error)
            failed = True
            continue
        entries.append(detected_entry(path, found, with_descriptors=descriptors))
        count, entry = len(entries[-1]["keypoints"]), entries[-1]
        of = f" of {entry['num_detected']}" if entry["num_detected"] > count else ""
        wrote = "" if picture is None else f" -> {picture}"
        print(f"{path}: {entry['width']}x{entry['height']}, {count}{of} keypoints{wrote}")
    save_json(entries, json)
    return 2 if failed else 0


def detected_entry(path: Path, found: sp.Keypoints, *, with_descriptors: bool) -> dict[str, Any]:
    """An object of the JSON file; see `detect`."""
    mask = np.asarray(found.mask)
    height, width = found.image_sizes.tolist()
    entry = {
        "image": str(path),
        "width": width,
        "height": height,
        "num_detected": int(found.num_detected),
        # Nine digits tell any two float32 apart; a thousandth of a pixel is enough to read.
        "keypoints": np.asarray(found.keypoints, np.float64)[mask].round(3).tolist(),
        "scores": np.asarray(found.scores)[mask].tolist(),
    }
    if with_descriptors:
        entry["descriptors"] = np.asarray(found.descriptors)[mask].tolist()
    return entry
