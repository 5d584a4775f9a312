"""`superpoint-jax reconstruct`."""

from __future__ import annotations

import dataclasses
import sys

import tyro

from superpoint_jax.bulk.cameras import Cameras
from superpoint_jax.bulk.pairs import Pairing
from superpoint_jax.cli.arguments import Extraction, Matching, OptionalPath, Output
from superpoint_jax.cli.errors import CommandError, complain, told
from superpoint_jax.cli.extract import arguments_of_run, complain_of, root_of
from superpoint_jax.cli.saving import save_json
from superpoint_jax.reconstruction import Mapper
from superpoint_jax.reconstruction import reconstruct as reconstructed


def reconstruct(
    source: tyro.conf.Positional[str],
    *,
    output: Output,
    mapper: Mapper = "incremental",
    refine_intrinsics: bool | None = None,
    extraction: tyro.conf.OmitArgPrefixes[Extraction] = Extraction(),
    pairing: tyro.conf.OmitArgPrefixes[Pairing] = Pairing(),
    matching: tyro.conf.OmitArgPrefixes[Matching] = Matching(),
    cameras: tyro.conf.OmitArgPrefixes[Cameras] = Cameras(),
    masks: OptionalPath = None,
    list: OptionalPath = None,
    root: OptionalPath = None,
    workers: int | None = None,
    json: OptionalPath = None,
) -> int:
    """Reconstruct cameras and points from photos of one place, by COLMAP's mapper on keypoints found by SuperPoint.

    OUTPUT gets the model in COLMAP's format, database.db with keypoints and matches, and model.png, a picture of
    cameras and points. If the command was stopped, the same command uses what is done. If no model is found, the exit
    code is 2.

    Args:
        source: Folder (with all its subfolders), text file with one path per line, or pattern such as
            'photos/**/*.jpg'.
        output: Folder for the model.
        mapper: COLMAP's incremental mapper, or its global one, which is faster for many photos.
        refine_intrinsics: Whether the mapper adjusts focal lengths and distortions; by default unless --intrinsics
            gives those of all photos.
        extraction: How keypoints are found.
        pairing: Which photos are matched; all pairs, if nothing else is chosen.
        matching: What matches them, and what a match has to pass.
        cameras: The cameras of the photos.
        masks: Folder with a mask for each photo by COLMAP's rule: FOLDER/a/b.jpg.png for a/b.jpg. No keypoint lies
            where a mask is black (0). Photos without a mask are used whole.
        list: Text file with the names of the photos to take from the folder, one per line, with either slash.
        root: The folder that names are relative to; by default the given folder, the folder of the list, or the part of
            the pattern before its first wildcard.
        workers: Number of processes that decode photos.
        json: Write the numbers of the model, and the names of the photos that are not in it, to this file.
    """
    with told():
        run = arguments_of_run(extraction, pairing, matching, cameras, masks=masks, workers=workers)
        report = reconstructed(
            source if list is None else list,
            output,
            **run,
            root=root_of(source, list, root),
            mapper=mapper,
            refine_intrinsics=refine_intrinsics,
            progress=True,
            tell=print,
        )
    failures = report.extraction.failures
    complain_of(failures)
    images = report.registered + len(report.left_out)
    print(f"{report.extraction.pairs_verified} of {report.extraction.pairs_tried} pairs of images verified")
    if report.models:
        print(
            f"{report.registered} of {images} images registered, {report.points} points, reprojection error "
            f"{report.reprojection_error_px:.2f} px, {report.track_length:.1f} images per point -> {output}"
        )
    else:
        complain(
            CommandError(
                f"no model: no two of the {images} images share enough matches at a wide enough angle to begin with"
            )
        )
    for weakness in report.weaknesses:
        print(f"superpoint-jax: warning: {weakness}", file=sys.stderr)
    content = dataclasses.asdict(report) | {"registered": report.registered, "weaknesses": report.weaknesses}
    extraction_content = content.pop("extraction")
    counts = ("pairs_tried", "pairs_verified", "failures")
    save_json(content | {name: extraction_content[name] for name in counts}, json)
    return 2 if failures or not report.models else 0
