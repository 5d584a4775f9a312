"""`superpoint-jax extract`."""

from __future__ import annotations

from typing import Literal

import tyro

import superpoint_jax as sp
from superpoint_jax.bulk import BulkOptions, extract_files
from superpoint_jax.bulk.cluster import RayExecutor
from superpoint_jax.bulk.colmap import Pairs
from superpoint_jax.cli.arguments import Extraction, OptionalPath, Output
from superpoint_jax.cli.errors import CommandError, complain, told
from superpoint_jax.cli.saving import save_json

FAILURES_SHOWN = 20


def extract(
    source: tyro.conf.Positional[str],
    *,
    output: Output,
    extraction: tyro.conf.OmitArgPrefixes[Extraction] = Extraction(),
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
        source: Folder (with all below it), text file with one path per line, or pattern such as 'photos/**/*.jpg'.
        output: Its name says what it is: .h5 hloc's HDF5; .db a COLMAP database; no suffix a folder of Parquet files.
        extraction: How keypoints are found.
        descriptors: Type in which descriptors are kept.
        matches: For a COLMAP database: match all images with all, or each with the next 10 by name.
        root: The folder that names are relative to; by default the folder, or that of the list, or the pattern's first.
        batch: Images per batch; by default 1 on a CPU and 32 otherwise.
        part: About how many images are done again after a kill, at most.
        max_shapes: Images are padded to at most this many shapes, each of which is compiled. No result depends on it.
        workers: Processes that decode.
        devices: How many devices are used; all by default.
        max_pixels: Larger files are refused before they are decoded.
        shard: With `i n`, extract every n-th part alone, for several machines with a common file system; run once more
            without it to finish.
        executor: What does the work: this process, or a Ray cluster, whose nodes must see both files and output.
        address: Address of the Ray cluster, "auto" for the running one; by default a new one on this machine.
        actors: Models at work at once in the Ray cluster; by default one per GPU, or one for two CPUs.
        json: Write what was done, and what failed and why, to this file.
    """
    with told():
        options = BulkOptions(
            max_keypoints=extraction.max_keypoints,
            keypoint_threshold=extraction.keypoint_threshold,
            nms_radius=extraction.nms_radius,
            resize=extraction.resize,
            upscale=extraction.upscale,
            enlarge=extraction.enlarge,
            dtype=extraction.dtype,
            engine=extraction.engine,
            descriptors=descriptors,
            matches=matches,
            batch=batch,
            part=part,
            max_shapes=max_shapes,
            workers=workers,
            devices=devices,
            max_pixels=max_pixels,
        )
        model = sp.from_pretrained(extraction.weights)
        report = extract_files(
            source,
            output,
            model=model,
            processor=sp.SuperPointImageProcessor.for_weights(extraction.weights, model.config),
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
