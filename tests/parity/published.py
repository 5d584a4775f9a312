"""What transformers' integration test expects of Magic Leap's published weights, and the photos that it is about."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

FIRST_KEYPOINTS = [[0.75, 0.0188], [0.7719, 0.0188], [0.7641, 0.0333]]
FIRST_SCORES = [0.0064, 0.0139, 0.0591, 0.0727, 0.5170, 0.0175, 0.1526, 0.2057, 0.0335]

FOLDER = "SUPERPOINT_JAX_COCO"
"""Environment variable: a folder with 000000039769.png and 000000004016.png, transformers' fixtures of those names."""


def coco_photos() -> list[Image.Image]:
    """The two photos; the test is skipped without them, and they come from where the hub can be reached."""
    folder = os.environ.get(FOLDER)
    if not folder:
        pytest.skip(f"needs the hub and two photos of COCO: set {FOLDER} to a folder with transformers' fixtures")
    return [Image.open(Path(folder) / name) for name in ("000000039769.png", "000000004016.png")]
