"""Homographies by a RANSAC of fixed cost in JAX, for use inside `jit` and `vmap`.

Everything is computed in normalised coordinates, because of float32.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from superpoint_jax.estimation.estimate import Estimate, check_pair
from superpoint_jax.features import Keypoints
from superpoint_jax.geometry import PRNGKey, exact_product, warp_points
from superpoint_jax.matching import Matches
from superpoint_jax.sharding import placed_like

REFINEMENTS = 8
"""Number of least-squares steps, each over the inliers of the step before."""
MIN_DETERMINANT = 1e-6
"""Smallest determinant of a sample's homography in normalised coordinates, scaled so that its largest entry is 1."""


def ransac_homography(
    key: PRNGKey,
    a: Keypoints,
    b: Keypoints,
    matches: Matches,
    *,
    threshold_px: float | Float[Array, ""] = 3.0,
    iterations: int = 1024,
) -> Estimate:
    """The homography from image a to image b of one pair, by RANSAC in JAX, at a cost that is the same for all matches.

    The function is jitted and works inside `jit` and `vmap` (for a batch of pairs, with one key per pair). Each
    iteration samples four matches. The best sample by truncated squared error is refined by least squares over its
    inliers. With fewer than 4 matches, or no 4 that agree in orientation, `found` is False.

    Args:
        key: Source of randomness; the same key gives the same result.
        a: Keypoints of the first image.
        b: Keypoints of the second image.
        matches: Matches of a in b.
        threshold_px: Largest reprojection error of an inlier, in pixels of b.
        iterations: Number of samples. If 31 % of the matches are inliers, 1024 samples contain one of four inliers with
            a probability of 0.9999.

    Raises:
        ValueError: The shapes do not fit together, or there is a batch.

    Source: M. Fischler, R. Bolles, "Random sample consensus", 1981; P. Torr, A. Zisserman, "MLESAC", 2000 (the
    truncated error, MSAC); O. Chum et al., "Locally optimized RANSAC", 2003 (the refinement); P. Heckbert,
    "Fundamentals of texture mapping and image warping", 1989 (the homography of a sample, by way of the unit square).
    """
    if matches.mask.ndim != 1:
        raise ValueError(f"matches.mask has shape {matches.mask.shape}; one pair is needed: jax.vmap takes a batch")
    if iterations < 1:
        raise ValueError(f"iterations={iterations}; at least 1 is needed")
    check_pair(a, b, matches)
    return _ransac_homography(key, a.keypoints, b.keypoints, matches, threshold_px, iterations=iterations)


@partial(jax.jit, static_argnames=("iterations",))
def _ransac_homography(
    key: Array,
    points_a: Float[Array, "i 2"],
    points_b: Float[Array, "j 2"],
    matches: Matches,
    threshold_px: float | Array,
    *,
    iterations: int,
) -> Estimate:
    rows = matches.mask.shape[0]
    if 0 in (rows, points_b.shape[0]):
        return Estimate(matrix=jnp.zeros((3, 3)), inliers=jnp.zeros(rows, bool), found=jnp.zeros((), bool))

    def estimate(
        key: Array, points_a: Array, points_b: Array, matches: Matches, threshold_px: float | Array
    ) -> Estimate:
        mask = matches.mask
        points_b = points_b[jnp.where(mask, matches.indices, 0)]
        to_a, to_b = _normalizer(points_a, mask), _normalizer(points_b, mask)
        points = _Points(warp_points(to_a, points_a), warp_points(to_b, points_b), mask, threshold_px * to_b[0, 0])

        samples = _distinct(key, iterations, mask)
        # Mapped in batches, so that memory stays small for any number of iterations.
        homographies, costs = lax.map(partial(_try_sample, points), samples, batch_size=min(iterations, 128))
        best = jnp.argmin(costs)
        start = homographies[best], costs[best]
        homography, _ = lax.fori_loop(0, REFINEMENTS, lambda _, state: _refine(points, *state), start)

        inliers = mask & (_squared_errors(homography, points) <= points.threshold**2)
        found = (jnp.sum(mask) >= 4) & (jnp.sum(inliers) >= 4) & jnp.isfinite(costs[best])
        from_b = _normalizer_inverse(to_b)
        pixels = exact_product(exact_product(from_b, homography), to_a)
        pixels = pixels / jnp.where(found, pixels[2, 2], 1)
        return Estimate(matrix=jnp.where(found, pixels, 0), inliers=inliers & found, found=found)

    return placed_like(None, estimate)(key, points_a, points_b, matches, threshold_px)


class _Points(NamedTuple):
    """Matched keypoints in normalised coordinates, their mask, and the threshold in the coordinates of b."""

    a: Float[Array, "k 2"]
    b: Float[Array, "k 2"]
    mask: Bool[Array, " k"]
    threshold: Array


def _try_sample(points: _Points, sample: Int[Array, " _four"]) -> tuple[Array, Array]:
    """The homography of four matches and its cost; the cost is infinite if the four have no proper homography."""
    square_to_a, square_to_b = _from_square(points.a[sample]), _from_square(points.b[sample])
    homography = exact_product(square_to_b, _adjugate(square_to_a))
    depth = exact_product(points.a[sample], homography[2, :2]) + homography[2, 2]
    homography = homography * jnp.sign(depth[0])
    scale = jnp.max(jnp.abs(homography))
    homography = homography / jnp.where(scale > 0, scale, 1)
    # Points on one line, or equal points, give a matrix that maps the plane to a line or a point.
    flat = jnp.abs(jnp.sum(homography[0] * jnp.cross(homography[1], homography[2]))) < MIN_DETERMINANT
    proper = jnp.all(depth * depth[0] > 0) & jnp.isfinite(scale) & ~flat
    homography = jnp.where(proper, homography, jnp.eye(3))
    return homography, jnp.where(proper, _cost(homography, points), jnp.inf)


