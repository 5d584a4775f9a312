"""What is made from photos ahead of a run, kept in files, so that a run that is stopped need not make it again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, UInt8
from tqdm import tqdm

from superpoint_jax import openvino
from superpoint_jax.config import ComputeDtype
from superpoint_jax.files import digest_of_arrays, replacing
from superpoint_jax.model import SuperPoint
from superpoint_jax.training.augmentation import photometric
from superpoint_jax.training.labelled import load_photos
from superpoint_jax.training.labels import load_model
from superpoint_jax.training.resuming import made_from
from superpoint_jax.training.scenes import Scenes, sample_scenes

log = logging.getLogger(__name__)

PART = 256
"""Pairs of views per file. A run that is stopped while it makes pairs loses at most one file."""
BATCH = 4
"""Scenes made at a time."""

Kind = TypeVar("Kind")
Network = SuperPoint | openvino.CompiledSuperPoint
Maker = Callable[[Array, UInt8[Array, "m s s *c"], Int[Array, "m 2"], Network], Kind]
"""Makes `BATCH` pairs of views, as numpy arrays, from a key, photos, their sizes and the extractor."""


@dataclass(frozen=True, kw_only=True)
class Scenery:
    """How pairs are made from photos: see `superpoint_jax.training.scenes`."""

    pairs: int = 4096
    """Number of pairs; a multiple of 4, because four are made at a time."""
    shape: tuple[int, int] = (320, 416)
    """(height, width) of a view, in pixels."""
    flat: float = 0.5
    """Fraction of pairs related by a homography; the others have parallax."""
    calm: float = 0.0
    """Fraction of pairs whose cameras differ only a quarter as much."""
    sharpness: float = 1.0
    """Most pixels of a photo to a pixel of the canvas that both views show, along x and y. Views are interpolated, so
    at 1 they are less sharp than photos; at 1.4 they are about as sharp. Photos are loaded larger by the same factor.
    Those whose short side is then below 0.4 times the longer side of a view are skipped, and so more of them at 1.4."""
    keypoints_per_view: int = 400
    """Keypoints kept per view, those with the best scores. A run may use fewer."""
    keypoint_threshold: float = 0.001
    """Smallest score of a keypoint."""
    strength: float = 1.0
    """Strength of the changes of light, blur and noise, independent in both views."""
    degraded: float = 0.0
    """Probability that a view is out of focus (a disc with a radius of 1 to 3 px), and, independently, that it is
    compressed as by JPEG (quality 5 to 60). The weights in the package were trained without."""
    sensors: bool = False
    """Each view is taken by a sensor of its own: it sees red, green and blue in its own proportion, and its noise is
    that of a sensor, in linear light. The weights in the package were trained without."""
    extractor_dtype: ComputeDtype = "bfloat16"
    """Type that the extractor computes in. On a CPU without OpenVINO, float32 is faster."""

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.pairs % BATCH:
            raise ValueError(f"pairs={self.pairs}; a positive multiple of {BATCH} is needed")
        if not 0 < self.sharpness <= 2:
            raise ValueError(f"sharpness={self.sharpness}; a number above 0, up to 2, is needed")
        for name in ("flat", "calm", "degraded"):
            if not 0 <= (fraction := getattr(self, name)) <= 1:
                raise ValueError(f"{name}={fraction}; a number in [0, 1] is needed")


def lit_views(
    key: Array, images: UInt8[Array, "m s s *c"], sizes: Int[Array, "m 2"], scenery: Scenery
) -> tuple[Scenes, Float[Array, "n h w 1"]]:
    """`BATCH` scenes, and their views, a and b of each pair in turn, each in a light of its own."""
    scene_key, light_key = jax.random.split(key)
    scenes = sample_scenes(
        scene_key,
        images,
        sizes,
        batch=BATCH,
        shape=scenery.shape,
        flat=scenery.flat,
        calm=scenery.calm,
        sharpness=scenery.sharpness,
    )
    views = scenes.views.reshape(2 * BATCH, *scenery.shape, 1)
    lit = photometric(
        light_key, views, strength=scenery.strength, degraded=scenery.degraded, linear_noise=scenery.sensors
    )
    return scenes, lit


def make_parts(
    kind: type[Kind],
    make: Maker[Kind],
    data: Path,
    folder: Path,
    *,
    scenery: Scenery,
    extractor: str,
    seed: int = 0,
    engine: openvino.Engine = "auto",
) -> Kind:
    """What is made of a folder of photos, also kept in files of `folder`; files that exist are not made again.

    Args:
        kind: The dataclass of arrays that is made.
        make: What makes it.
        data: Folder of photos.
        folder: Folder of the files; created if it does not exist.
        scenery: How the pairs of views are made.
        extractor: "ours" (the weights in the package), or anything that `from_pretrained` takes.
        seed: Seed of everything that is drawn.
        engine: What computes the dense network.

    Raises:
        ValueError: The folder has no photo that can be used, or `folder` holds pairs that were made in another way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, note = load_model(extractor), folder / "made_from.json"
    options = dict(scenery=asdict(scenery), extractor=extractor, weights=digest_of_arrays(model), seed=seed)
    source = made_from(data, **options)
    if note.exists() and note.read_text() != source:
        raise ValueError(f"{folder} holds pairs that were made in another way ({note}); choose another folder")
    with replacing(note) as temporary:
        temporary.write_text(source)
    starts = range(0, scenery.pairs, PART)
    missing = [start for start in starts if not (folder / f"{start:06d}.npz").exists()]
    if missing:
        side = int(max(scenery.shape) * 1.6 * scenery.sharpness)
        images, sizes, _ = load_photos(data, side=side, colours=scenery.sensors)
        images, sizes = jnp.asarray(images), jnp.asarray(sizes)
        network = openvino.choose(model, engine, dtype=scenery.extractor_dtype)
        described = openvino.describe(network, dtype=scenery.extractor_dtype)
        log.info("%d pairs of %d photos; %s", scenery.pairs, len(images), described)
        for start in tqdm(missing, unit="file", desc=folder.name, mininterval=5):
            key = jax.random.fold_in(jax.random.key(seed), start)
            count = min(PART, scenery.pairs - start)
            batches = [make(jax.random.fold_in(key, first), images, sizes, network) for first in range(0, count, BATCH)]
            part: Any = jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches)
            with replacing(folder / f"{start:06d}.npz") as temporary, temporary.open("wb") as file:
                np.savez(file, **{field.name: getattr(part, field.name) for field in fields(part)})
    return read_parts(kind, folder)


def read_parts(kind: type[Kind], folder: Path) -> Kind:
    """What is in the files of a folder that `make_parts` wrote, as numpy arrays.

    Raises:
        ValueError: There are none, or a file contains something else.
    """
    parts = []
    for path in sorted(folder.glob("[0-9]*.npz")):
        with np.load(path) as file:
            names = [field.name for field in fields(kind)]  # pyright: ignore[reportArgumentType]
            if missing := sorted(set(names) - set(file)):
                raise ValueError(f"{path} contains no pairs ({', '.join(missing)} missing)")
            parts.append(kind(**{name: file[name] for name in names}))
    if not parts:
        raise ValueError(f"{folder} contains no pairs; make them with `superpoint-jax train`")
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
