"""Reading photos in other processes: first their sizes, then their pixels as the network sees them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from superpoint_jax.bulk.hloc import Stamp
from superpoint_jax.files import stamp
from superpoint_jax.photos.pixels import network_size, read_pixels
from superpoint_jax.photos.plan import Shape
from superpoint_jax.photos.regions import find_mask, read_region
from superpoint_jax.processing.loading import MAX_IMAGE_PIXELS, ImageError, load_stored, read_size
from superpoint_jax.processing.orientation import upright, upright_size
from superpoint_jax.processing.processor import SuperPointImageProcessor
from superpoint_jax.regions import resized_region

T = TypeVar("T")
A = TypeVar("A")
Frame = Literal["stored", "upright"]
Size = tuple[str, Shape | str]
"""The name of an image, and its (height, width) for the network or the error."""

ENDED = "the process that decodes it ended twice"
CHUNK = 64
"""Number of file headers that a process reads per task."""


class Photo(NamedTuple):
    """What is known of a photo besides its pixels.

    Attributes:
        size: (height, width) of the upright photo.
        orientation: From the frame of the output to the upright one, by EXIF's number; see `processing.orientation`.
        stamp: The state of its file, and of that of its mask.
    """

    size: Shape
    orientation: int
    stamp: Stamp


class Read(NamedTuple):
    """An image as the network sees it: its pixels [h,w,1 or 3], and where keypoints may be [h,w] if it has a mask."""

    pixels: np.ndarray
    region: np.ndarray | None
    photo: Photo


@dataclass(frozen=True)
class Task:
    """What a process needs to know to read photos.

    Attributes:
        root: The folder that names are relative to.
        processor: Preprocessing of the images.
        max_pixels: Larger images are refused before they are decoded.
        masks: Folder of masks.
        frame: The frame of the output, which is that of the masks too.
    """

    root: Path
    processor: SuperPointImageProcessor
    max_pixels: int | None = MAX_IMAGE_PIXELS
    masks: Path | None = None
    frame: Frame = "stored"


class Reader:
    """Reads the photos of a folder in `workers` other processes, or in this one if that is 0. A context manager.

    With a folder of masks, also the mask of each photo that has one.
    """

    def __init__(self, task: Task, *, workers: int | None = None) -> None:
        self.task = task
        self._count = workers if workers is not None else min(8, os.cpu_count() or 1)
        self._pool = _pool(self._count) if self._count else None
        self._alone: ProcessPoolExecutor | None = None

    def sizes(self, names: Iterable[str]) -> Iterator[Size]:
        """For each image its name and its (height, width) for the network, or its name and the error."""
        names = list(names)
        chunks = [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]
        for result in self._bounded(chunks) if self._pool else (_sizes(self.task, chunk) for chunk in chunks):
            yield from result

    def start(self, name: str) -> Callable[[], Read | str]:
        """A function that waits for an image as the network sees it or for the error; reading starts at once."""
        if self._pool is None:
            return lambda: _pixels(self.task, name)
        return self._submit(_pixels, name, lambda: ENDED)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self._pool, self._alone):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, function: Callable[[Task, A], T], argument: A, failed: Callable[[], T]) -> Callable[[], T]:
        """A function that waits for the result of a task in another process; `failed` gives it if that process ends.

        When a process ends, the pool and all its tasks are lost. Each of them is done once more, one at a time in
        another pool, so that only the one that ends its process again has failed.
        """
        pool = self._pool
        assert pool is not None
        future = _submitted(pool, function, self.task, argument)

        def result() -> T:
            try:
                if future is not None:
                    return future.result()
            except BrokenProcessPool:
                pass
            if self._pool is pool:
                self._pool = _pool(self._count)
            self._alone = self._alone or _pool(1)
            try:
                return self._alone.submit(function, self.task, argument).result()
            except BrokenProcessPool:
                self._alone = None
                return failed()

        return result

    def _bounded(self, chunks: list[list[str]]) -> Iterator[list[Size]]:
        """The sizes of all chunks, with a bounded number of waiting tasks."""
        waiting: deque[Callable[[], list[Size]]] = deque()
        for chunk in chunks:
            # One name after the other, if the process ends.
            def singly(chunk: list[str] = chunk) -> list[Size]:
                found = [self._submit(_sizes, [name], lambda name=name: [(name, ENDED)])() for name in chunk]
                return [size for sizes in found for size in sizes]

            waiting.append(self._submit(_sizes, chunk, singly))
            if len(waiting) > 64:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()


def _pool(count: int) -> ProcessPoolExecutor:
    # Spawned, because this process runs jax's threads and must not be forked.
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)


def _submitted(pool: ProcessPoolExecutor, function: Callable[..., T], *arguments: Any) -> Future[T] | None:
    """The task, or None if a process of the pool has ended."""
    try:
        return pool.submit(function, *arguments)
    except BrokenProcessPool:
        return None


def _begin() -> None:
    """Ignore Ctrl-C in a worker, because its parent handles it, and end with the parent, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _sizes(task: Task, names: list[str]) -> list[Size]:
    found: list[Size] = []
    for name in names:
        try:
            size = read_size(task.root / name, max_pixels=task.max_pixels)
            found.append((name, network_size(size, task.processor, str(task.root / name))))
        except ImageError as error:
            found.append((name, str(error)))
    return found


def _pixels(task: Task, name: str) -> Read | str:
    path = task.root / name
    try:
        mask = None if task.masks is None else find_mask(task.masks, name)
        state = stamp_of(path, mask)
        stored, orientation = load_stored(path, max_pixels=task.max_pixels)
        seen = upright(stored, orientation)
        pixels = read_pixels(seen, task.processor)
        orientation = orientation if task.frame == "stored" else 1
        photo = Photo(seen.shape[:2], orientation, state)
        if mask is None:
            return Read(pixels, None, photo)
        region = read_region(mask, upright_size(photo.size, orientation), str(path))
        return Read(pixels, resized_region(upright(region, orientation), pixels.shape[:2]), photo)
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    except MemoryError:
        return f"{path}: not enough memory to decode it"


def stamp_of(image: Path, mask: Path | None) -> Stamp:
    """The state of the file of an image, and of that of its mask.

    Raises:
        OSError: There is no such file.
    """
    return (*stamp(image), *(() if mask is None else stamp(mask)))
