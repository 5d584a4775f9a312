"""Verifies a converted LightGlue: compares it with the original in PyTorch, stage by stage, on two parts of photos.

The original gets the tensors as the file names and stores them, so an error in our conversion can't hide itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from superpoint_jax import Keypoints, LightGlue, LightGlueConfig, extract, from_pretrained
from superpoint_jax.lightglue.assembly import matcher_of
from superpoint_jax.lightglue.keys import HUGGING_FACE, recognise
from superpoint_jax.torch_lightglue import to_torch_lightglue_pairs
from superpoint_jax.weights.sources import read_source

from .comparison import Row

STATE_TOLERANCE = 2e-4
"""Largest difference as a fraction of the range of the states. Layers multiply rounding errors if they get descriptors
of an extractor that they were not trained for: by 80 in the nine layers of ALIKED's. A wrong weight causes ten times as
much difference at its layer."""

SCORE_TOLERANCE = 5e-4
"""Largest difference of scores, which are probabilities. Similarities reach 50, and the softmax multiplies their
rounding errors."""

KEYPOINTS = 512

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Stages:
    """The results of all stages for one pair of images.

    Attributes:
        states: States after each layer [I+J,D]; those of the first image come before those of the second.
        probabilities: Probability of each pair of keypoints [I,J], before matches are filtered.
        indices: Row of the partner [I], -1 where there is none.
        scores: Score of the match [I], 0 where there is none.
    """

    states: tuple[np.ndarray, ...]
    probabilities: np.ndarray
    indices: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class MatcherPair:
    """The original network with the source's weights, and our network with the converted weights."""

    title: str
    original: Callable[[Keypoints, Keypoints], Stages]
    model: LightGlue


def load_pair(source: str, folder: Path, *, revision: str | None = None) -> MatcherPair:
    """Both networks; both run every layer."""
    tensors = matcher_of(read_source(source, revision=revision).tensors)
    layout = recognise(tensors, origin=source)
    model = LightGlue.from_pretrained(folder)
    weights = {name: torch.from_numpy(np.array(value)).float() for name, value in tensors.items()}
    make = _hugging_face if layout is HUGGING_FACE else _cvg
    return MatcherPair(
        title=f"original: {layout.title} LightGlue; {model.config.num_hidden_layers} layers",
        original=make(weights, model.config),
        model=model,
    )


def verify(pair: MatcherPair, photos: Mapping[str, np.ndarray]) -> list[Row]:
    """One row per stage and photo; it prints one line per photo while it runs."""
    print(pair.title, flush=True)
    rows: list[Row] = []
    for name, gray in photos.items():
        a, b = two_views(gray, pair.model.config.input_dim)
        found = list(compare(name, pair.original(a, b), our_stages(pair.model, a, b), pair.model.config))
        print(f"{name}: {gray.shape[1]}x{gray.shape[0]}, matches: {found[-2].note}", flush=True)
        rows += found
    return rows


def two_views(gray: np.ndarray, length: int) -> tuple[Keypoints, Keypoints]:
    """The keypoints of the left and the right three quarters of a photo, without padding rows.

    They come from the SuperPoint of this package. If the matcher takes descriptors of another length, these are cut or
    repeated to that length. This is valid for the comparison, because both networks get the same descriptors.
    """
    width = gray.shape[1] * 3 // 4
    model = from_pretrained()
    views = [
        extract(model, jnp.asarray(view)[None, ..., None], max_keypoints=KEYPOINTS)
        for view in (gray[:, :width], gray[:, -width:])
    ]
    a, b = (_with_length(view, length) for view in views)
    return a, b


def _with_length(keypoints: Keypoints, length: int) -> Keypoints:
    count = int(keypoints.mask.sum())
    descriptors = np.resize(np.asarray(keypoints.descriptors[0, :count]).T, (length, count)).T
    descriptors = descriptors / np.linalg.norm(descriptors, axis=-1, keepdims=True)
    return replace(
        keypoints,
        keypoints=keypoints.keypoints[:, :count],
        scores=keypoints.scores[:, :count],
        descriptors=jnp.asarray(descriptors)[None],
        mask=keypoints.mask[:, :count],
    )


