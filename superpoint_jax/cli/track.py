"""`superpoint-jax track`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from tqdm import tqdm

from superpoint_jax import visualization
from superpoint_jax.cli.arguments import Extraction, Matching, OptionalPath, Output
from superpoint_jax.cli.errors import CommandError, complain, told
from superpoint_jax.cli.saving import check_outputs, save_json
from superpoint_jax.tracking import Tracker, Tracks
from superpoint_jax.video import FrameWriter, read_frames


def track(
    source: tyro.conf.Positional[str],
    *,
    output: Output,
    matching: tyro.conf.OmitArgPrefixes[Matching] = Matching(),
    extraction: tyro.conf.OmitArgPrefixes[Extraction] = Extraction(max_keypoints=512, resize=640),
    length: int = 8,
    min_age: int = 1,
    max_move_px: float | None = None,
    fps: float | None = None,
    max_frames: int | None = None,
    json: OptionalPath = None,
) -> int:
    """Follow keypoints through a video, a folder of images or a camera, and draw their tracks.

    Ctrl-C ends the sequence of a camera; what was tracked until then is kept.

    Args:
        source: Video file, folder of photos (in the order of their names, all of one size), or the number of a camera.
        output: Video to write (.mp4, .avi), or without a suffix a folder with one picture per frame.
        matching: What matches successive frames, and what a match has to pass.
        extraction: How keypoints are found. A tracker needs a fixed number of rows, so --max-keypoints can't be -1.
        length: Number of positions per track that are drawn.
        min_age: Tracks younger than this many frames are not drawn.
        max_move_px: Largest distance between the positions in successive frames, in pixels; unlimited by default.
        fps: Frames per second of the video written; by default those of the video read, 10 for a folder and 30 for a
            camera.
        max_frames: Stop after this many frames.
        json: Write to this file: a list with one object per frame, with "frame" (its number or name) and "tracks"
            (objects with "id", "age" in frames, "x", "y" in pixels of the original frame), also those below --min-age.
    """
    if extraction.max_keypoints < 1:
        raise CommandError(
            f"max_keypoints={extraction.max_keypoints}; a tracker needs a fixed number of rows, at least 1"
        )
    if max_frames is not None and max_frames < 1:
        raise CommandError(f"max_frames={max_frames}; at least one frame is needed")
    check_outputs([path for path in (json, output if output.suffix else None) if path is not None], (Path(source),))
    network = extraction.load()
    matcher = matching.network(network.config)
    with told():
        tracker = Tracker(length=length, max_move_px=max_move_px, matcher=matcher, **matching.tests())
        frames = read_frames(source, long_side=extraction.resize, max_frames=max_frames)
        writer = FrameWriter(output, fps=fps or frames.fps)

    tracks, entries, failed = None, [], False
    with writer:
        bar = tqdm(frames, desc="frames", unit="frame", total=frames.count, disable=None)
        try:
            for frame in bar:
                if frame.error is not None:
                    complain(CommandError(frame.error))
                    failed = True
                    continue
                found = network.frame(frame.pixels)
                tracks = tracker.start(found) if tracks is None else tracker.update(tracks, found)
                axes = visualization.draw_tracks(frame.pixels, tracks, min_age=min_age)
                with told():
                    writer.write(visualization.to_pixels(axes))
                entries.append(_entry(frame.name, tracks, frame.reduction))
        except KeyboardInterrupt:
            print("stopped")
    if tracks is None:
        raise CommandError(f"{source}: no frame could be read")
    save_json(entries, json)
    ages = np.asarray(jax.numpy.where(tracks.mask, tracks.ages, -1))
    old = int((ages >= min_age).sum())
    print(
        f"{source}: {len(entries)} frames, {int(tracks.next_id)} tracks; in the last frame {old} of age {min_age} "
        f"or more, the oldest {int(ages.max())} frames -> {output}"
    )
    return 2 if failed else 0


def _entry(name: str | int, tracks: Tracks, reduction: float) -> dict[str, Any]:
    rows = np.flatnonzero(np.asarray(tracks.mask))
    # Pixel centres are at integers, here and in the original frame.
    points = (np.asarray(tracks.points_xy[:, 0], np.float64)[rows] + 0.5) * reduction - 0.5
    return {
        "frame": name,
        "tracks": [
            {"id": int(number), "age": int(age), "x": round(float(x), 3), "y": round(float(y), 3)}
            for number, age, (x, y) in zip(
                np.asarray(tracks.ids)[rows], np.asarray(tracks.ages)[rows], points, strict=True
            )
        ],
    }
