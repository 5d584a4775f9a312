"""Evaluates camera poses: two views with parallax are rendered from a photo, so that their relative pose is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from superpoint_jax.estimation import estimate_essential, relative_pose
from superpoint_jax.evaluation.extractors import Extractor, best_of
from superpoint_jax.evaluation.matchers import NEAREST, FeatureMatcher, keypoints_of, matcher_for
from superpoint_jax.features import Keypoints
from superpoint_jax.matching import Matches, batch_of_one
from superpoint_jax.training.augmentation import photometric
from superpoint_jax.training.labelled import load_photos
from superpoint_jax.training.scenes import Scenes, sample_scenes, transfer

THRESHOLDS_DEG = (5.0, 10.0, 20.0)
"""The area under the curve of a pose's error is taken up to each of these, in degrees."""
RIGHT_PX = 3.0
"""Largest error of a right match, in pixels."""


@dataclass(frozen=True, kw_only=True)
class PoseResult:
    """The result of one extractor on one pair of views.

    Attributes:
        extractor: Name of the extractor.
        pair: Number of the pair.
        matches: Number of matches.
        known: Number of matches whose first keypoint has a known position in the second view.
        right: Number of these whose error is at most `RIGHT_PX`.
        rotation_deg: Angle between the estimated and the true rotation; 180 if no pose was found.
        translation_deg: Angle between the estimated and the true translation, up to its sign; 180 if none was found.
    """

    extractor: str
    pair: int
    matches: int
    known: int
    right: int
    rotation_deg: float
    translation_deg: float

    @property
    def error_deg(self) -> float:
        """The larger of the two angles."""
        return max(self.rotation_deg, self.translation_deg)


def evaluate_pose(
    folder: str | Path,
    extractors: Mapping[str, Extractor],
    *,
    pairs: int = 200,
    shape: tuple[int, int] = (480, 640),
    strength: float = 0.5,
    seed: int = 0,
    max_keypoints: int = 1000,
    threshold_px: float = 1.0,
    matcher: FeatureMatcher = NEAREST,
    progress: bool = False,
) -> list[PoseResult]:
    """The results of each extractor on the same pairs of views.

    Args:
        folder: Folder of photos that nothing was trained on.
        extractors: The extractors, by name.
        pairs: Number of pairs, each of a photo drawn at random.
        shape: (height, width) of a view, in pixels.
        strength: Strength of the changes of light, blur and noise; 1 is that of training.
        seed: Seed of photos, depths, cameras and light.
        max_keypoints: Only this many keypoints with the highest scores count.
        threshold_px: Largest distance of an inlier from its epipolar line, in pixels.
        matcher: What matches; a network matches SuperPoints only, and SIFT and ORB keep nearest neighbours.
        progress: Show a progress bar.

    Raises:
        ValueError: The folder has no photo that can be used.
    """
    from tqdm import tqdm

    results = []
    rendered = _rendered(folder, pairs=pairs, shape=shape, strength=strength, seed=seed)
    for number, (scene, views) in enumerate(
        tqdm(rendered, total=pairs, unit="pair", disable=None if progress else True)
    ):
        for name, extractor in extractors.items():
            features = [best_of(extractor(view), shape, max_keypoints) for view in views]
            rows = matcher_for(name, matcher)(*features)
            results.append(_result(name, number, scene, features, rows, threshold_px))
    return results


def _rendered(
    folder: str | Path, *, pairs: int, shape: tuple[int, int], strength: float, seed: int
) -> Iterator[tuple[Scenes, np.ndarray]]:
    """One scene after the other, with its two views as uint8 [2,h,w]."""
    images, sizes, _ = load_photos(folder, side=int(max(shape) * 1.6))
    images, sizes = jnp.asarray(images), jnp.asarray(sizes)
    for number in range(pairs):
        scene_key, light_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), number))
        scene = sample_scenes(scene_key, images, sizes, batch=1, shape=shape, flat=0.0)
        views = photometric(light_key, scene.views[0][..., None], strength=strength)[..., 0]
        yield scene, np.asarray(jnp.round(views * 255).astype(jnp.uint8))


