"""Matching by nearest neighbours of descriptors: pure functions that ignore padding rows.

Similarities are computed for one block of columns at a time, so memory grows with K and not with K x K.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jaxtyping import Bool, Float, Int

from superpoint_jax.features import Keypoints
from superpoint_jax.matching.matcher import Matcher
from superpoint_jax.matching.matches import Matches, no_matches
from superpoint_jax.matching.pairs import batch_of_one, check_pairs, first_max, rows_of
from superpoint_jax.matching.thresholds import Thresholds, check_only_min_score, checked_thresholds
from superpoint_jax.sharding import placed_like

BLOCK_BYTES = {"cpu": 2**20}
"""Bytes of similarities in memory at one time, by backend. On a CPU this fits in the cache of a core."""
BLOCK_BYTES_OTHERWISE = 64 * 2**20
"""The same for other backends: enough work to fill an accelerator."""
MIN_WIDTH = 32
"""Smallest number of columns of a block. The products of narrower blocks are slow."""


def match(
    a: Keypoints,
    b: Keypoints,
    *,
    matcher: Matcher | None = None,
    mutual: bool = True,
    ratio: float | Float[Array, ""] | None = None,
    ratio_apart: float | Float[Array, ""] | None = None,
    max_distance: float | Float[Array, ""] | None = None,
    temperature: float | Float[Array, ""] | None = None,
    min_score: float | Float[Array, ""] | None = None,
) -> Matches:
    """The partner in b of each keypoint in a: the nearest neighbour of its descriptor, if it passes the given tests.

    With a `matcher`, it is the partner that this network finds.

    a and b are batches of B pairs, or one side is a batch of one image and is matched with all B images of the other.
    If neither has a batch axis, the result has none. K may differ between a and b. If neighbours are equally near, the
    one with the lowest row is taken. Padding rows are ignored. The function is jitted, and composes under `jit`,
    `vmap`, `scan` and (through the scores) `grad`; a new threshold compiles nothing.

    Args:
        a: Keypoints with descriptors of unit length, as `extract` gives them.
        b: The same for the other image.
        matcher: A network that matches, for example `superpoint_jax.LightGlue`. It takes only one of the options below,
            `min_score`: the smallest probability of a match, by default the matcher's own.
        mutual: The keypoint of a must also be the nearest neighbour of its partner.
        ratio: Lowe's test: the distance to the partner must be less than `ratio` times the distance to the second
            nearest keypoint of b (0.8 is usual). If b has no second keypoint, the test passes.
        ratio_apart: Which keypoints of b count as the second nearest: those at least this far from the partner, as a
            fraction of the longer side of b's image. By default all of them, as in Lowe's test. Nearer ones show the
            same structure, so where keypoints lie close together, 0.01 finds more matches (docs/geometry.md).
        max_distance: Largest L2 distance between the descriptors, sqrt(2 - 2 cosine) (0.7 in Magic Leap's demo).
        temperature: With a value (0.1 is usual), neighbours and scores come from dual softmax: the product of the
            softmax of similarity / temperature over b and over a. It can't be used together with `ratio`.
        min_score: Smallest score of a match: a cosine, or a probability if `temperature` is given.

    Raises:
        ValueError: The shapes do not fit together, or an option is out of range.

    Source: D. Lowe, "Distinctive image features from scale-invariant keypoints", 2004, section 7.1 (ratio); D. Mishkin
    et al., "MODS: Fast and robust method for two-view matching", 2015, section 3 (second nearest keypoints that are
    apart); J. Sun et al., "LoFTR", 2021, section 3.3 (dual softmax).
    """
    tests = checked_thresholds(ratio, ratio_apart, max_distance, temperature, min_score)
    if matcher is not None:
        check_only_min_score(tests, mutual=mutual)
        return matcher.match(a, b, min_score=min_score)
    check_pairs(a, b)
    if a.mask.ndim == 1:
        matches = match(batch_of_one(a), batch_of_one(b), mutual=mutual, **tests._asdict())
        return rows_of(a, matches)
    return _match(a.descriptors, a.mask, b.descriptors, b.mask, (b.keypoints, b.image_sizes), tests, mutual=mutual)


def match_pairs(
    features: Keypoints,
    pairs: Int[Array, "p 2"] | Int[np.ndarray, "p 2"] | None = None,
    *,
    matcher: Matcher | None = None,
    mutual: bool = True,
    ratio: float | Float[Array, ""] | None = None,
    ratio_apart: float | Float[Array, ""] | None = None,
    max_distance: float | Float[Array, ""] | None = None,
    temperature: float | Float[Array, ""] | None = None,
    min_score: float | Float[Array, ""] | None = None,
) -> Matches:
    """The matches of many pairs of images from one set; entry p has those of `pairs[p, 0]` with `pairs[p, 1]`.

    Without `pairs`, all pairs are matched, in the order of `all_pairs`. The options are those of `match`; a `matcher`
    must be a pytree, as `superpoint_jax.LightGlue` is.

    Raises:
        ValueError: As `match`; or a pair has the number of an image that does not exist.
    """
    tests = checked_thresholds(ratio, ratio_apart, max_distance, temperature, min_score)
    if matcher is not None:
        check_only_min_score(tests, mutual=mutual)
    if features.mask.ndim != 2:
        raise ValueError(f"features.mask has shape {features.mask.shape}; match_pairs needs a set of images [B,K]")
    if pairs is None:
        pairs = all_pairs(len(features))
    if not isinstance(pairs, Tracer) and pairs.size:
        low, high = int(pairs.min()), int(pairs.max())
        if low < 0 or high >= len(features):
            raise ValueError(f"pairs name the images {low} to {high}; there are {len(features)}, counted from 0")
    pairs = jnp.asarray(pairs, jnp.int32)
    if matcher is not None:
        return _match_pairs_by(matcher, dataclasses.replace(features, hidden_states=None), pairs, min_score)
    located = features.keypoints, features.image_sizes
    return _match_pairs(features.descriptors, features.mask, located, pairs, tests, mutual=mutual)


def all_pairs(count: int) -> Int[np.ndarray, "p 2"]:
    """The pairs (i, j) with i < j < `count`, in the order of `itertools.combinations`."""
    return np.stack(np.triu_indices(count, 1), axis=-1).astype(np.int32)


class _Block(NamedTuple):
    """A block of keypoints of b. Outside of a scan, every array has a leading axis over the blocks."""

    descriptors: Array
    mask: Array
    places: Array
    log_sum: Array  # of the dual softmax over a; 0 without a temperature
    start: Array


@partial(jax.jit, static_argnames="mutual")
def _match(
    descriptors_a: Float[Array, "_m i d"],
    mask_a: Bool[Array, "_m i"],
    descriptors_b: Float[Array, "_n j d"],
    mask_b: Bool[Array, "_n j"],
    located_b: tuple[Float[Array, "_n j 2"], Int[Array, "_n 2"]],
    tests: Thresholds,
    *,
    mutual: bool,
) -> Matches:
    counts, rows, columns = (len(mask_a), len(mask_b)), mask_a.shape[1], mask_b.shape[1]
    count = min(counts) and max(counts)
    if 0 in (count, rows, columns):
        return no_matches((count, rows))
    # All pairs are computed at one time, with narrower blocks for more pairs: a batch in `lax.map` can't be sharded.
    width = min(columns, max(MIN_WIDTH, _budget() // (rows * count)))

    def match_pair(a: tuple[Array, Array], b: tuple[Array, Array, Array]) -> Matches:
        return _match_pair(*a, *b, tests, width=width, mutual=mutual)

    def side(*arrays: Array) -> tuple[Any, int | None]:
        """The arrays and the axis of their images; one image that is matched with many is not copied."""
        alone = len(arrays[0]) < count
        return (tuple(leaf[0] for leaf in arrays), None) if alone else (arrays, 0)

    a, axis_a = side(descriptors_a, mask_a)
    b, axis_b = side(descriptors_b, mask_b, _places(*located_b))
    return jax.vmap(match_pair, in_axes=(axis_a, axis_b))(a, b)


@partial(jax.jit, static_argnames="mutual")
def _match_pairs(
    descriptors: Float[Array, "b k d"],
    mask: Bool[Array, "b k"],
    located: tuple[Float[Array, "b k 2"], Int[Array, "b 2"]],
    pairs: Int[Array, "p 2"],
    tests: Thresholds,
    *,
    mutual: bool,
) -> Matches:
    rows = mask.shape[1]
    if 0 in (rows, len(pairs)):
        return no_matches((len(pairs), rows))
    width = min(rows, max(MIN_WIDTH, _budget() // rows))

    def all_of_them(descriptors: Array, mask: Array, places: Array, pairs: Array, tests: Thresholds) -> Matches:
        def match_pair(pair: Array) -> Matches:
            i, j = pair
            b = descriptors[j], mask[j], places[j]
            return _match_pair(descriptors[i], mask[i], *b, tests, width=width, mutual=mutual)

        return _in_groups(jax.vmap(match_pair), pairs, _budget() // (rows * width))

    return placed_like(pairs, all_of_them)(descriptors, mask, _places(*located), pairs, tests)


@jax.jit
def _match_pairs_by(
    matcher: Matcher, features: Keypoints, pairs: Int[Array, "p 2"], min_score: float | Array | None
) -> Matches:
    rows = features.mask.shape[1]
    if 0 in (rows, len(pairs)):
        return no_matches((len(pairs), rows))

    def all_of_them(matcher: Matcher, features: Keypoints, pairs: Array, min_score: float | Array | None) -> Matches:
        def match_group(group: Array) -> Matches:
            return matcher.match(features[group[:, 0]], features[group[:, 1]], min_score=min_score)

        return _in_groups(match_group, pairs, _budget() // rows**2)

    return placed_like(pairs, all_of_them)(matcher, features, pairs, min_score)


def _in_groups(match_group: Callable[[Array], Matches], pairs: Int[Array, "p 2"], size: int) -> Matches:
    """The matches of all pairs, computed in groups of about `size` pairs.

    Groups are computed one after the other, so that memory stays small for any number of pairs. A group has one pair
    from the share of each device: in a loop over a sharded axis, every device would do all of the work.
    """
    size = max(jax.device_count(), size)
    groups = -(-len(pairs) // size)
    grouped = jnp.pad(pairs, ((0, -len(pairs) % size), (0, 0))).reshape(size, groups, 2)
    matches = lax.map(match_group, jnp.swapaxes(grouped, 0, 1))
    flat = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1).reshape(size * groups, *leaf.shape[2:]), matches)
    return jax.tree.map(lambda leaf: leaf[: len(pairs)], flat)


def _budget() -> int:
    """Number of similarities in memory at one time, for the default backend."""
    return BLOCK_BYTES.get(jax.default_backend(), BLOCK_BYTES_OTHERWISE) // 4


def _match_pair(
    descriptors_a: Float[Array, "i d"],
    mask_a: Bool[Array, " i"],
    descriptors_b: Float[Array, "j d"],
    mask_b: Bool[Array, " j"],
    places_b: Float[Array, "j 2"],
    tests: Thresholds,
    *,
    width: int,
    mutual: bool,
) -> Matches:
    blocks = _split(descriptors_b, mask_b, places_b, width)

    def similarity(block: _Block) -> Array:
        values = jnp.matmul(descriptors_a, block.descriptors.T, precision="highest")
        return jnp.where(mask_a[:, None] & block.mask[None], values, -jnp.inf)

    score = similarity
    if tests.temperature is not None:
        score, blocks = _dual_softmax(similarity, blocks, tests.temperature)
    best, index, nearest_a = _nearest(score, blocks)

    found = best > -jnp.inf
    index = jnp.where(found, index, 0)
    values = best if tests.temperature is None else jnp.exp(best)
    if mutual:
        found &= nearest_a[index] == jnp.arange(len(mask_a))
    if tests.ratio is not None:
        apart = 0.0 if tests.ratio_apart is None else tests.ratio_apart
        second = _second(score, blocks, index, places_b[index], apart)
        found &= _distance(best) < tests.ratio * _distance(second)
    if tests.max_distance is not None:
        cosine = best if tests.temperature is None else jnp.sum(descriptors_a * descriptors_b[index], axis=-1)
        found &= _distance(cosine) <= tests.max_distance
    if tests.min_score is not None:
        found &= values >= tests.min_score
    return Matches(indices=jnp.where(found, index, -1), scores=jnp.where(found, values, 0), mask=found)


def _split(
    descriptors: Float[Array, "j d"], mask: Bool[Array, " j"], places: Float[Array, "j 2"], width: int
) -> _Block:
    """Blocks of at most `width` keypoints; the last one is padded."""
    count = -(-len(mask) // width)
    width = -(-len(mask) // count)
    missing = count * width - len(mask)
    return _Block(
        descriptors=jnp.pad(descriptors, ((0, missing), (0, 0))).reshape(count, width, -1),
        mask=jnp.pad(mask, (0, missing)).reshape(count, width),
        places=jnp.pad(places, ((0, missing), (0, 0))).reshape(count, width, 2),
        log_sum=jnp.zeros((count, width)),
        start=jnp.arange(count, dtype=jnp.int32) * width,
    )


def _nearest(score: Callable[[_Block], Array], blocks: _Block) -> tuple[Array, Array, Array]:
    """(best, index of the best) for each row of a, and the index of the best for each row of b.

    Where scores are equal, the first one counts as the best.
    """

    def step(carry: tuple[Array, Array], block: _Block) -> tuple[tuple[Array, Array], Array]:
        best, index = carry
        scores = score(block)
        here, here_index = first_max(scores, axis=1)
        index = jnp.where(here > best, here_index + block.start, index)
        return (jnp.maximum(best, here), index), first_max(scores, axis=0)[1]

    nothing = _nothing(score, blocks)
    (best, index), nearest_a = lax.scan(step, (nothing, jnp.zeros_like(nothing, jnp.int32)), blocks)
    return best, index, nearest_a.reshape(-1)


def _second(
    score: Callable[[_Block], Array], blocks: _Block, index: Array, places: Float[Array, "i 2"], apart: float | Array
) -> Array:
    """For each row of a the best of all scores but that of `index`, among the rows of b far enough from `places`."""

    def step(second: Array, block: _Block) -> tuple[Array, None]:
        scores = score(block)
        other = lax.broadcasted_iota(jnp.int32, scores.shape, 1) + block.start != index[:, None]
        # Written out, because XLA for a CPU sums over an axis of two slowly.
        x, y = (block.places[None, :, axis] - places[:, None, axis] for axis in (0, 1))
        squared = x**2 + y**2
        counts = other & (squared >= jnp.square(apart))
        return jnp.maximum(second, jnp.max(jnp.where(counts, scores, -jnp.inf), axis=1)), None

    return lax.scan(step, _nothing(score, blocks), blocks)[0]


def _places(keypoints_xy: Float[Array, "b k 2"], image_sizes: Int[Array, "b 2"]) -> Float[Array, "b k 2"]:
    """Keypoints as fractions of the longer side of their image."""
    longer = jnp.maximum(jnp.max(image_sizes, axis=-1), 1).astype(jnp.float32)
    return keypoints_xy / longer[:, None, None]


def _dual_softmax(
    similarity: Callable[[_Block], Array], blocks: _Block, temperature: float | Array
) -> tuple[Callable[[_Block], Array], _Block]:
    """The logarithm of the dual-softmax probability as a function of a block, and the blocks that the function takes.

    A first pass over the blocks sums the exponentials; the similarities are not kept.
    """

    def step(log_sum_a: Array, block: _Block) -> tuple[Array, Array]:
        logits = similarity(block) / temperature
        return jnp.logaddexp(log_sum_a, jax.nn.logsumexp(logits, axis=1)), jax.nn.logsumexp(logits, axis=0)

    log_sum_a, log_sum_b = lax.scan(step, _nothing(similarity, blocks), blocks)
    # For a masked keypoint the sum is 0 and its logarithm minus infinity, which would give NaN below.
    log_sum_a = jnp.where(jnp.isfinite(log_sum_a), log_sum_a, 0)
    log_sum_b = jnp.where(jnp.isfinite(log_sum_b), log_sum_b, 0)

    def log_probability(block: _Block) -> Array:
        return 2 * similarity(block) / temperature - log_sum_a[:, None] - block.log_sum[None]

    return log_probability, blocks._replace(log_sum=log_sum_b)


def _nothing(score: Callable[[_Block], Array], blocks: _Block) -> Float[Array, " i"]:
    """Minus infinity for each row of a: the start of a scan over blocks.

    It is computed from a score, so that under `shard_map` it varies over the mesh in the same way as the results of the
    scan.
    """
    return jnp.full_like(score(jax.tree.map(lambda leaf: leaf[0], blocks))[:, 0], -jnp.inf)


def _distance(cosine: Array) -> Array:
    """L2 distance of unit vectors; rounding can make the cosine larger than 1."""
    return jnp.sqrt(jnp.maximum(2 - 2 * cosine, 0))
