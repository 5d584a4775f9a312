"""Stop with an error unless wheel and sdist hold the package, its weights and its documents, and nothing else."""

import re
import sys
import tarfile
import zipfile
from pathlib import Path

DATA = r"weights/data/superpoint_jax\.safetensors|lightglue/data/lightglue\.safetensors|\w+/data/MODEL_CARD\.md"
PACKAGE = rf"superpoint_jax/(?:[\w/]+\.py|py\.typed|{DATA})"
WHEEL = rf"{PACKAGE}|superpoint_jax-[\w.]+\.dist-info/(?:METADATA|WHEEL|RECORD|entry_points\.txt|licenses/LICENSE)"
SDIST = (
    rf"{PACKAGE}|convert/\w+\.py|README\.md|LICENSE|CHANGELOG\.md|"
    r"CITATION\.cff|SECURITY\.md|pyproject\.toml|PKG-INFO|\.gitignore"
)

folder = Path(sys.argv[1])
(wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
with tarfile.open(sdist) as archive:
    listings = [
        (wheel, WHEEL, zipfile.ZipFile(wheel).namelist()),
        (sdist, SDIST, [entry.name.split("/", 1)[1] for entry in archive if entry.isfile()]),
    ]
for path, allowed, names in listings:
    if extra := [name for name in names if not re.fullmatch(allowed, name)]:
        sys.exit(f"{path.name} holds files that do not belong in it: {', '.join(extra)}")
    for weights in ("weights/data/superpoint_jax.safetensors", "lightglue/data/lightglue.safetensors"):
        if f"superpoint_jax/{weights}" not in names:
            sys.exit(f"{path.name} does not hold {weights}")
    if path == wheel and "superpoint_jax/verification/verification.py" not in names:
        sys.exit(f"{path.name} holds no verification of conversions")
    print(f"{path.name}: {len(names)} files, {path.stat().st_size / 1e6:.1f} MB")