def _cost(homography: Array, points: _Points) -> Array:
    errors = jnp.minimum(_squared_errors(homography, points), points.threshold**2)
    return jnp.sum(jnp.where(points.mask, errors, 0))


def _squared_errors(homography: Array, points: _Points) -> Float[Array, " k"]:
    """Squared reprojection errors; infinite behind the horizon."""
    mapped = exact_product(points.a, homography[:, :2].T) + homography[:, 2][None]
    depth = mapped[:, 2]
    offsets = mapped[:, :2] / jnp.where(depth > 1e-6, depth, 1)[:, None] - points.b
    return jnp.where(depth > 1e-6, jnp.sum(offsets**2, axis=1), jnp.inf)


def _refine(points: _Points, homography: Array, cost: Array) -> tuple[Array, Array]:
    """The homography and its cost after a Gauss-Newton step over the inliers, kept if the cost does not increase."""
    inliers = points.mask & (_squared_errors(homography, points) <= points.threshold**2)
    homography = homography / jnp.where(jnp.abs(homography[2, 2]) > 1e-6, homography[2, 2], 1)

    def offsets(parameters: Array) -> Array:
        matrix = jnp.append(parameters, 1).reshape(3, 3)
        mapped = exact_product(points.a, matrix[:, :2].T) + matrix[:, 2][None]
        depth = jnp.where(jnp.abs(mapped[:, 2:]) > 1e-6, mapped[:, 2:], 1)
        return jnp.where(inliers[:, None], mapped[:, :2] / depth - points.b, 0).reshape(-1)

    parameters = homography.reshape(-1)[:8]
    residuals, jacobian = offsets(parameters), jax.jacfwd(offsets)(parameters)
    normal = exact_product(jacobian.T, jacobian)
    gradient = exact_product(jacobian.T, residuals)
    step = jnp.linalg.solve(normal + 1e-7 * jnp.trace(normal) * jnp.eye(8) / 8 + 1e-12 * jnp.eye(8), gradient)
    refined = jnp.append(parameters - step, 1).reshape(3, 3)
    refined_cost = _cost(refined, points)
    better = jnp.isfinite(refined).all() & (refined_cost <= cost)
    return jnp.where(better, refined, homography), jnp.where(better, refined_cost, cost)


def _distinct(key: Array, count: int, mask: Bool[Array, " k"]) -> Int[Array, "count 4"]:
    """`count` samples of four different valid rows, all equally likely; any rows if fewer than four are valid."""
    valid = jnp.sum(mask, dtype=jnp.int32)
    # The valid rows are sorted to the front; then the i-th place is drawn among those that are left.
    order = jnp.argsort(~mask, stable=True)
    uniform = jax.random.uniform(key, (count, 4))
    taken: list[Array] = []
    for i in range(4):
        left = jnp.maximum(valid - i, 1)
        place = jnp.minimum((uniform[:, i] * left.astype(uniform.dtype)).astype(jnp.int32), left - 1)
        for earlier in jnp.sort(jnp.stack(taken), axis=0) if taken else ():
            place = place + (place >= earlier).astype(jnp.int32)
        taken.append(place)
    places = jnp.minimum(jnp.stack(taken, axis=1), mask.shape[0] - 1)
    return order[places]


def _from_square(corners: Float[Array, "4 2"]) -> Float[Array, "3 3"]:
    """The homography that maps (0, 0), (1, 0), (1, 1), (0, 1) to the four points, up to a factor."""
    p0, p1, p2, p3 = corners
    total, first, second = p0 - p1 + p2 - p3, p1 - p2, p3 - p2
    determinant = first[0] * second[1] - second[0] * first[1]
    g = total[0] * second[1] - second[0] * total[1]
    h = first[0] * total[1] - total[0] * first[1]
    # Multiplied by the determinant, so that parallelograms and three points on a line are not special cases.
    x = determinant * (p1 - p0) + g * p1
    y = determinant * (p3 - p0) + h * p3
    return jnp.stack([jnp.append(x, g), jnp.append(y, h), jnp.append(determinant * p0, determinant)], axis=1)


def _adjugate(matrix: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    a, b, c = matrix
    return jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], axis=-1)


def _normalizer(points: Float[Array, "k 2"], mask: Bool[Array, " k"]) -> Float[Array, "3 3"]:
    """The matrix that moves the mean of the valid points to 0 and scales their mean distance from it to sqrt(2).

    Source: R. Hartley, "In defense of the eight-point algorithm", 1997.
    """
    weights = mask.astype(points.dtype)
    weights = weights / jnp.maximum(jnp.sum(weights), 1)
    center = exact_product(weights, points)
    spread = exact_product(weights, jnp.linalg.norm(points - center[None], axis=1))
    scale = jnp.sqrt(2.0) / jnp.where(spread > 0, spread, jnp.sqrt(2.0))
    return jnp.diag(jnp.stack([scale, scale, jnp.ones(())])).at[:2, 2].set(-scale * center)


def _normalizer_inverse(matrix: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    scale = 1 / matrix[0, 0]
    return jnp.diag(jnp.stack([scale, scale, jnp.ones(())])).at[:2, 2].set(-scale * matrix[:2, 2])
