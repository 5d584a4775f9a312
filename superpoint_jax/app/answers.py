"""The answers of the page, without the page itself: a picture, text and files for given photos and settings."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from superpoint_jax import visualization
from superpoint_jax.bulk.hloc import ImageFeatures, write_features
from superpoint_jax.estimation import estimate_homography
from superpoint_jax.example import example_photos
from superpoint_jax.features import Keypoints
from superpoint_jax.lightglue import LightGlue
from superpoint_jax.lightglue.load import choose
from superpoint_jax.matching import match
from superpoint_jax.model import SuperPoint
from superpoint_jax.openvino import CompiledSuperPoint
from superpoint_jax.photos import extract_images
from superpoint_jax.processing import SuperPointImageProcessor, load_image
from superpoint_jax.records import keypoints_record, matches_record

MOST_KEYPOINTS = 2048
"""Largest number of keypoints; they are always extracted, so that the sliders need no new extraction."""

REMEMBERED = 8
"""Number of photos whose keypoints are kept in memory."""

MOST_PIXELS = 2**26
"""Larger photos are refused; with the default of `load_image`, a few of them would fill the memory."""

ANSWERS_KEPT = 32
"""Number of answers whose files are kept."""

MAX_LINES = 200


@dataclass(frozen=True)
class Shown:
    """An answer of the page: a picture, a text in Markdown, and files to download."""

    picture: Path
    text: str
    downloads: list[Path]


class Page:
    """Answers with the keypoints of one photo or the matches of two, and keeps keypoints. Not safe for several threads.

    Args:
        network: A model, or the result of `openvino.choose`.
        processor: Preprocessing of the photos; by default that of the network's configuration.
        resize: See `extract_images`.
        matcher: What matches at first: "nearest", "lightglue", or a source of `LightGlue.from_pretrained`.

    Attributes:
        threshold: Smallest score of a keypoint at first.
        matcher: What matches at first.
        matchers: What can be chosen: nearest neighbours, and one network.

    Raises:
        WeightsError, HubError, FileNotFoundError: The matcher can't be loaded.
    """

    def __init__(
        self,
        network: SuperPoint | CompiledSuperPoint,
        *,
        processor: SuperPointImageProcessor | None = None,
        resize: int | None = None,
        matcher: str = "nearest",
    ) -> None:
        self.threshold = float(network.config.keypoint_threshold)
        self.matcher = matcher
        self.matchers = ("nearest", "lightglue" if matcher == "nearest" else matcher)
        self._loaded: dict[str, LightGlue | None] = {matcher: choose(matcher)}
        self._network = network
        self._options: dict[str, Any] = dict(processor=processor, resize=resize)
        self._remembered: OrderedDict[tuple[str, int, int], tuple[np.ndarray, Keypoints]] = OrderedDict()
        self._folder = tempfile.TemporaryDirectory(prefix="superpoint-jax-")
        self._count = 0

    def close(self) -> None:
        """Delete the pictures and files of the answers."""
        self._folder.cleanup()

    def example(self) -> list[Path]:
        """Paths of two example photos."""
        paths = [Path(self._folder.name) / f"example_{name}.png" for name in "ab"]
        if not paths[1].exists():
            for path, pixels in zip(paths, example_photos()[:2], strict=True):
                Image.fromarray(pixels).save(path)
        return paths

    def show(
        self, photos: Sequence[str | Path], *, threshold: float, max_keypoints: int, matcher: str = "nearest"
    ) -> Shown:
        """The answer for one or two photos.

        Args:
            photos: Paths of one or two photos.
            threshold: Smallest score of a keypoint.
            max_keypoints: Largest number of keypoints per photo, up to `MOST_KEYPOINTS`.
            matcher: What matches two photos: one of `matchers`. A network is loaded when it is first used.

        Raises:
            ValueError: There is no photo, there are too many, or a file is not an image; the message names it. Or the
                matcher can't be loaded, or was trained for another extractor.
            OSError: A file can't be read.
        """
        if not 1 <= len(photos) <= 2:
            raise ValueError(f"{len(photos)} photos were given; one shows its keypoints, two their matches")
        paths = [Path(photo) for photo in photos]
        names = [str(path) for path in paths]
        seen = [self._seen(path, threshold, max_keypoints) for path in paths]
        pixels, features = [photo for photo, _ in seen], [found for _, found in seen]
        self._count += 1
        folder = Path(self._folder.name) / str(self._count)
        folder.mkdir()
        shutil.rmtree(Path(self._folder.name) / str(self._count - ANSWERS_KEPT), ignore_errors=True)
        records: Any = [keypoints_record(name, found) for name, found in zip(names, features, strict=True)]
        counts = [int(found.mask.sum()) for found in features]
        text = f"**{counts[0]} keypoints**"
        if len(paths) == 1:
            axes = visualization.draw_keypoints(pixels[0], features[0])
        else:
            a, b = features
            matches = match(a, b, matcher=self._matcher(matcher))
            estimate = estimate_homography(a, b, matches)
            inliers, total = int(np.asarray(estimate.inliers).sum()), int(matches.mask.sum())
            axes = visualization.draw_matches(
                pixels[0], pixels[1], a, b, matches, inliers=estimate.inliers, max_lines=MAX_LINES
            )
            pair = matches_record(names, features, matches, model="homography", estimate=estimate)
            records = {"keypoints": records, "match": pair}
            text = f"{counts[0]} and {counts[1]} keypoints, **{total} matches**, " + (
                f"{inliers} of them inliers of a homography" if estimate.found else "no homography was found"
            )
        picture, table, store = (folder / name for name in ("picture.png", "keypoints.json", "features.h5"))
        visualization.save(axes, picture)
        table.write_text(json.dumps(records) + "\n", encoding="utf-8")
        _store(store, paths, features)
        return Shown(picture=picture, text=text, downloads=[table, store, picture])

    def _matcher(self, name: str) -> LightGlue | None:
        if name not in self._loaded:
            self._loaded[name] = choose(name)
        return self._loaded[name]

    def _seen(self, path: Path, threshold: float, max_keypoints: int) -> tuple[np.ndarray, Keypoints]:
        """Pixels and chosen keypoints of a photo."""
        status = path.stat()
        key = (str(path), status.st_mtime_ns, status.st_size)
        if key not in self._remembered:
            pixels = load_image(path, max_pixels=MOST_PIXELS)
            (found,) = extract_images(
                self._network, [pixels], max_keypoints=MOST_KEYPOINTS, keypoint_threshold=0.0, **self._options
            )
            self._remembered[key] = pixels, found
            while len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)
        pixels, found = self._remembered[key]
        # Scores are descending, so the best keypoints are the first.
        count = min(int((np.asarray(found.scores) > threshold).sum()), max_keypoints)
        return pixels, dataclasses.replace(
            found,
            keypoints=found.keypoints[:count],
            scores=found.scores[:count],
            descriptors=found.descriptors[:count],
            mask=found.mask[:count],
        )


def _store(path: Path, photos: Sequence[Path], features: Sequence[Keypoints]) -> None:
    import h5py

    names = [photo.name for photo in photos]
    if len(set(names)) < len(names):
        names = [f"{index}_{name}" for index, name in enumerate(names)]
    with h5py.File(path, "w", libver="latest") as file:
        for name, found in zip(names, features, strict=True):
            mask = np.asarray(found.mask)
            height, width = found.image_sizes.tolist()
            rows = [np.asarray(array)[mask] for array in (found.keypoints, found.scores, found.descriptors)]
            write_features(file, name, ImageFeatures(*rows, size=(height, width), uncertainty_px=1.0))
