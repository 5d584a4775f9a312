"""`superpoint-jax extract`."""

from __future__ import annotations

from typing import Literal

import tyro

import superpoint_jax as sp
from superpoint_jax.bulk import BulkOptions, extract_files
from superpoint_jax.bulk.cluster import RayExecutor
from superpoint_jax.bulk.colmap import Pairs
from superpoint_jax.cli.arguments import Engine, OptionalPath, Output, Weights
from superpoint_jax.cli.errors import CommandError, complain, told
from superpoint_jax.cli.features import processor_for
from superpoint_jax.cli.saving import save_json
from superpoint_jax.config import ComputeDtype

FAILURES_SHOWN = 20


def extract(
    source: tyro.conf.Positional[str],
    *,
    output: Output,
    weights: Weights = None,
    max_keypoints: int = 1024,
    keypoint_threshold: float | None = None,
    resize: int | None = None,
    dtype: ComputeDtype | None = None,
    engine: Engine = "auto",
    descriptors: Literal["float16", "float32"] = "float16",
    matches: Pairs = "none",
    root: OptionalPath = None,
    batch: int | None = None,
    part: int = 256,
    max_shapes: int = 8,
    workers: int | None = None,
    devices: int | None = None,
    max_pixels: int = BulkOptions.max_pixels,
    shard: tuple[int, int] | None = None,
    executor: Literal["local", "ray"] = "local",
    address: str | None = None,
    actors: int | None = None,
    json: OptionalPath = None,
) -> int:
    """Extract the features of all images of a folder, a list or a pattern into one file.

    Stop it, or let it be killed, whenever you like: the same command goes on where it was, and the output appears when
    it is whole; until then OUTPUT.parts keeps what is done. Given again on a finished output, it adds new images.

    Args:
        source: Folder (with all below it), text file with a path a line, or pattern such as 'photos/**/*.jpg'.
        output: Its name says what it is: .h5 hloc's HDF5; .db a COLMAP database; no suffix a folder of Parquet files.
        weights: Folder, file or Hugging Face id; those in the package by default.
        max_keypoints: Keep the best of each image.
        keypoint_threshold: Smallest score; the model's own by default.
        resize: Reduce larger images to this long side, in pixels; 0 never does. By default what belongs to the weights
            says (1024 for ours).
        dtype: Compute type.
        engine: Who computes the network; by default OpenVINO where it is installed and there is no accelerator.
        descriptors: Type in which descriptors are kept.
        matches: For a COLMAP database: match all images with all, or each with the next 10 by name.
        root: The folder that names are relative to; by default the folder, or that of the list, or the pattern's first.
        batch: Images a batch; 8 on a CPU, 32 otherwise.
        part: Images that are done again at most after a kill, about.
        max_shapes: Compilations, at most. Images are padded to so many shapes; no result changes by it.
        workers: Processes that decode.
        devices: Devices that are used; all by default.
        max_pixels: Refuse larger files unread.
        shard: i n: every n-th part alone, for several machines with a common file system; then once without.
        executor: Who does the work: this process, or a Ray cluster, whose nodes must see both files and output.
        address: Of the Ray cluster, "auto" for the running one; a new one on this machine by default.
        actors: Of the Ray cluster: models at work at once; by default one a GPU, or one for two CPUs.
        json: Write what was done, and what failed and why, to this file.
    """
    with told():
        options = BulkOptions(
            max_keypoints=max_keypoints,
            keypoint_threshold=keypoint_threshold,
            resize=resize,
            dtype=dtype,
            engine=engine,
            descriptors=descriptors,
            matches=matches,
            batch=batch,
            part=part,
            max_shapes=max_shapes,
            workers=workers,
            devices=devices,
            max_pixels=max_pixels,
        )
        model = sp.from_pretrained(weights)
        report = extract_files(
            source,
            output,
            model=model,
            processor=processor_for(weights, model.config),
            options=options,
            root=root,
            shard=shard,
            executor=RayExecutor(address=address, actors=actors) if executor == "ray" else None,
            progress=True,
            tell=print,
        )
    for name, reason in list(report.failures.items())[:FAILURES_SHOWN]:
        complain(CommandError(f"{name}: {reason}" if name not in reason else reason))
    if len(report.failures) > FAILURES_SHOWN:
        complain(CommandError(f"and {len(report.failures) - FAILURES_SHOWN} more; --json names all"))
    where = f"-> {output}" if report.finished else f"in {output}.parts; run once without --shard to finish"
    print(f"{report.extracted} images extracted, {report.before} before, {len(report.failures)} failed {where}")
    content = {
        "extracted": report.extracted,
        "before": report.before,
        "failures": dict(report.failures),
        "shapes": [{"height": h, "width": w, "images": count} for (h, w), count in report.shapes.items()],
        "padding": report.padding,
        "finished": report.finished,
    }
    save_json(content, json)
    return 2 if report.failures else 0
