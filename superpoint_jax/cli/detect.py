"""`superpoint-jax detect`."""

from __future__ import annotations

from pathlib import Path

import tyro

from superpoint_jax import visualization
from superpoint_jax.cli.arguments import Extraction, OptionalOutput, OptionalPath, masks_of
from superpoint_jax.cli.errors import CommandError, complain
from superpoint_jax.cli.saving import check_outputs, picture_paths, save_json, save_picture
from superpoint_jax.records import keypoints_record


def detect(
    images: tyro.conf.Positional[tuple[Path, ...]],
    *,
    output: OptionalOutput = None,
    mask: OptionalPath = None,
    masks: OptionalPath = None,
    extraction: tyro.conf.OmitArgPrefixes[Extraction] = Extraction(),
    json: OptionalPath = None,
    descriptors: bool = False,
) -> int:
    """Find the keypoints of photos, print one line per photo, and draw the keypoints.

    Args:
        images: Files in JPEG, PNG, TIFF, WebP, PNM, BMP, GIF, JPEG 2000 or AVIF. EXIF rotation is respected. 16-bit
            values are scaled by their full range, so 12 bits in a 16-bit file look nearly black.
        output: Draw the keypoints with size and colour by score. For one photo, the picture to write (.png, .jpg, .pdf,
            .svg); for several, or without a suffix, a folder with one picture NAME.png per photo.
        mask: For one photo, a picture of its size; no keypoint lies where it is black (0).
        masks: Folder with a mask for each photo by COLMAP's rule: FOLDER/b.jpg.png or FOLDER/a/b.jpg.png for a/b.jpg.
            Photos without a mask are used whole.
        extraction: How keypoints are found.
        json: Write the keypoints to this file: a list with one object per photo that could be read, with "image" (the
            path as given), "width", "height" (of the upright photo), "num_detected" (before the cut to
            --max-keypoints), "keypoints" ([[x, y], ...] in pixels of the photo, pixel centres at integers, in
            descending order of score) and "scores".
        descriptors: Add "descriptors", vectors of unit length, to the JSON file.
    """
    if not images:
        raise CommandError("no image was given: superpoint-jax detect IMAGE...")
    # Checked before the work, so that none of it is lost.
    pictures = picture_paths(images, output)
    check_outputs([path for path in (*pictures, json) if path is not None], images)
    if mask is not None and (masks is not None or len(images) > 1):
        raise CommandError("--mask is for one photo; for several, give --masks FOLDER")
    regions = masks_of(images, masks) if mask is None else [mask]
    network = extraction.load()
    records, failed = [], False
    try:
        for path, picture, region in zip(images, pictures, regions, strict=True):
            try:
                (found,) = network([path], None if region is None else [region])
                if picture is not None:
                    save_picture(visualization.draw_keypoints(network.read(path), found), picture)
            except CommandError as error:
                complain(error)
                failed = True
                continue
            records.append(record := keypoints_record(str(path), found, with_descriptors=descriptors))
            count, detected = len(record["keypoints"]), record["num_detected"]
            of = f" of {detected}" if detected > count else ""
            wrote = "" if picture is None else f" -> {picture}"
            print(f"{path}: {record['width']}x{record['height']}, {count}{of} keypoints{wrote}")
    finally:  # Also what was found before Ctrl-C.
        save_json(records, json)
    return 2 if failed else 0
