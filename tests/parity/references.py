"""SuperPoint and its published variants once more, in plain numpy and torch: loops and all, slow and obviously right.

Written from the paper and from docs/variants.md, with no look at the library. One image at a time; maps are [H,W] and
[h,w,C] numpy arrays; positions are (x, y) in pixels, pixel centres at integers.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.random_weights import State

CELL = 8


def network(state: State, gray: np.ndarray, *, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Every stage of the network for a grey image [H,W]: block_0 .. block_3, logits, descriptors (unit length)."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional

    def weight(name: str) -> Any:
        return torch.tensor(np.ascontiguousarray(state[name])).to(getattr(torch, dtype))

    def layer(x: Any, conv: str, norm: str, *, relu: bool) -> Any:
        kernel = weight(f"{conv}.weight")
        x = F.conv2d(x, kernel, weight(f"{conv}.bias"), padding=kernel.shape[-1] // 2)
        if relu:
            x = F.relu(x)
        if f"{norm}.weight" in state:  # rpautrat: AFTER the ReLU, by the running statistics
            statistics = weight(f"{norm}.mean"), weight(f"{norm}.var")
            x = F.batch_norm(x, *statistics, weight(f"{norm}.weight"), weight(f"{norm}.bias"), training=False, eps=1e-3)
        return x

    def head(x: Any, decoder: str, name: str) -> Any:
        x = layer(x, f"{decoder}.conv_{name}_a", f"{decoder}.norm_{name}_a", relu=True)
        return layer(x, f"{decoder}.conv_{name}_b", f"{decoder}.norm_{name}_b", relu=False)

    stages = {}
    x = torch.tensor(gray).to(getattr(torch, dtype))[None, None]
    for i in range(4):
        block = f"encoder.conv_blocks.{i}"
        x = layer(x, f"{block}.conv_a", f"{block}.norm_a", relu=True)
        x = layer(x, f"{block}.conv_b", f"{block}.norm_b", relu=True)
        if i < 3:
            x = F.max_pool2d(x, kernel_size=2, stride=2)
        stages[f"block_{i}"] = x
    stages["logits"] = head(x, "keypoint_decoder", "score")
    stages["descriptors"] = F.normalize(head(x, "descriptor_decoder", "descriptor"), dim=1)
    return {name: stage[0].permute(1, 2, 0).numpy() for name, stage in stages.items()}


def score_map(logits: np.ndarray, *, shifted: bool = True) -> np.ndarray:
    """Scores [8h,8w] of logits [h,w,65]: a softmax in each cell, its last entry dropped.

    The Magic Leap demo does not shift the logits by their maximum, and adds 1e-5 to the sum.
    """
    h, w, _ = logits.shape
    scores = np.empty((CELL * h, CELL * w), logits.dtype)
    for i in range(h):
        for j in range(w):
            if shifted:
                weights = np.exp(logits[i, j] - logits[i, j].max())
                probabilities = weights / weights.sum()
            else:
                weights = np.exp(logits[i, j])
                probabilities = weights / (weights.sum() + logits.dtype.type(1e-5))
            for dy in range(CELL):
                for dx in range(CELL):
                    scores[CELL * i + dy, CELL * j + dx] = probabilities[CELL * dy + dx]
    return scores


def _window(values: np.ndarray, y: int, x: int, radius: int) -> np.ndarray:
    """The part of the (2 radius + 1)^2 window around (x, y) that lies in the map."""
    return values[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]


def three_passes(scores: np.ndarray, radius: int) -> list[np.ndarray]:
    """Which pixels are kept after each of the three passes of suppression."""
    height, width = scores.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    kept = np.zeros(scores.shape, bool)
    for y, x in pixels:
        kept[y, x] = scores[y, x] == _window(scores, y, x, radius).max()
    passes = [kept]
    for _ in range(2):
        suppressed = np.zeros(scores.shape, bool)
        for y, x in np.argwhere(kept):
            _window(suppressed, y, x, radius)[...] = True
        rest = np.where(suppressed, 0, scores)
        kept = kept.copy()
        for y, x in np.argwhere(~suppressed):
            kept[y, x] |= rest[y, x] == _window(rest, y, x, radius).max()
        passes.append(kept)
    return passes


def greedy(scores: np.ndarray, candidates: np.ndarray, radius: int) -> np.ndarray:
    """Which candidates are kept: by descending score, unless one within `radius` (Chebyshev) has been. Ties: raster."""
    kept = np.zeros(scores.shape, bool)
    for y, x in sorted(map(tuple, np.argwhere(candidates)), key=lambda p: (-scores[p], p)):
        kept[y, x] = not _window(kept, y, x, radius).any()
    return kept


def inside(shape: tuple[int, int], image_size: tuple[int, int], border: int, rule: str) -> np.ndarray:
    """Which pixels of a score map are far enough from the border of an image of (height, width)."""
    height, width = image_size
    if rule == "cells":  # the border of the score map: height and width floor to multiples of 8
        height, width = CELL * (height // CELL), CELL * (width // CELL)
    allowed = np.zeros(shape, bool)
    for y in range(shape[0]):
        for x in range(shape[1]):
            top_left = y >= border and x >= border
            bottom_right = y < height - border and x < width - border
            allowed[y, x] = top_left and (bottom_right or rule == "top_left")
    return allowed


def cells(x: float, n: int, rule: str) -> float:
    """Position in a dense map of n cells, cell centres at integers, at which the descriptor of pixel x is read."""
    return {
        "legacy": (x - 3.5) / (8 * n - 4.5) * (n - 1),
        "centered": (x + 0.5) / 8 - 0.5,
        "demo": x / 8 - 0.5,
        "demo_2018": x * (n - 1) / (8 * n),
    }[rule]


def descriptor_at(dense: np.ndarray, x: float, y: float, rule: str) -> np.ndarray:
    """Unit-length descriptor at pixel (x, y): bilinear between four cells, zeros outside the map."""
    h, w, dim = dense.shape
    u, v = cells(x, w, rule), cells(y, h, rule)
    descriptor = np.zeros(dim)
    for i in (math.floor(v), math.floor(v) + 1):
        for j in (math.floor(u), math.floor(u) + 1):
            if 0 <= i < h and 0 <= j < w:
                descriptor += (1 - abs(v - i)) * (1 - abs(u - j)) * dense[i, j].astype(np.float64)
    return descriptor / max(np.linalg.norm(descriptor), 1e-12)


class Variant(NamedTuple):
    """How a published SuperPoint decodes: a column of the table in docs/variants.md."""

    shifted: bool
    threshold: float
    at_least: bool
    """Scores equal to the threshold count."""
    greedy: bool
    border: str
    sampling: str


VARIANTS = {
    "huggingface": Variant(True, 0.005, False, False, "top_left", "legacy"),
    "magicleap": Variant(False, 0.015, True, True, "image", "demo"),
    "superglue": Variant(True, 0.005, False, False, "cells", "legacy"),
    "lightglue": Variant(True, 0.0005, False, False, "cells", "legacy"),
    "rpautrat": Variant(True, 0.005, False, False, "cells", "centered"),
}


class Decoded(NamedTuple):
    """What a variant finds in one image, by descending score, ties in raster order."""

    xy: list[tuple[int, int]]
    scores: np.ndarray
    descriptors: np.ndarray


def decode(
    logits: np.ndarray,
    dense: np.ndarray,
    image_size: tuple[int, int],
    variant: Variant,
    *,
    radius: int = 4,
    border: int = 4,
    max_keypoints: int = -1,
) -> Decoded:
    """Keypoints, scores and descriptors of the network's output for an image of (height, width)."""
    scores = score_map(logits, shifted=variant.shifted)
    threshold = scores.dtype.type(variant.threshold)
    above = scores >= threshold if variant.at_least else scores > threshold
    kept = greedy(scores, above, radius) if variant.greedy else three_passes(scores, radius)[-1] & above
    kept &= inside(scores.shape, image_size, border, variant.border)
    points = sorted(map(tuple, np.argwhere(kept)), key=lambda p: (-scores[p], p))
    if max_keypoints >= 0:
        points = points[:max_keypoints]
    descriptors = [descriptor_at(dense, x, y, variant.sampling) for y, x in points]
    return Decoded(
        xy=[(int(x), int(y)) for y, x in points],
        scores=np.array([scores[p] for p in points], scores.dtype),
        descriptors=np.array(descriptors).reshape(-1, dense.shape[-1]),
    )
