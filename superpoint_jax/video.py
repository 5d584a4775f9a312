"""Reading and writing sequences of frames: videos and cameras through OpenCV, folders of photos through Pillow."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import UInt8

from superpoint_jax.estimation.opencv import require_opencv
from superpoint_jax.files import is_url
from superpoint_jax.processing import ImageError, list_images, load_image

CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
"""Codecs that OpenCV's wheels can write on all platforms."""


@dataclass(frozen=True)
class Frame:
    """One frame of a sequence.

    Attributes:
        name: Number of the frame in a video, or its file name in a folder.
        pixels: RGB or gray, possibly reduced in size.
        reduction: Pixels of the original per pixel of `pixels`, along the longer side.
        error: Why the frame could not be read; `pixels` are then empty.
    """

    name: str | int
    pixels: UInt8[np.ndarray, "h w *c"]
    reduction: float = 1.0
    error: str | None = None


@dataclass
class Frames:
    """A sequence of frames that can be iterated once.

    Attributes:
        fps: Frames per second.
        count: Number of frames; None if it is unknown.
    """

    fps: float
    count: int | None
    _frames: Iterator[Frame] = field(repr=False)

    def __iter__(self) -> Iterator[Frame]:
        return self._frames


def read_frames(
    source: str | os.PathLike[str],
    *,
    long_side: int | None = 640,
    max_frames: int | None = None,
    start: int = 0,
    end: int | None = None,
    skip: int = 0,
) -> Frames:
    """The frames of a video file, of a folder of photos in the order of their names, or of a camera.

    A photo that can't be read, or whose size differs from that of the first one, becomes a frame with an `error`.

    Args:
        source: Path, or the number of a camera.
        long_side: Frames are reduced to this longer side, in pixels; None or 0 never reduces.
        max_frames: End after this many frames.
        start: Number of the first frame; the sequence begins with 0.
        end: Number of the frame before which it ends.
        skip: Frames left out after each one that is taken; `fps` becomes that of the frames taken.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: The folder has no photos, the video or camera can't be opened, or an option is out of range.
        ImportError: OpenCV is not installed, which videos and cameras need.
    """
    if long_side and long_side < 8:
        raise ValueError(f"long_side={long_side}; at least 8 pixels are needed")
    if start < 0 or skip < 0 or (end is not None and end <= start):
        raise ValueError(f"start={start}, end={end}, skip={skip}; none is negative, and the end comes after the start")
    path = Path(source)
    if path.is_dir():
        files = list_images(path)[start : end : skip + 1][:max_frames]
        if not files:
            raise ValueError(f"{path}: no photos from number {start} on in this folder")
        return Frames(10.0, len(files), _images(files, long_side))
    camera = os.fspath(source).isdigit() and not path.exists()
    if is_url(os.fspath(source)) and not path.exists():
        raise ValueError(f"{source}: a URL is not opened; download the video, or give the number of a camera")
    if not camera and not path.exists():
        raise FileNotFoundError(2, "no such file or folder, and not the number of a camera", str(path))
    cv2 = require_opencv()
    capture = cv2.VideoCapture(int(os.fspath(source)) if camera else str(path))
    if not capture.isOpened():
        raise ValueError(f"{'camera ' if camera else ''}{source}: can't be opened as a video")
    fps = capture.get(cv2.CAP_PROP_FPS)
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    taken = range(start, sys.maxsize if end is None else end, skip + 1)[:max_frames]
    known = len(range(count)[taken.start : taken.stop : taken.step]) if count > 0 and not camera else max_frames
    fps = (fps if 0 < fps < 1000 else 30.0) / (skip + 1)
    return Frames(fps, known, _video(capture, long_side, taken))


