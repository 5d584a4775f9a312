"""Tracking of keypoints from frame to frame with a state of fixed size, for `jit`, `lax.scan` and real time.

A track is stored in the row of its keypoint in the newest frame, so that old tracks need not be removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from superpoint_jax.features import Indexable, Keypoints, pytree
from superpoint_jax.matching import Matcher, Matches, match


@pytree
@dataclass(frozen=True)
class Tracks(Indexable):
    """The tracks in one frame; row k is the track of keypoint k of the frame.

    Attributes:
        ids: Number of the track, the same in every frame; -1 in padding rows.
        ages: Frames since the track began; 0 for a new track.
        points_xy: Positions of the track, newest first, (x, y) in pixels; beyond the first min(age + 1, L) positions,
            the oldest known one is repeated.
        keypoints: Keypoints of the newest frame.
        matches: Matches of the newest frame's keypoints in the frame before; scores are those of `match`.
        next_id: Number of the next new track, which is the number of tracks begun so far.
    """

    ids: Int[Array, "*b k"]
    ages: Int[Array, "*b k"]
    points_xy: Float[Array, "*b k l 2"]
    keypoints: Keypoints
    matches: Matches
    next_id: Int[Array, "*b"]

    def _batched(self) -> bool:
        return self.ids.ndim > 1

    @property
    def mask(self) -> Bool[Array, "*b k"]:
        """True for rows with a track."""
        return self.keypoints.mask


@dataclass(frozen=True, kw_only=True)
class Tracker:
    """Follows keypoints through a sequence by their matches in successive frames.

    These are mutual nearest neighbours of descriptors or, with a `matcher`, what this network finds.

    A keypoint without a match in the frame before begins a track. A track without a match in the newest frame ends and
    can't come back.

    Attributes:
        length: Number of positions remembered, L.
        max_distance: Largest L2 distance between the descriptors of successive frames; None for no limit. A matcher
            does not use it. It may be traced.
        max_move_px: Largest distance between successive positions, in pixels; None for no limit. It may be traced.
        matcher: A network that matches, which must be a pytree, for example `superpoint_jax.LightGlue`.
        ratio: Lowe's ratio test, as in `superpoint_jax.match`. A matcher does not use it. It may be traced.
        ratio_apart: Which keypoints count as the second nearest, as in `superpoint_jax.match`. It may be traced.
        min_score: Smallest score of a match: a cosine, or the probability of a matcher, by default its own. It may be
            traced.

    Source: Magic Leap's demo of SuperPoint, which tracks with a distance of 0.7 and a length of 5.
    """

    length: int = 5
    max_distance: float | Float[Array, ""] | None = 0.7
    max_move_px: float | Float[Array, ""] | None = None
    matcher: Matcher | None = None
    ratio: float | Float[Array, ""] | None = None
    ratio_apart: float | Float[Array, ""] | None = None
    min_score: float | Float[Array, ""] | None = None

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length={self.length}; at least the newest position is kept")
        for name, value in (("max_distance", self.max_distance), ("ratio", self.ratio)):
            if isinstance(value, int | float) and not value > 0:
                raise ValueError(f"{name}={value} must be positive, or None to leave it out")

    def start(self, keypoints: Keypoints) -> Tracks:
        """The tracks in the first frame [K], where every keypoint begins a track."""
        _check_one(keypoints)
        return _start(keypoints, length=self.length)

    def update(self, tracks: Tracks, keypoints: Keypoints) -> Tracks:
        """The tracks in the next frame [K]. The function is jitted; K must be the same in all frames."""
        _check_one(keypoints)
        if keypoints.mask.shape != tracks.ids.shape:
            raise ValueError(
                f"the frame has {keypoints.mask.shape[0]} rows and the tracks have {tracks.ids.shape[0]}; extract all "
                f"frames with the same max_keypoints"
            )
        return _update(tracks, keypoints, self._matching(), self.max_move_px)

    def track(self, frames: Keypoints) -> Tracks:
        """The tracks in every frame [T,K] of a sequence, as one `lax.scan`: Tracks with a leading axis T."""
        if frames.mask.ndim != 2 or not len(frames):
            raise ValueError(f"frames.mask has shape {frames.mask.shape}; a sequence [T,K] of at least one is needed")
        return _track(frames, self._matching(), self.max_move_px, length=self.length)

    def _matching(self) -> dict[str, Any]:
        """Options of `match`."""
        if self.matcher is not None:
            return dict(matcher=self.matcher, min_score=self.min_score)
        return dict(
            ratio=self.ratio,
            ratio_apart=self.ratio_apart,
            max_distance=self.max_distance,
            min_score=self.min_score,
        )


@partial(jax.jit, static_argnames=("length",))
def _track(frames: Keypoints, matching: dict[str, Any], max_move_px: float | Array | None, *, length: int) -> Tracks:
    first = _start(frames[0], length=length)

    def step(tracks: Tracks, frame: Keypoints) -> tuple[Tracks, Tracks]:
        tracks = _update(tracks, frame, matching, max_move_px)
        return tracks, tracks

    _, others = lax.scan(step, first, frames[1:])
    return jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), first, others)


@partial(jax.jit, static_argnames=("length",))
def _start(keypoints: Keypoints, *, length: int) -> Tracks:
    number = jnp.cumsum(keypoints.mask, dtype=jnp.int32) - 1
    return Tracks(
        ids=jnp.where(keypoints.mask, number, -1),
        # These zeros depend on the frame; under `vmap` over a mesh of explicit axes, constants would not be sharded.
        ages=number * 0,
        points_xy=jnp.repeat(keypoints.keypoints[:, None], length, axis=1),
        keypoints=keypoints,
        matches=Matches(
            indices=jnp.full_like(number, -1),
            scores=jnp.zeros_like(number, jnp.float32),
            mask=jnp.zeros_like(keypoints.mask),
        ),
        next_id=jnp.sum(keypoints.mask, dtype=jnp.int32),
    )


@jax.jit
def _update(
    tracks: Tracks, keypoints: Keypoints, matching: dict[str, Any], max_move_px: float | Array | None
) -> Tracks:
    matches = match(keypoints, tracks.keypoints, **matching)
    row = jnp.where(matches.mask, matches.indices, 0)
    before = tracks.points_xy[row]
    if max_move_px is not None:
        near = jnp.linalg.norm(keypoints.keypoints - before[:, 0], axis=-1) <= max_move_px
        matches = _only(matches, near)
    goes_on, begins = matches.mask, keypoints.mask & ~matches.mask
    newest = keypoints.keypoints[:, None]
    new_number = tracks.next_id + jnp.cumsum(begins, dtype=jnp.int32) - 1
    return Tracks(
        ids=jnp.where(goes_on, tracks.ids[row], jnp.where(begins, new_number, -1)),
        ages=jnp.where(goes_on, tracks.ages[row] + 1, 0),
        points_xy=jnp.concatenate(
            [newest, jnp.where(goes_on[:, None, None], before, jnp.broadcast_to(newest, before.shape))[:, :-1]], axis=1
        ),
        keypoints=keypoints,
        matches=matches,
        next_id=tracks.next_id + jnp.sum(begins, dtype=jnp.int32),
    )


def _only(matches: Matches, kept: Bool[Array, " k"]) -> Matches:
    mask = matches.mask & kept
    return Matches(indices=jnp.where(mask, matches.indices, -1), scores=jnp.where(mask, matches.scores, 0), mask=mask)


def _check_one(keypoints: Keypoints) -> None:
    if keypoints.mask.ndim != 1:
        raise ValueError(f"keypoints.mask has shape {keypoints.mask.shape}; one frame [K] is needed: frames[i]")
