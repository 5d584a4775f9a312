"""Writing features to the files of parts, in a thread, while the device computes the next ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from superpoint_jax.bulk.hloc import ImageFeatures, write_features
from superpoint_jax.bulk.parts import Parts
from superpoint_jax.bulk.reading import Photo
from superpoint_jax.features import Keypoints
from superpoint_jax.files import is_disk_full
from superpoint_jax.photos.batches import per_image
from superpoint_jax.processing.orientation import to_stored_frame

if TYPE_CHECKING:
    import h5py

DETECTION_NOISE_PX = 2.0
"""The attribute `uncertainty` of hloc for SuperPoint, in pixels of the image that the network saw."""


class Writer:
    """Writes results in one thread while the device computes the next ones; a bounded number of batches waits."""

    def __init__(self, parts: Parts, descriptors: str, bar: tqdm) -> None:
        self._parts, self._descriptors, self._bar = parts, descriptors, bar
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()
        self._part: AbstractContextManager[h5py.File] | None = None
        self._file: h5py.File | None = None
        self._written = 0

    def add(self, names: list[str], images: list[Photo], found: Keypoints) -> None:
        """Write the rows of a batch that have a name; the others are padding."""
        self._submit(self._write, names, images, found)

    def end_part(self) -> None:
        """Make one part of what was added since the last part ended."""
        self._submit(self._end)

    def finish(self) -> int:
        """The number of images written, after waiting for all of them."""
        while self._waiting:
            self._waiting.popleft().result()
        return self._written

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._part is not None:  # The run ended in the middle of a part, which is dropped.
            self._part.__exit__(kind or RuntimeError, error or RuntimeError("the run ended"), trace)

    def _submit(self, function: Callable[..., None], *arguments: Any) -> None:
        while len(self._waiting) > 2:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(function, *arguments))

    def _write(self, names: list[str], images: list[Photo], found: Keypoints) -> None:
        with full_disk_explained(self._parts.folder):
            if self._file is None:
                self._part = self._parts.writing()
                self._file = self._part.__enter__()
            sizes, photos = np.asarray(found.image_sizes), per_image(found, [image.size for image in images])
            for name, image, seen, one in zip(names, images, sizes, photos, strict=False):
                keypoints_xy, size = to_stored_frame(np.asarray(one.keypoints), image.size, image.orientation)
                features = ImageFeatures(
                    keypoints_xy=keypoints_xy,
                    scores=np.asarray(one.scores),
                    descriptors=np.asarray(one.descriptors),
                    size=size,
                    uncertainty_px=DETECTION_NOISE_PX * float(np.mean(np.array(image.size) / seen)),
                    stamp=image.stamp,
                )
                write_features(self._file, name, features, descriptor_type=self._descriptors)
                self._written += 1
                self._bar.update()

    def _end(self) -> None:
        if self._part is not None:
            part, self._part, self._file = self._part, None, None
            with full_disk_explained(self._parts.folder):
                part.__exit__(None, None, None)


class full_disk_explained(AbstractContextManager):
    """Turns an error about a full disk into one whose message says how to continue."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError) and is_disk_full(error):
            raise OSError(
                error.errno,
                "no space left on the disk; make room, and the same command continues where it stopped",
                str(self.path),
            ) from error