def _result(
    name: str,
    number: int,
    scene: Scenes,
    features: Sequence[Mapping[str, np.ndarray]],
    rows: np.ndarray,
    threshold_px: float,
) -> PoseResult:
    a, b = (keypoints_of(side) for side in features)
    indices = np.full(len(a.mask), -1, np.int32)
    indices[rows[:, 0]] = rows[:, 1]
    arrays: dict[str, Any] = dict(indices=indices, scores=np.ones(len(indices), np.float32), mask=indices >= 0)
    matches = Matches(**arrays)
    known, right = _right(scene, a, b, rows)
    cameras = np.asarray(scene.cameras[0], np.float64)
    essential = estimate_essential(a, b, matches, camera_a=cameras[0], camera_b=cameras[1], threshold_px=threshold_px)
    angles = 180.0, 180.0
    if essential.found:
        rotation, translation, _ = relative_pose(a, b, matches, essential, camera_a=cameras[0], camera_b=cameras[1])
        angles = pose_error(rotation, translation, np.asarray(scene.rotations[0]), np.asarray(scene.translations[0]))
    return PoseResult(
        extractor=name,
        pair=number,
        matches=len(rows),
        known=known,
        right=right,
        rotation_deg=angles[0],
        translation_deg=angles[1],
    )


def _right(scene: Scenes, a: Keypoints, b: Keypoints, rows: np.ndarray) -> tuple[int, int]:
    """The number of matches with a known error, and of those that are right."""
    points = batch_of_one(a).keypoints  # Padded to few sizes, so that little is compiled.
    positions, known = (np.asarray(array)[0, 0] for array in transfer(scene, jnp.stack([points, points], axis=1)))
    errors = np.linalg.norm(positions[rows[:, 0]] - np.asarray(b.keypoints)[rows[:, 1]], axis=-1)
    known = known[rows[:, 0]]
    return int(known.sum()), int((errors[known] <= RIGHT_PX).sum())


def pose_error(
    rotation: Float[np.ndarray, "3 3"],
    translation: Float[np.ndarray, " _xyz"],
    true_rotation: Float[np.ndarray, "3 3"],
    true_translation: Float[np.ndarray, " _xyz"],
) -> tuple[float, float]:
    """The angles in degrees between two rotations, and between two directions of translation up to their sign."""
    between = np.clip((np.trace(rotation.T @ true_rotation) - 1) / 2, -1, 1)
    lengths = np.linalg.norm(translation) * np.linalg.norm(true_translation)
    cosine = np.clip(abs(translation @ true_translation) / max(lengths, 1e-12), 0, 1)
    return float(np.degrees(np.arccos(between))), float(np.degrees(np.arccos(cosine)))


def pose_auc(errors_deg: Sequence[float] | np.ndarray, threshold_deg: float) -> float:
    """Area under the curve of the fraction of pairs with at most an error, up to the threshold, divided by it."""
    return float(np.mean(np.maximum(0, 1 - np.asarray(errors_deg) / threshold_deg))) if len(errors_deg) else 0.0


def pose_table(results: Sequence[PoseResult]) -> str:
    """The figures of each extractor as text, one line each."""
    heads = "".join(f"{f'AUC {limit:g} deg':>12}" for limit in THRESHOLDS_DEG)
    lines = [f"{'':24}{heads}{'precision':>11}{'matches':>9}{'pairs':>7}"]
    for name in dict.fromkeys(result.extractor for result in results):
        own = [result for result in results if result.extractor == name]
        errors = [result.error_deg for result in own]
        areas = "".join(f"{pose_auc(errors, limit):12.3f}" for limit in THRESHOLDS_DEG)
        precision = sum(result.right for result in own) / max(sum(result.known for result in own), 1)
        matches = np.mean([result.matches for result in own])
        lines.append(f"{name:24}{areas}{precision:11.3f}{matches:9.0f}{len(own):7d}")
    return "\n".join(lines)
