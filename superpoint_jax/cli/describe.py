"""`superpoint-jax describe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from superpoint_jax import openvino
from superpoint_jax.cli.arguments import Extraction, Output, Weights
from superpoint_jax.cli.errors import told
from superpoint_jax.cli.saving import check_outputs, save_json
from superpoint_jax.config import ComputeDtype
from superpoint_jax.records import keypoints_record, read_keypoints


def describe(
    image: tyro.conf.Positional[Path],
    *,
    keypoints: Annotated[Path, tyro.conf.arg(metavar="FILE")],
    output: Output,
    weights: Weights = None,
    resize: Annotated[int | None, tyro.conf.arg(aliases=["--long-side"])] = None,
    upscale: bool = False,
    enlarge: float | None = None,
    engine: openvino.Engine = "auto",
    dtype: ComputeDtype | None = None,
) -> int:
    """Describe your own keypoints: the descriptors of a photo at places from a file, in the order of the file.

    Args:
        image: A photo.
        keypoints: Places in pixels of the photo, pixel centres at integers. A .json file as `detect --json` writes it
            for one photo, or a list [[x, y], ...]; or a text file with x and y on each line.
        output: Write a JSON file: "image", "width", "height", "num_detected" (the number of places), "keypoints",
            "scores" (of the score map at the nearest pixel) and "descriptors", vectors of unit length.
        weights: Folder, file or Hugging Face id; by default the weights in the package.
        resize: Reduce the photo to this longer side, in pixels; 0 never reduces. By default the size that belongs to
            the weights.
        upscale: Also enlarge a photo whose longer side is below --resize to it.
        enlarge: Enlarge the photo by this factor before the network.
        engine: What computes the network; by default OpenVINO where it is installed and there is no accelerator.
        dtype: Type that the network computes in; by default that of the weights.
    """
    check_outputs([output], [image, keypoints])
    with told():
        places_xy = read_keypoints(keypoints)
    options = Extraction(weights=weights, resize=resize, upscale=upscale, enlarge=enlarge, engine=engine, dtype=dtype)
    found = options.load().describe(image, places_xy)
    save_json(keypoints_record(str(image), found, with_descriptors=True), output)
    print(f"{image}: {len(found.scores)} keypoints described -> {output}")
    return 0
