"""Make a COLMAP reconstruction from a folder of photos of one place.

    python examples/reconstruct.py PHOTOS OUT

Writes OUT/features.db (keypoints and matches) and OUT/sparse (cameras and points, for COLMAP's viewer and programs that
read its format). Needs pip install 'superpoint-jax[colmap]'.
"""

import sys
from pathlib import Path

import pycolmap

import superpoint_jax as sp
from superpoint_jax.bulk import BulkOptions, extract_files

photos, out = (Path(argument) for argument in sys.argv[1:3])
(out / "sparse").mkdir(parents=True, exist_ok=True)
report = extract_files(
    photos,
    out / "features.db",
    model=sp.from_pretrained(),
    processor=sp.SuperPointImageProcessor.from_pretrained(),
    options=BulkOptions(max_keypoints=1024, matches="exhaustive", workers=0),
)
reconstructions = pycolmap.incremental_mapping(out / "features.db", photos, out / "sparse")
best = max(reconstructions.values(), key=lambda model: model.num_reg_images())
print(f"{best.num_reg_images()} of {report.extracted} photos registered, {best.num_points3D()} points")