def our_stages(model: LightGlue, a: Keypoints, b: Keypoints) -> Stages:
    """The stages that this library computes for a batch of one pair."""
    matches = model.match(a, b)
    return Stages(
        states=tuple(
            np.concatenate(layer) for layer in zip(*(np.asarray(x[:, 0]) for x in model.states(a, b)), strict=True)
        ),
        probabilities=np.exp(np.asarray(model(a, b).log_scores[0])),
        indices=np.asarray(matches.indices[0]),
        scores=np.asarray(matches.scores[0]),
    )


def compare(photo: str, original: Stages, ours: Stages, config: LightGlueConfig) -> Iterator[Row]:
    """One row per stage."""
    for i, (a, b) in enumerate(zip(original.states, ours.states, strict=True)):
        yield Row(f"layer {i + 1}", photo, float(np.abs(a - b).max() / np.ptp(a)), STATE_TOLERANCE, "of range")
    difference = float(np.abs(original.probabilities - ours.probabilities).max())
    yield Row("probabilities", photo, difference, SCORE_TOLERANCE, "absolute")
    differing = np.flatnonzero(original.indices != ours.indices)
    unexplained = [row for row in differing if not _is_near_tie(original.probabilities, row, config.filter_threshold)]
    common = (original.indices == ours.indices) & (ours.indices >= 0)
    counts = f"{common.sum()} in common of {(original.indices >= 0).sum()} and {(ours.indices >= 0).sum()}"
    yield Row("matches", photo, len(unexplained), 0, "matches", counts)
    scores = np.abs(original.scores - ours.scores)[common]
    yield Row("scores", photo, float(scores.max(initial=0)), SCORE_TOLERANCE, "absolute")


def _is_near_tie(probabilities: np.ndarray, row: np.intp, threshold: float) -> bool:
    """Whether rounding may decide a match.

    That is so if the best probability is close to the threshold, or to the second best of its row or column.
    """
    best = probabilities[row].max()
    column = probabilities[:, probabilities[row].argmax()]
    gaps = [np.ptp(np.sort(line)[-2:]) for line in (probabilities[row], column)]
    return bool(min(*gaps, abs(best - threshold)) <= SCORE_TOLERANCE)


def _hugging_face(weights: Weights, config: LightGlueConfig) -> Callable[[Keypoints, Keypoints], Stages]:
    """The stages of transformers' own model. It always builds an extractor too, which is not called."""
    from transformers import LightGlueConfig as TheirConfig
    from transformers import LightGlueForKeypointMatching, SuperPointConfig

    theirs = TheirConfig(
        keypoint_detector_config=SuperPointConfig(descriptor_decoder_dim=config.input_dim),
        descriptor_dim=config.descriptor_dim,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        filter_threshold=config.filter_threshold,
        depth_confidence=-1.0,
        width_confidence=-1.0,
    )
    model = LightGlueForKeypointMatching(theirs).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.startswith("keypoint_detector.") for name in missing)
    outputs: list[Tensor] = []
    for layer in model.transformer_layers:
        layer.register_forward_hook(lambda *given: outputs.append(given[-1][0]))
    model.match_assignment_layers[-1].register_forward_hook(lambda *given: outputs.append(given[-1]))

    @torch.no_grad()
    def stages(a: Keypoints, b: Keypoints) -> Stages:
        outputs.clear()
        tensors: dict[str, Any] = {
            name: torch.from_numpy(np.array(value)) if hasattr(value, "shape") else value
            for name, value in to_torch_lightglue_pairs(a, b).items()
        }
        matches, scores, *_ = model._match_image_pair(**tensors)
        rows, columns = a.mask.shape[1], b.mask.shape[1]
        indices, scores = (value.reshape(2, -1)[0, :rows].numpy() for value in (matches, scores))
        *states, log_scores = outputs
        return Stages(
            states=tuple(torch.cat([both[0, :rows], both[1, :columns]]).numpy() for both in states),
            probabilities=log_scores[0, :rows, :columns].exp().numpy(),
            indices=indices,
            scores=np.where(indices >= 0, scores, 0),
        )

    return stages


