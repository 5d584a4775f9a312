"""`python -m benchmarks.bulk PHOTOS`: the rate of extraction from files to a file, compared with only `extract`.

Random crops of the photos are made first. Then two processes are timed, with their compilations: the complete
extraction from files to HDF5, and only `extract` on the same images, decoded in memory.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image

from benchmarks.__main__ import provenance
from superpoint_jax.processing import list_images


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure extraction from files."""

    photos: Annotated[Path, tyro.conf.Positional]
    """Folder of photos."""
    images: int = 2000
    """Number of crops."""
    sides: tuple[int, int] = (160, 480)
    """Smallest and largest side of a crop, in pixels."""
    max_keypoints: int = 512
    json: Path | None = None
    """File to write the result to."""


def main() -> None:
    """Make the images, run both sides, print and write the result."""
    arguments = tyro.cli(Arguments, prog="python -m benchmarks.bulk")
    with tempfile.TemporaryDirectory() as folder:
        make_images(arguments, Path(folder) / "images")
        setting = dict(folder=folder, max_keypoints=arguments.max_keypoints)
        sides = {side: _in_a_process(side, setting) for side in ("files", "alone")}
    report = {
        **provenance(),
        "setting": {**asdict(arguments), "photos": None, "json": None},
        **sides,
        "ratio": sides["alone"]["seconds"] / sides["files"]["seconds"],
    }
    for side, row in sides.items():
        rate = row["images"] / row["seconds"]
        print(f"{side:8}{row['seconds']:8.1f} s {rate:7.1f} images/s {row['peak_bytes'] / 2**20:7.0f} MiB")
    print(f"{len(sides['files']['shapes'])} compilations, padding {sides['files']['padding']:.0%}")
    print(f"from files at {report['ratio']:.0%} of the rate of only extract")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def make_images(arguments: Arguments, folder: Path) -> None:
    """Write random crops of random size and scale as JPEG, 100 per folder."""
    random = np.random.default_rng(0)
    photos = [Image.open(path).convert("RGB") for path in list_images(arguments.photos)[:100]]
    for i in range(arguments.images):
        photo = photos[i % len(photos)]
        width, height = (int(x) for x in random.integers(*arguments.sides, 2))
        zoom = random.uniform(1, max(1, min(photo.width / width, photo.height / height)))
        w, h = min(photo.width, round(width * zoom)), min(photo.height, round(height * zoom))
        x, y = int(random.integers(0, photo.width - w + 1)), int(random.integers(0, photo.height - h + 1))
        path = folder / f"{i // 100:03}" / f"{i:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.crop((x, y, x + w, y + h)).resize((width, height), Image.Resampling.LANCZOS).save(path, quality=90)


def files(folder: Path, max_keypoints: int) -> dict[str, Any]:
    """Time and results of the extraction from files to HDF5."""
    import superpoint_jax as sp
    from superpoint_jax.bulk import BulkOptions, extract_files

    model, processor = sp.from_pretrained(), sp.SuperPointImageProcessor.from_pretrained()
    options = BulkOptions(max_keypoints=max_keypoints)
    started = time.perf_counter()
    report = extract_files(folder / "images", folder / "f.h5", model=model, processor=processor, options=options)
    seconds = time.perf_counter() - started
    shapes = [[*shape, count] for shape, count in report.shapes.items()]
    return dict(seconds=seconds, images=report.extracted, shapes=shapes, padding=report.padding)


def alone(folder: Path, max_keypoints: int) -> dict[str, Any]:
    """Time of only `extract`, on images that are decoded before."""
    import superpoint_jax as sp
    from superpoint_jax.bulk.sources import find_images
    from superpoint_jax.photos.plan import make_plan

    model = sp.from_pretrained()
    images = {name: sp.load_image(folder / "images" / name) for name in find_images(folder / "images").names}
    gray = {name: np.asarray(Image.fromarray(pixels).convert("L"))[..., None] for name, pixels in images.items()}
    plan = make_plan({name: pixels.shape[:2] for name, pixels in gray.items()}, batch=8, part=256)
    batches = []
    for batch in (batch for part in plan.parts for batch in part):
        array, sizes = np.zeros((8, *batch.shape, 1), np.uint8), np.full((8, 2), 8, np.int32)
        for row, name in enumerate(batch.names):
            height, width = sizes[row] = gray[name].shape[:2]
            array[row, :height, :width] = gray[name]
        batches.append((array, sizes))
    started = time.perf_counter()
    for array, sizes in batches:
        sp.extract(model, array, image_sizes=sizes, max_keypoints=max_keypoints).scores.block_until_ready()
    return dict(seconds=time.perf_counter() - started, images=len(gray))


def _in_a_process(side: str, setting: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.bulk", "--side", side, json.dumps(setting)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def _one_side(side: str, setting: dict[str, Any]) -> None:
    found = {"files": files, "alone": alone}[side](Path(setting["folder"]), setting["max_keypoints"])
    # The peak of this process, plus for each worker the peak of the largest one.
    import os

    own, child = (resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    workers = min(8, os.cpu_count() or 1) if side == "files" else 0
    print(json.dumps({**found, "peak_bytes": own + workers * child}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        _one_side(sys.argv[2], json.loads(sys.argv[3]))
    else:
        main()
