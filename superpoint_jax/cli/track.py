"""`superpoint-jax track`."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import jax
import numpy as np
import tyro
from tqdm import tqdm

from superpoint_jax import visualization
from superpoint_jax.cli.arguments import Extraction, Matching, OptionalOutput, OptionalPath
from superpoint_jax.cli.errors import CommandError, complain, told
from superpoint_jax.cli.saving import check_outputs, save_json
from superpoint_jax.track_files import check_tracks_file, tracks_record, write_tracks
from superpoint_jax.tracking import Tracker
from superpoint_jax.video import FrameWriter, Window, read_frames


def track(
    source: tyro.conf.Positional[str],
    *,
    output: OptionalOutput = None,
    show: bool = False,
    matching: tyro.conf.OmitArgPrefixes[Matching] = Matching(),
    extraction: tyro.conf.OmitArgPrefixes[Extraction] = Extraction(max_keypoints=512, resize=640),
    length: int = 8,
    min_age: int = 1,
    max_move_px: float | None = None,
    fps: float | None = None,
    max_frames: int | None = None,
    start: int = 0,
    end: int | None = None,
    skip: int = 0,
    tracks: OptionalPath = None,
    json: OptionalPath = None,
) -> int:
    """Follow keypoints through a video, a folder of images or a camera, and draw their tracks.

    Ctrl-C, or q in the window, ends the sequence of a camera; what was tracked until then is kept. At the end, the time
    per frame is told.

    Args:
        source: Video file, folder of photos (in the order of their names, all of one size), or the number of a camera.
        output: Video to write (.mp4, .avi), or without a suffix a folder with one picture per frame.
        show: Show the tracks in a window while they are found; needs a display, and OpenCV with windows.
        matching: What matches successive frames, and what a match has to pass.
        extraction: How keypoints are found. A tracker needs a fixed number of rows, so --max-keypoints can't be -1.
        length: Number of positions per track that are drawn.
        min_age: Tracks younger than this many frames are not drawn.
        max_move_px: Largest distance between the positions in successive frames, in pixels; unlimited by default.
        fps: Frames per second of the video written; by default those of the video read, 10 for a folder and 30 for a
            camera.
        max_frames: Stop after this many frames.
        start: Number of the first frame, counted from 0.
        end: Number of the frame before which it ends.
        skip: Leave out this many frames after each one that is taken.
        tracks: Write the tracks of all frames to this file: a table (.csv, .parquet) with a row per track and frame, or
            text like COLMAP's (.txt) with a line per track.
        json: Write to this file: a list with one object per frame, with "frame" (its number or name) and "tracks"
            (objects with "id", "age" in frames, "x", "y" in pixels of the original frame), also those below --min-age.
    """
    if extraction.max_keypoints < 1:
        raise CommandError(
            f"max_keypoints={extraction.max_keypoints}; a tracker needs a fixed number of rows, at least 1"
        )
    if max_frames is not None and max_frames < 1:
        raise CommandError(f"max_frames={max_frames}; at least one frame is needed")
    if output is None and json is None and tracks is None and not show:
        raise CommandError("give --output, --tracks or --json, or --show for a window")
    files = (json, tracks, output if output is None or output.suffix else None)
    check_outputs([path for path in files if path is not None], (Path(source),))
    if tracks is not None:
        with told():
            check_tracks_file(tracks)
    network = extraction.load()
    matcher = matching.network(network.config)
    with told():
        tracker = Tracker(length=length, max_move_px=max_move_px, matcher=matcher, **matching.tests())
        frames = read_frames(
            source, long_side=extraction.resize, max_frames=max_frames, start=start, end=end, skip=skip
        )
        writer = None if output is None else FrameWriter(output, fps=fps or frames.fps)
        window = Window() if show else None

    found, entries, failed, times = None, [], False, _Times()
    with contextlib.ExitStack() as stack:
        for opened in (writer, window):
            if opened is not None:
                stack.enter_context(opened)
        try:
            for frame in tqdm(frames, desc="frames", unit="frame", total=frames.count, disable=None):
                if frame.error is not None:
                    complain(CommandError(frame.error))
                    failed = True
                    continue
                times.end("reading")
                keypoints = jax.block_until_ready(network.frame(frame.pixels))
                times.end("keypoints")
                found = tracker.start(keypoints) if found is None else tracker.update(found, keypoints)
                entries.append(tracks_record(frame.name, found, frame.reduction))
                times.end("tracking")
                if writer is not None or window is not None:
                    pixels = visualization.to_pixels(visualization.draw_tracks(frame.pixels, found, min_age=min_age))
                    if writer is not None:
                        with told():
                            writer.write(pixels)
                    if window is not None and window.show(pixels):
                        break
                    times.end("drawing")
                times.next_frame()
        except KeyboardInterrupt:
            print("stopped")
    if found is None:
        raise CommandError(f"{source}: no frame could be read")
    save_json(entries, json)
    if tracks is not None:
        with told():
            write_tracks(tracks, entries)
    ages = np.asarray(jax.numpy.where(found.mask, found.ages, -1))
    old = int((ages >= min_age).sum())
    written = " ".join(f"-> {path}" for path in (output, tracks, json) if path is not None)
    print(
        f"{source}: {len(entries)} frames, {int(found.next_id)} tracks; in the last frame {old} of age {min_age} "
        f"or more, the oldest {int(ages.max())} frames {written}"
    )
    if text := times.text():
        print(text)
    return 2 if failed else 0


class _Times:
    """The time that each step takes in each frame. The first two frames, which compile, are left out."""

    def __init__(self) -> None:
        self._frames: list[dict[str, float]] = []
        self._now: dict[str, float] = {}
        self._last = time.perf_counter()

    def end(self, step: str) -> None:
        """A step ends now."""
        now = time.perf_counter()
        self._now[step], self._last = now - self._last, now

    def next_frame(self) -> None:
        """All steps of a frame have ended."""
        self._frames.append(self._now)
        self._now, self._last = {}, time.perf_counter()

    def text(self) -> str:
        """The means per frame; empty for fewer than three frames."""
        frames = self._frames[2:]
        if not frames:
            return ""
        means = {step: float(np.mean([frame[step] for frame in frames])) * 1000 for step in frames[0]}
        total = sum(means.values())
        steps = ", ".join(f"{step} {value:.1f}" for step, value in means.items())
        return f"{total:.1f} ms per frame ({1000 / total:.1f} frames/s): {steps}"
