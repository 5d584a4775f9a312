"""Plane geometry of synthetic shapes: outlines, segments, directions."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

_MIN_EDGE_PX = 5.0
_MIN_TURN = math.radians(25)


def prune(vertices: Float[Array, "v 2"], valid: Bool[Array, " v"]) -> tuple[Float[Array, "v 2"], Bool[Array, " v"]]:
    """The polygon, and its mask, without the vertices that are too flat, too sharp or too near the one before.

    The worst vertex is removed first; a removed vertex repeats the one before it. If the rest is still not acceptable,
    no vertex is valid.
    """

    def remove_worst(_: int | Array, valid: Array) -> Array:
        fault = faults(vertices, valid)
        worst = (jnp.arange(len(valid)) == jnp.argmax(fault)) & (jnp.max(fault) > 0) & (jnp.sum(valid) > 3)
        return valid & ~worst

    valid = lax.fori_loop(0, len(valid) - 3, remove_worst, valid)
    sound = jnp.max(faults(vertices, valid)) <= 0
    return vertices[neighbour(valid, -1, include_self=True)], valid & sound


def faults(vertices: Array, valid: Array) -> Array:
    """How far each vertex violates the limits of turn and edge length; positive values are violations."""
    before = vertices - vertices[neighbour(valid, -1)]
    after = vertices[neighbour(valid, 1)] - vertices
    lengths = norm(before), norm(after)
    cosine = jnp.sum(before * after, axis=-1) / jnp.maximum(lengths[0] * lengths[1], 1e-6)
    fault = jnp.maximum(jnp.abs(cosine) - math.cos(_MIN_TURN), 1 - lengths[0] / _MIN_EDGE_PX)
    return jnp.where(valid, fault, -jnp.inf)


def neighbour(valid: Bool[Array, " v"], step: int, *, include_self: bool = False) -> Int[Array, " v"]:
    """Index of the next valid vertex around the polygon, forwards (step 1) or backwards (step -1)."""
    n = valid.shape[0]
    index = jnp.arange(n)
    away = (step * (index[None] - index[:, None])) % n
    away = away if include_self else jnp.where(away == 0, n, away)
    return jnp.argmin(jnp.where(valid[None], away, n + 1), axis=1)


def segment_distances(ends: Float[Array, "p 2 2"]) -> Float[Array, "p p"]:
    """The distance between every two segments, 0 where they cross."""
    start, along = ends[:, 0], ends[:, 1] - ends[:, 0]
    to_point = ends[:, None] - start[None, :, None]
    place = jnp.sum(to_point * along[None, :, None], axis=-1) / jnp.sum(along**2, axis=-1)[None, :, None]
    nearest = to_point - jnp.clip(place, 0.0, 1.0)[..., None] * along[None, :, None]
    from_ends = jnp.min(norm(nearest), axis=-1)
    side = cross_product(along[None, :, None], to_point)
    split = side[..., 0] * side[..., 1] < 0
    return jnp.where(split & split.T, 0.0, jnp.minimum(from_ends, from_ends.T))


# --- lattices under perspective -------------------------------------------------------------------------------------


def direction(angle: Array) -> Array:
    """Unit vectors (x, y) at angles in radians."""
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def rotation(angle: Float[Array, ""]) -> Float[Array, "2 2"]:
    """The matrix that rotates column vectors by an angle in radians."""
    return jnp.stack([direction(angle), direction(angle + math.pi / 2)], axis=1)


def norm(vectors: Array) -> Array:
    """Lengths of vectors along the last axis."""
    return jnp.sqrt(jnp.sum(vectors**2, axis=-1))


def cross_product(a: Array, b: Array) -> Array:
    """The third component of the cross product of vectors in the plane."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def accept(wanted: Bool[Array, " n"], conflict: Bool[Array, "n n"]) -> Bool[Array, " n"]:
    """The mask of the wanted items without those in conflict with an item accepted earlier."""

    def consider(i: int | Array, accepted: Array) -> Array:
        return accepted & ~((jnp.arange(len(wanted)) > i) & accepted[i] & conflict[i])

    return lax.fori_loop(0, len(wanted), consider, wanted)
