"""Extractors that an evaluation compares: any SuperPoint, and OpenCV's SIFT and ORB.

An extractor is a function from an image, uint8 [H,W] or RGB [H,W,3], to a dictionary of numpy arrays: "keypoints" [N,2]
(x, y) in pixels, "scores" [N] and unit-length "descriptors" [N,D], which are compared by their dot product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from superpoint_jax import openvino
from superpoint_jax.estimation.opencv import require_opencv
from superpoint_jax.model import SuperPoint
from superpoint_jax.photos import extract_images
from superpoint_jax.processing import SuperPointImageProcessor
from superpoint_jax.weights import from_pretrained

OPENCV = ("sift", "orb")
"""Names of the extractors of OpenCV."""

Features: TypeAlias = Mapping[str, np.ndarray]
Extractor: TypeAlias = Callable[[np.ndarray], Features]


def best_of(features: Features, size: tuple[int, int], max_keypoints: int) -> dict[str, np.ndarray]:
    """The features with the best scores, and "image_size", the (height, width) `size` of their image."""
    best = np.argsort(-features["scores"], kind="stable")[:max_keypoints]
    kept = {key: features[key][best] for key in ("keypoints", "scores", "descriptors")}
    return {**kept, "image_size": np.array(size)}


def superpoint_extractor(
    model: SuperPoint | openvino.CompiledSuperPoint,
    *,
    max_keypoints: int = 1000,
    keypoint_threshold: float | None = 0.0,
    resize: int | None = 0,
    **options: Any,
) -> Extractor:
    """The extractor of a model.

    Args:
        model: A model; its configuration decides about options that are not given here.
        max_keypoints: Largest number of keypoints.
        keypoint_threshold: Smallest score of a keypoint; None is the model's own. With 0, `max_keypoints` are found
            wherever the suppression leaves enough, so that extractors are compared at the same number of keypoints.
        resize: See `extract_images`; by default images stay as they are, because an evaluation has resized them.
        **options: Other options of `extract_images`.
    """
    options |= dict(max_keypoints=max_keypoints, resize=resize)
    if keypoint_threshold is not None:
        options["keypoint_threshold"] = keypoint_threshold

    def run(image: np.ndarray) -> Features:
        (found,) = extract_images(model, [image], **options)
        return {name: np.asarray(getattr(found, name)) for name in ("keypoints", "scores", "descriptors")}

    return run


def sift_extractor(*, max_keypoints: int = 1000) -> Extractor:
    """The extractor of OpenCV's SIFT with RootSIFT descriptors: each is scaled to sum 1, then its square root taken.

    Source: R. Arandjelović, A. Zisserman, "Three things everyone should know to improve object retrieval", 2012.
    """
    detector = require_opencv().SIFT_create(nfeatures=max_keypoints)

    def run(image: np.ndarray) -> Features:
        keypoints, scores, descriptors = _detect(detector, image, length=128)
        sums = np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-12)
        return {"keypoints": keypoints, "scores": scores, "descriptors": np.sqrt(descriptors / sums)}

    return run


def orb_extractor(*, max_keypoints: int = 1000) -> Extractor:
    """The extractor of OpenCV's ORB.

    The 256 bits of a descriptor become -1/16 and 1/16, so that a dot product is exactly 1 - Hamming distance / 128.
    """
    detector = require_opencv().ORB_create(nfeatures=max_keypoints)

    def run(image: np.ndarray) -> Features:
        keypoints, scores, descriptors = _detect(detector, image, length=32)
        bits = np.unpackbits(descriptors.astype(np.uint8), axis=1).astype(np.float32)
        return {"keypoints": keypoints, "scores": scores, "descriptors": (2 * bits - 1) / 16}

    return run


def make_extractor(
    name: str,
    *,
    weights: str | None = None,
    max_keypoints: int = 1000,
    engine: openvino.Engine = "auto",
    **options: Any,
) -> Extractor:
    """The extractor of a name.

    Args:
        name: "sift"; "orb"; "ours" for `weights`; or anything else that `from_pretrained` takes.
        weights: The weights called "ours": anything that `from_pretrained` takes; None for those in the package.
        max_keypoints: Largest number of keypoints.
        engine: What computes the network of SuperPoint; see `superpoint_jax.openvino.choose`.
        **options: Options of `superpoint_extractor`; SIFT and ORB have none.
    """
    if name == "sift":
        return sift_extractor(max_keypoints=max_keypoints)
    if name == "orb":
        return orb_extractor(max_keypoints=max_keypoints)
    source = weights if name == "ours" else name
    model = from_pretrained(source)
    return superpoint_extractor(
        openvino.choose(model, engine, dtype=options.pop("dtype", None)),
        processor=SuperPointImageProcessor.for_weights(source, model.config),
        max_keypoints=max_keypoints,
        **options,
    )


def make_extractors(names: str, **options: Any) -> dict[str, Extractor]:
    """The extractors of several names, separated by commas: see `make_extractor`.

    Raises:
        ValueError: There is no name.
    """
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    if not chosen:
        raise ValueError(f"extractors={names!r} contains no name; give for example ours,sift,orb")
    return {name: make_extractor(name, **options) for name in chosen}


def _detect(detector: Any, image: np.ndarray, *, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(keypoints, scores, descriptors) of an OpenCV detector; the descriptors are converted to float32."""
    cv2 = require_opencv()
    gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    found, descriptors = detector.detectAndCompute(gray, None)
    if descriptors is None:
        return np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros((0, length), np.float32)
    keypoints = np.array([point.pt for point in found], np.float32).reshape(-1, 2)
    return keypoints, np.array([point.response for point in found], np.float32), descriptors.astype(np.float32)
