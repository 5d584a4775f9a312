"""What the page of `superpoint-jax app` shows, without the page: photos and settings to a picture, text and files."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

import superpoint_jax as sp
from superpoint_jax import visualization
from superpoint_jax.bulk.hloc import ImageFeatures, write_features
from superpoint_jax.cli.demo import example_photos
from superpoint_jax.cli.detect import detected_entry
from superpoint_jax.cli.errors import CommandError, told
from superpoint_jax.cli.features import load_extractor
from superpoint_jax.cli.match import matched_entry
from superpoint_jax.cli.pair import MatchedPair
from superpoint_jax.cli.saving import save_picture
from superpoint_jax.estimation import estimate_homography
from superpoint_jax.processing import load_image

MOST_KEYPOINTS = 2048
"""Always extracted, so that the sliders choose among them without another run; one compilation a size of image."""

REMEMBERED = 8
"""Photos whose keypoints are kept."""

MAX_LINES = 200


@dataclass(frozen=True)
class Shown:
    """An answer of the page: its picture, its text in Markdown, and the files to download."""

    picture: Path
    text: str
    downloads: list[Path]


class Page:
    """Keypoints of one photo or matches of two, and what is remembered of them. Not for several threads at once."""

    def __init__(self, weights: str | None = None, *, engine: sp.openvino.Engine = "auto") -> None:
        self.threshold = float(sp.from_pretrained(weights).config.keypoint_threshold)
        self._features_of: Callable[[np.ndarray], sp.Keypoints] = load_extractor(
            weights, MOST_KEYPOINTS, engine=engine, keypoint_threshold=0.0
        )
        self._remembered: OrderedDict[tuple[str, int, int], tuple[np.ndarray, sp.Keypoints]] = OrderedDict()
        self._folder = tempfile.TemporaryDirectory(prefix="superpoint-jax-")
        self._count = 0

    def close(self) -> None:
        """Delete its pictures and files."""
        self._folder.cleanup()

    def example(self) -> list[Path]:
        """Two photos to begin with."""
        paths = [Path(self._folder.name) / f"example_{name}.png" for name in "ab"]
        if not paths[1].exists():
            for path, pixels in zip(paths, example_photos()[:2], strict=True):
                Image.fromarray(pixels).save(path)
        return paths

    def show(self, photos: Sequence[str | Path], *, threshold: float, max_keypoints: int) -> Shown:
        """The answer for one or two photos.

        Args:
            photos: Files.
            threshold: Smallest score of a keypoint.
            max_keypoints: The best of each photo, at most `MOST_KEYPOINTS`.

        Raises:
            CommandError: No photo, too many, or a file that is no image; says which.
        """
        if not 1 <= len(photos) <= 2:
            raise CommandError(f"{len(photos)} photos were given; one shows its keypoints, two their matches")
        paths = [Path(photo) for photo in photos]
        seen = [self._seen(path, threshold, max_keypoints) for path in paths]
        pixels, features = [photo for photo, _ in seen], [found for _, found in seen]
        self._count += 1
        folder = Path(self._folder.name) / str(self._count)
        folder.mkdir()
        entries: Any = [
            detected_entry(path, found, with_descriptors=False) for path, found in zip(paths, features, strict=True)
        ]
        text = f"**{int(features[0].mask.sum())} keypoints**"
        if len(paths) == 1:
            axes = visualization.draw_keypoints(pixels[0], features[0])
        else:
            a, b = features
            pair = MatchedPair((pixels[0], pixels[1]), (a, b), sp.match(a, b))
            estimate = estimate_homography(a, b, pair.matches)
            axes = visualization.draw_matches(
                *pair.pixels, a, b, pair.matches, inliers=estimate.inliers, max_lines=MAX_LINES
            )
            counts = [int(found.mask.sum()) for found in features]
            entries = {"keypoints": entries, "match": matched_entry(paths, counts, pair, "homography", estimate)}
            inliers, total = int(np.asarray(estimate.inliers).sum()), int(pair.matches.mask.sum())
            text = f"{counts[0]} and {counts[1]} keypoints, **{total} matches**, " + (
                f"{inliers} of them inliers of a homography" if estimate.found else "no homography was found"
            )
        picture, table, store = (folder / name for name in ("picture.png", "keypoints.json", "features.h5"))
        save_picture(axes, picture)
        table.write_text(json.dumps(entries) + "\n", encoding="utf-8")
        _store(store, paths, features)
        return Shown(picture=picture, text=text, downloads=[table, store, picture])

    def _seen(self, path: Path, threshold: float, max_keypoints: int) -> tuple[np.ndarray, sp.Keypoints]:
        """Pixels and chosen keypoints of a photo."""
        with told():
            status = path.stat()
            key = (str(path), status.st_mtime_ns, status.st_size)
            if key not in self._remembered:
                pixels = load_image(path)
                self._remembered[key] = pixels, self._features_of(pixels)
                while len(self._remembered) > REMEMBERED:
                    self._remembered.popitem(last=False)
        pixels, found = self._remembered[key]
        # They come by descending score: the best are the first.
        chosen = found.mask & (found.scores > threshold) & (jnp.arange(found.mask.shape[0]) < max_keypoints)
        return pixels, dataclasses.replace(
            found,
            mask=chosen,
            keypoints=jnp.where(chosen[:, None], found.keypoints, 0),
            scores=jnp.where(chosen, found.scores, 0),
            descriptors=jnp.where(chosen[:, None], found.descriptors, 0),
        )


def _store(path: Path, photos: Sequence[Path], features: Sequence[sp.Keypoints]) -> None:
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
