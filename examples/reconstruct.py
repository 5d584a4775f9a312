"""Reconstruct cameras and points from a folder of photos of one place, as `superpoint-jax reconstruct` does.

    python examples/reconstruct.py PHOTOS OUT

Writes OUT/database.db (keypoints and matches), OUT/cameras.bin, images.bin and points3D.bin (for COLMAP's viewer and
programs that read its format) and OUT/model.png (a picture). Needs pip install 'superpoint-jax[colmap]'.
"""

import sys

import superpoint_jax as sp
from superpoint_jax.bulk import BulkOptions
from superpoint_jax.reconstruction import reconstruct

report = reconstruct(
    sys.argv[1],
    sys.argv[2],
    model=sp.from_pretrained(),
    processor=sp.SuperPointImageProcessor.from_pretrained(),
    options=BulkOptions(max_keypoints=1024, matches="exhaustive", workers=0),
)
print(f"{report.registered} photos registered, {len(report.left_out)} left out, {report.points} points")
print(*report.weaknesses, sep="\n")