class FrameWriter:
    """Writes frames of equal size to a video, or, if the path has no suffix, to numbered pictures in a folder.

    It is a context manager. The frames of a video need even sides, so an odd last row or column is dropped.

    Raises:
        ValueError: The suffix is not that of a supported video format, or the video can't be written.
        OSError: A picture can't be written.
    """

    def __init__(self, path: Path, *, fps: float) -> None:
        self.path, self.fps, self._video, self._count = path, fps, None, 0
        if not 0 < fps < 1000:
            raise ValueError(f"fps={fps}; more than 0 and less than 1000 is needed")
        if path.suffix and path.suffix.lower() not in CODECS and not path.is_dir():
            raise ValueError(
                f"{path}: a video is one of {', '.join(CODECS)}; without a suffix it is a folder of pictures"
            )
        self._pictures = path.is_dir() or not path.suffix
        if self._pictures:
            path.mkdir(parents=True, exist_ok=True)
        else:
            require_opencv()

    def write(self, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
        """Write the next frame, in RGB."""
        if self._pictures:
            from PIL import Image

            Image.fromarray(pixels).save(self.path / f"{self._count:06}.png")
        else:
            self._write_video(pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2])
        self._count += 1

    def _write_video(self, pixels: np.ndarray) -> None:
        cv2 = require_opencv()
        if self._video is None:
            code = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()])
            self._video = cv2.VideoWriter(str(self.path), code, self.fps, (pixels.shape[1], pixels.shape[0]))
            if not self._video.isOpened():
                raise ValueError(f"{self.path}: OpenCV can't write this video")
        self._video.write(np.ascontiguousarray(pixels[..., ::-1]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._video is not None:
            self._video.release()


class Window:
    """A window that shows frames, through OpenCV. It is a context manager, at whose end the window is closed.

    Raises:
        ValueError: There is no display, or the installed OpenCV has no windows.
    """

    TITLE = "superpoint-jax: q or Esc ends"

    def __init__(self) -> None:
        cv2 = require_opencv()
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise ValueError("there is no display for a window; leave it out, and write a video instead")
        try:
            cv2.namedWindow(self.TITLE, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise ValueError(
                "this OpenCV has no windows: pip uninstall opencv-python-headless && pip install opencv-python"
            ) from error

    def show(self, pixels: UInt8[np.ndarray, "h w 3"]) -> bool:
        """Show a frame, in RGB; whether q or Esc was pressed or the window was closed."""
        cv2 = require_opencv()
        cv2.imshow(self.TITLE, np.ascontiguousarray(pixels[..., ::-1]))
        key = cv2.waitKey(1) & 0xFF
        return key in (ord("q"), 27) or cv2.getWindowProperty(self.TITLE, cv2.WND_PROP_VISIBLE) < 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        require_opencv().destroyWindow(self.TITLE)


def _video(capture: Any, long_side: int | None, taken: range) -> Iterator[Frame]:
    try:
        for number in range(taken.stop):
            # Every frame is decoded, because few videos can go to a frame by its number exactly.
            if not capture.grab():
                return
            if number in taken:
                there, pixels = capture.retrieve()
                if not there:
                    return
                yield _reduced(number, np.ascontiguousarray(pixels[..., ::-1]), long_side)
    finally:
        capture.release()


def _images(files: list[Path], long_side: int | None) -> Iterator[Frame]:
    size = None
    for path in files:
        nothing = np.zeros((0, 0), np.uint8)
        try:
            pixels = load_image(path)
        except ImageError as error:
            yield Frame(path.name, nothing, error=str(error))
            continue
        size = size or pixels.shape[:2]
        if pixels.shape[:2] != size:
            found, needed = (f"{width}x{height}" for height, width in (pixels.shape[:2], size))
            yield Frame(path.name, nothing, error=f"{path}: {found} pixels, and the first photo has {needed}; left out")
            continue
        yield _reduced(path.name, pixels, long_side)


def _reduced(name: str | int, pixels: np.ndarray, long_side: int | None) -> Frame:
    from PIL import Image

    factor = max(pixels.shape[:2]) / long_side if long_side else 1.0
    if factor <= 1:
        return Frame(name, pixels)
    size = tuple(max(round(side / factor), 8) for side in pixels.shape[1::-1])
    return Frame(name, np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX)), factor)