def _cvg(weights: Weights, config: LightGlueConfig) -> Callable[[Keypoints, Keypoints], Stages]:
    """The stages of the paper's network, written in plain torch, without batches, with cvg's names of the layers."""
    heads, layers = config.num_attention_heads, config.num_hidden_layers
    first_style = "self_attn.0.Wqkv.weight" in weights

    def block(kind: str, layer: int) -> str:
        return f"{kind}.{layer}" if first_style else f"transformers.{layer}.{kind}"

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(0, 1)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        similarity = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        return (torch.softmax(similarity, -1) @ value).transpose(0, 1).flatten(1)

    def turned(x: Tensor, angles: Tensor) -> Tensor:
        number = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(number * torch.polar(torch.ones_like(angles), angles)).flatten(-2)

    def added(x: Tensor, read: Tensor, name: str) -> Tensor:
        hidden = linear(torch.cat([x, read], -1), f"{name}.ffn.0")
        scale, shift = weights[f"{name}.ffn.1.weight"], weights[f"{name}.ffn.1.bias"]
        return linear(F.gelu(F.layer_norm(hidden, hidden.shape[-1:], scale, shift)), f"{name}.ffn.3")

    def self_block(x: Tensor, angles: Tensor, name: str) -> Tensor:
        query, key, value = linear(x, f"{name}.Wqkv").unflatten(-1, (heads, -1, 3)).transpose(0, 1).unbind(-1)
        read = linear(attend(turned(query, angles), turned(key, angles), value), f"{name}.out_proj")
        return x + added(x, read, name)

    def cross_block(x: Tensor, other: Tensor, name: str) -> Tensor:
        query, key, value = (
            split(linear(y, f"{name}.{to}")) for y, to in ((x, "to_qk"), (other, "to_qk"), (other, "to_v"))
        )
        return x + added(x, linear(attend(query, key, value), f"{name}.to_out"), name)

    def start(keypoints: Keypoints) -> tuple[Tensor, Tensor]:
        points, x = (torch.from_numpy(np.array(value[0])) for value in (keypoints.keypoints, keypoints.descriptors))
        height, width = (float(side) for side in keypoints.image_sizes[0])
        positions = (points - torch.tensor([width, height]) / 2) / (max(width, height) / 2)
        x = linear(x, "input_proj") if "input_proj.weight" in weights else x
        return x, linear(positions, "posenc.Wr")

    @torch.no_grad()
    def stages(a: Keypoints, b: Keypoints) -> Stages:
        (x, angles_a), (y, angles_b) = start(a), start(b)
        states = []
        for layer in range(layers):
            name = block("self_attn", layer)
            x, y = self_block(x, angles_a, name), self_block(y, angles_b, name)
            name = block("cross_attn", layer)
            x, y = cross_block(x, y, name), cross_block(y, x, name)
            states.append(torch.cat([x, y]).numpy())
        head = f"log_assignment.{layers - 1}"
        projected = [linear(z, f"{head}.final_proj") / z.shape[-1] ** 0.25 for z in (x, y)]
        similarity = projected[0] @ projected[1].T
        certain = [torch.sigmoid(linear(z, f"{head}.matchability")) for z in (x, y)]
        probabilities = torch.softmax(similarity, 0) * torch.softmax(similarity, 1) * certain[0] * certain[1].T
        best, indices = probabilities.max(1)
        mutual = probabilities.max(0).indices[indices] == torch.arange(len(indices))
        found = (mutual & (best > config.filter_threshold)).numpy()
        return Stages(
            states=tuple(states),
            probabilities=probabilities.numpy(),
            indices=np.where(found, indices.numpy(), -1),
            scores=np.where(found, best.numpy(), 0),
        )

    return stages
