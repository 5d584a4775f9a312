"""Reading photos in other processes: first their sizes, then their pixels as the network sees them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from superpoint_jax.photos.pixels import network_size, read_pixels
from superpoint_jax.photos.regions import find_mask, read_region
from superpoint_jax.processing.loading import MAX_IMAGE_PIXELS, ImageError, read_size
from superpoint_jax.processing.processor import SuperPointImageProcessor
from superpoint_jax.regions import resized_region

T = TypeVar("T")
CHUNK = 64
"""Number of file headers that a process reads per task."""


class Read(NamedTuple):
    """An image as the network sees it: its pixels [h,w,1 or 3], and where keypoints may be [h,w] if it has a mask."""

    pixels: np.ndarray
    region: np.ndarray | None


class Reader:
    """Reads the photos of a folder in `workers` other processes, or in this one if that is 0. A context manager.

    With a folder of `masks`, also the mask of each photo that has one.
    """

    def __init__(
        self,
        root: Path,
        processor: SuperPointImageProcessor,
        *,
        workers: int | None = None,
        max_pixels: int | None = MAX_IMAGE_PIXELS,
        masks: Path | None = None,
    ) -> None:
        self.root, self.processor, self.max_pixels, self.masks = root, processor, max_pixels, masks
        count = workers if workers is not None else min(8, os.cpu_count() or 1)
        # Spawned, because this process runs jax's threads and must not be forked.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin) if count else None

    def sizes(self, names: Iterable[str]) -> Iterator[tuple[str, tuple[int, int], tuple[int, int]] | tuple[str, str]]:
        """For each image (name, original (height, width), (height, width) for the network), or (name, error)."""
        names = list(names)
        chunks = [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]
        if self._pool is None:
            results = (_sizes(self.root, chunk, self.processor, self.max_pixels) for chunk in chunks)
        else:
            results = _bounded(self._pool, _sizes, [(self.root, c, self.processor, self.max_pixels) for c in chunks])
        for result in results:
            yield from result

    def start(self, name: str) -> Callable[[], Read | str]:
        """A function that waits for an image as the network sees it or for the error; reading starts at once."""
        arguments = (self.root, name, self.processor, self.max_pixels, self.masks)
        if self._pool is None:
            return lambda: _pixels(*arguments)
        future = self._pool.submit(_pixels, *arguments)
        return lambda: _result(future)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """Ignore Ctrl-C in a worker; its parent handles it."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _result(future: Future[Read | str]) -> Read | str:
    return future.result()


def _bounded(pool: ProcessPoolExecutor, function: Callable[..., T], arguments: list[tuple]) -> Iterator[T]:
    """The results as from `pool.map`, with a bounded number of waiting tasks."""
    waiting: list[Future[T]] = []
    for these in arguments:
        waiting.append(pool.submit(function, *these))
        if len(waiting) > 64:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def _sizes(
    root: Path, names: list[str], processor: SuperPointImageProcessor, max_pixels: int | None
) -> list[tuple[str, tuple[int, int], tuple[int, int]] | tuple[str, str]]:
    found: list[tuple[str, tuple[int, int], tuple[int, int]] | tuple[str, str]] = []
    for name in names:
        try:
            size = read_size(root / name, max_pixels=max_pixels)
            found.append((name, size, network_size(size, processor, str(root / name))))
        except ImageError as error:
            found.append((name, str(error)))
    return found


def _pixels(
    root: Path, name: str, processor: SuperPointImageProcessor, max_pixels: int | None, masks: Path | None
) -> Read | str:
    path = root / name
    try:
        pixels = read_pixels(path, processor, max_pixels=max_pixels)
        mask = None if masks is None else find_mask(masks, name)
        if mask is None:
            return Read(pixels, None)
        region = read_region(mask, read_size(path, max_pixels=max_pixels), str(path))
        return Read(pixels, resized_region(region, pixels.shape[:2]))
    except ValueError as error:
        return str(error)
