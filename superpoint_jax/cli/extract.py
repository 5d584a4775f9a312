"""`superpoint-jax extract`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import tyro

import superpoint_jax as sp
from superpoint_jax.bulk import BulkOptions, extract_files
from superpoint_jax.bulk.cameras import Cameras
from superpoint_jax.bulk.cluster import RayExecutor
from superpoint_jax.bulk.outputs import verify as verified
from superpoint_jax.bulk.pairs import Pairing
from superpoint_jax.bulk.reading import Frame
from superpoint_jax.cli.arguments import Extraction, Matching, OptionalOutput, OptionalPath
from superpoint_jax.cli.errors import CommandError, complain, told
from superpoint_jax.cli.saving import save_json

FAILURES_SHOWN = 20


def extract(
    source: tyro.conf.Positional[str | None] = None,
    *,
    output: OptionalOutput = None,
    verify: OptionalPath = None,
    extraction: tyro.conf.OmitArgPrefixes[Extraction] = Extraction(),
    descriptors: Literal["float16", "float32"] = "float16",
    frame: Frame = "stored",
    masks: OptionalPath = None,
    pairing: tyro.conf.OmitArgPrefixes[Pairing] = Pairing(),
    matching: tyro.conf.OmitArgPrefixes[Matching] = Matching(),
    cameras: tyro.conf.OmitArgPrefixes[Cameras] = Cameras(),
    list: OptionalPath = None,
    root: OptionalPath = None,
    batch: int | None = None,
    part: int = 256,
    max_shapes: int = 8,
    workers: int | None = None,
    devices: int | None = None,
    shard: tuple[int, int] | None = None,
    executor: Literal["local", "ray"] = "local",
    address: str | None = None,
    actors: int | None = None,
    json: OptionalPath = None,
) -> int:
    """Extract the keypoints and descriptors of all photos in a folder, a list or a pattern into one file.

    You can stop the command at any time, and it may be killed: the same command continues where it stopped. The output
    appears when it is complete; until then OUTPUT.parts keeps what is done. On a finished output, the same command adds
    new photos.

    Args:
        source: Folder (with all its subfolders), text file with one path per line, or pattern such as
            'photos/**/*.jpg'.
        output: Its suffix decides what is written: .h5 is hloc's HDF5, .db a COLMAP database, no suffix a folder of
            Parquet files.
        verify: Instead of all else, compare an output, finished or not, with its checksums.
        extraction: How keypoints are found.
        descriptors: Type in which descriptors are kept.
        frame: Frame of the keypoints of photos with an EXIF orientation: "stored", in which COLMAP and hloc work, or
            "upright", as the photo is shown. Masks are in this frame too.
        masks: Folder with a mask for each photo by COLMAP's rule: FOLDER/a/b.jpg.png for a/b.jpg. No keypoint lies
            where a mask is black (0). Photos without a mask are used whole.
        pairing: Which photos are matched for a COLMAP database.
        matching: What matches them, and what a match has to pass.
        cameras: The cameras of a COLMAP database.
        list: Text file with the names of the photos to take from the folder, one per line, with either slash.
        root: The folder that names are relative to; by default the given folder, the folder of the list, or the part of
            the pattern before its first wildcard.
        batch: Images per batch; by default 1 on a CPU and 32 otherwise.
        part: After a kill, about this many images are done again at most.
        max_shapes: Images are padded to at most this many shapes, each of which is compiled. It changes no result.
        workers: Number of processes that decode photos.
        devices: Number of devices that are used; all by default.
        shard: With `i n`, extract only every n-th part, for several machines with a common file system. Run the command
            once more without it to finish.
        executor: What does the work: this process, or a Ray cluster, whose nodes must see both photos and output.
        address: Address of the Ray cluster, "auto" for the running one; by default a new one on this machine.
        actors: Number of models that work at once in the Ray cluster; by default one per GPU, or one per two CPUs.
        json: Write what was done, and what failed and why, to this file.
    """
    if verify is not None:
        return _verify(verify)
    if source is None or output is None:
        raise CommandError("give photos and an output (extract PHOTOS -o OUTPUT), or --verify OUTPUT")
    with told():
        run = arguments_of_run(
            extraction,
            pairing,
            matching,
            cameras,
            descriptors=descriptors,
            frame=frame,
            masks=masks,
            batch=batch,
            part=part,
            max_shapes=max_shapes,
            workers=workers,
            devices=devices,
        )
        report = extract_files(
            source if list is None else list,
            output,
            **run,
            root=root_of(source, list, root),
            shard=shard,
            executor=RayExecutor(address=address, actors=actors) if executor == "ray" else None,
            progress=True,
            tell=print,
        )
    complain_of(report.failures)
    where = f"-> {output}" if report.finished else f"in {output}.parts; run once without --shard to finish"
    print(f"{report.extracted} images extracted, {report.before} before, {len(report.failures)} failed {where}")
    if report.pairs_tried:
        print(
            f"{report.pairs_tried} pairs of images tried, {report.pairs_verified} verified (with at least "
            f"{pairing.min_verified} matches that agree on a geometry)"
        )
    content = {
        "extracted": report.extracted,
        "before": report.before,
        "failures": dict(report.failures),
        "shapes": [{"height": h, "width": w, "images": count} for (h, w), count in report.shapes.items()],
        "padding": report.padding,
        "finished": report.finished,
        "pairs_tried": report.pairs_tried,
        "pairs_verified": report.pairs_verified,
    }
    save_json(content, json)
    return 2 if report.failures else 0


def root_of(source: str, list: Path | None, root: Path | None) -> Path | None:
    """The folder that names are relative to: with a list of names it is the folder that they are taken from."""
    if list is not None and not Path(source).is_dir():
        raise CommandError(f"--list takes photos from a folder, and {source} is none")
    return root if list is None or root is not None else Path(source)


def arguments_of_run(
    extraction: Extraction, pairing: Pairing, matching: Matching, cameras: Cameras, **others: Any
) -> dict[str, Any]:
    """The networks and the options of a run, under the names that `extract_files` has for them."""
    # Options that both have bear one name, so a new one reaches the run by itself.
    found_by = {name: value for name, value in dataclasses.asdict(extraction).items() if name != "weights"}
    options = BulkOptions(
        **found_by, **matching.tests(), **dataclasses.asdict(pairing), **dataclasses.asdict(cameras), **others
    )
    model = sp.from_pretrained(extraction.weights)
    return {
        "model": model,
        "processor": sp.SuperPointImageProcessor.for_weights(extraction.weights, model.config),
        "matcher": matching.network(model.config),
        "options": options,
    }


def complain_of(failures: Mapping[str, str]) -> None:
    """Print the first failures, one per line."""
    for name, reason in list(failures.items())[:FAILURES_SHOWN]:
        complain(CommandError(f"{name}: {reason}" if name not in reason else reason))
    if len(failures) > FAILURES_SHOWN:
        complain(CommandError(f"and {len(failures) - FAILURES_SHOWN} more; --json lists all"))


def _verify(output: Path) -> int:
    with told():
        images, damaged = verified(output)
    for path in damaged:
        complain(CommandError(f"{path} is damaged; run the command that made it again, which makes it anew"))
    if not damaged:
        print(f"{output}: {images} images, all checksums are right")
    return 2 if damaged else 0
