"""Pairs of images with known matches, made from photos ahead of a run: keypoints, descriptors and true positions."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, UInt8
from tqdm import tqdm

from superpoint_jax import openvino
from superpoint_jax.config import ComputeDtype
from superpoint_jax.extraction import extract
from superpoint_jax.features import AnyArray, Keypoints, pytree
from superpoint_jax.files import replacing
from superpoint_jax.model import SuperPoint
from superpoint_jax.training.augmentation import photometric
from superpoint_jax.training.labelled import load_photos
from superpoint_jax.training.labels import load_model
from superpoint_jax.training.resuming import made_from
from superpoint_jax.training.scenes import sample_scenes, transfer

log = logging.getLogger(__name__)

PART = 256
"""Pairs per file. A run that is stopped while it makes pairs loses at most one file."""
BATCH = 4
"""Scenes made at a time."""


@dataclass(frozen=True, kw_only=True)
class Scenery:
    """How pairs are made from photos: see `superpoint_jax.training.scenes`."""

    pairs: int = 4096
    """Number of pairs; a multiple of 4, because four are made at a time."""
    shape: tuple[int, int] = (320, 416)
    """(height, width) of a view, in pixels."""
    flat: float = 0.5
    """Fraction of pairs related by a homography; the others have parallax."""
    keypoints_per_view: int = 400
    """Keypoints kept per view, those with the best scores. A run may use fewer."""
    keypoint_threshold: float = 0.001
    """Smallest score of a keypoint."""
    strength: float = 1.0
    """Strength of the changes of light, blur and noise, independent in both views."""
    extractor_dtype: ComputeDtype = "bfloat16"
    """Type that the extractor computes in. On a CPU without OpenVINO, float32 is faster."""

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.pairs % BATCH:
            raise ValueError(f"pairs={self.pairs}; a positive multiple of {BATCH} is needed")


@pytree
@dataclass(frozen=True)
class MatchingPairs:
    """Pairs of images; along the second axis, a comes before b.

    Attributes:
        keypoints: (x, y) in pixels.
        scores: Scores of the keypoints.
        descriptors: Descriptors, in half precision to save memory.
        mask: False for padding rows.
        image_sizes: (height, width) of each image.
        positions: Position of each keypoint in the other image, in pixels.
        known: Whether that position is known.
        flat: Whether the pair is related by a homography.
    """

    keypoints: Float[AnyArray, "n 2 k 2"]
    scores: Float[AnyArray, "n 2 k"]
    descriptors: Float[AnyArray, "n 2 k d"]
    mask: Bool[AnyArray, "n 2 k"]
    image_sizes: Int[AnyArray, "n 2 2"]
    positions: Float[AnyArray, "n 2 k 2"]
    known: Bool[AnyArray, "n 2 k"]
    flat: Bool[AnyArray, " n"]

    def __len__(self) -> int:
        return len(self.flat)

    def features(self) -> tuple[Keypoints, Keypoints]:
        """The keypoints of both sides, as `extract` returns them."""
        a, b = (
            Keypoints(
                keypoints=self.keypoints[:, side],
                scores=self.scores[:, side],
                descriptors=self.descriptors[:, side].astype(jnp.float32),
                mask=self.mask[:, side],
                image_sizes=self.image_sizes[:, side],
                num_detected=self.mask[:, side].sum(axis=-1, dtype=jnp.int32),
            )
            for side in (0, 1)
        )
        return a, b


def make_pairs(data: Path, folder: Path, *, scenery: Scenery, extractor: str, seed: int = 0) -> MatchingPairs:
    """The pairs of a folder of photos, which are also kept in files of `folder`; files that exist are not made again.

    Args:
        data: Folder of photos.
        folder: Folder of the pairs; created if it does not exist.
        scenery: How the pairs are made.
        extractor: "ours" (the weights in the package), or anything that `from_pretrained` takes.
        seed: Seed of everything that is drawn.

    Raises:
        ValueError: The folder has no photo that can be used, or `folder` holds pairs that were made in another way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source, note = made_from(data, scenery=asdict(scenery), extractor=extractor, seed=seed), folder / "made_from.json"
    if note.exists() and note.read_text() != source:
        raise ValueError(f"{folder} holds pairs that were made in another way ({note}); choose another folder")
    with replacing(note) as temporary:
        temporary.write_text(source)
    starts = range(0, scenery.pairs, PART)
    missing = [start for start in starts if not (folder / f"{start:06d}.npz").exists()]
    if missing:
        images, sizes, _ = load_photos(data, side=int(max(scenery.shape) * 1.6))
        images, sizes = jnp.asarray(images), jnp.asarray(sizes)
        network = openvino.choose(load_model(extractor), dtype=scenery.extractor_dtype)
        log.info("%d pairs of %d photos; %s", scenery.pairs, len(images), openvino.describe(network))
        for start in tqdm(missing, unit="file", desc=folder.name, mininterval=5):
            key = jax.random.fold_in(jax.random.key(seed), start)
            count = min(PART, scenery.pairs - start)
            batches = [
                _pairs_of(jax.random.fold_in(key, first), images, sizes, network, scenery)
                for first in range(0, count, BATCH)
            ]
            part = jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches)
            with replacing(folder / f"{start:06d}.npz") as temporary, temporary.open("wb") as file:
                np.savez(file, **{field.name: getattr(part, field.name) for field in fields(part)})
    return read_pairs(folder)


def read_pairs(folder: Path) -> MatchingPairs:
    """The pairs in a folder that `make_pairs` wrote, as numpy arrays.

    Raises:
        ValueError: There are none, or a file contains something else.
    """
    parts = []
    for path in sorted(folder.glob("[0-9]*.npz")):
        with np.load(path) as file:
            names = [field.name for field in fields(MatchingPairs)]
            if missing := sorted(set(names) - set(file)):
                raise ValueError(f"{path} contains no pairs ({', '.join(missing)} missing)")
            parts.append(MatchingPairs(**{name: file[name] for name in names}))
    if not parts:
        raise ValueError(f"{folder} contains no pairs; make them with `train lightglue --data PHOTOS`")
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _pairs_of(
    key: Array,
    images: UInt8[Array, "m s s"],
    sizes: Int[Array, "m 2"],
    network: SuperPoint | openvino.CompiledSuperPoint,
    scenery: Scenery,
) -> MatchingPairs:
    scene_key, light_key = jax.random.split(key)
    scenes = sample_scenes(scene_key, images, sizes, batch=BATCH, shape=scenery.shape, flat=scenery.flat)
    views = scenes.views.reshape(2 * BATCH, *scenery.shape, 1)
    views = photometric(light_key, views, strength=scenery.strength)
    found = extract(
        network,
        views,
        max_keypoints=scenery.keypoints_per_view,
        keypoint_threshold=scenery.keypoint_threshold,
        dtype=scenery.extractor_dtype,
    )
    by_pair = jax.tree.map(lambda leaf: leaf.reshape(BATCH, 2, *leaf.shape[1:]), found)
    positions, known = transfer(scenes, by_pair.keypoints)
    pairs = MatchingPairs(
        keypoints=by_pair.keypoints,
        scores=by_pair.scores,
        descriptors=by_pair.descriptors.astype(jnp.float16),
        mask=by_pair.mask,
        image_sizes=by_pair.image_sizes,
        positions=positions,
        known=known & by_pair.mask,
        flat=scenes.flat,
    )
    return jax.tree.map(np.asarray, pairs)
