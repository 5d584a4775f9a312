"""Random scenes of the synthetic dataset: for each kind of shape, its primitives and its exact corners."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from superpoint_jax.geometry import exact_product
from superpoint_jax.training.plane import accept, cross_product, direction, norm, prune, rotation, segment_distances
from superpoint_jax.training.synthetic_drawing import Scene

LAYERS, VERTICES, LINES, CORNERS = 8, 8, 10, 100
"""Capacities of a scene: layers, vertices per polygon, lattice lines per direction, candidate corners (10 x 10)."""

MIN_CONTRAST = 0.15
"""Smallest difference in grey level between a shape and what is under it. Above 0.167, three levels and a background
would not always fit into [0, 1]."""

_MAX_AMPLITUDE = 0.1
_MAX_POLYGONS = 5
_MAX_CROSSINGS = 24
_SQUARE = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])


class Draws:
    """Gives out uniform random numbers one after the other.

    They all come from one call of the random generator; XLA would otherwise compile a copy of it into every use.
    """

    def __init__(self, numbers: Float[Array, " n"]):
        self._numbers, self._used = numbers, 0

    def uniform(self, low: float | int, high: float | int, count: int | None = None) -> Array:
        """One number, or `count` of them, in [low, high)."""
        start = self._used
        self._used += count or 1
        assert self._used <= self._numbers.shape[0], "more numbers are drawn than were made"
        return low + (high - low) * (self._numbers[start] if count is None else self._numbers[start : self._used])

    def rest(self) -> Float[Array, " n"]:
        """The numbers that are not drawn yet."""
        return self._numbers[self._used :]

    def integer(self, low: int, high: int) -> Array:
        """One integer in [low, high)."""
        return jnp.minimum(jnp.floor(self.uniform(low, high)).astype(jnp.int32), high - 1)

    def permutation(self, count: int) -> Array:
        """The integers below `count` in random order."""
        numbers = self.uniform(0, 1, count)
        first = jnp.tri(count, k=-1, dtype=bool)
        return jnp.sum((numbers[:, None] > numbers[None]) | ((numbers[:, None] == numbers[None]) & first), axis=1)


def lines_scene(draws: Draws, shape: tuple[int, int], scene: Scene) -> Scene:
    """Line segments that do not touch; corners are their end points."""
    centre = _inside(draws, shape, LAYERS)
    angle = draws.uniform(0, math.pi, LAYERS)
    reach = draws.uniform(0.1, 0.5, LAYERS)[:, None] * min(shape) * direction(angle)
    ends = jnp.stack([centre - reach, centre + reach], axis=1)
    wanted = jnp.arange(LAYERS) < draws.integer(1, LAYERS + 1)
    active = accept(wanted, segment_distances(ends) < 10.0)
    layers = jnp.repeat(jnp.arange(LAYERS), 2)
    scene = _segments(draws, scene, ends, active)
    return _with_corners(scene, ends.reshape(-1, 2), jnp.repeat(active, 2), layers, layers)


def star_scene(draws: Draws, shape: tuple[int, int], scene: Scene) -> Scene:
    """Three to six line segments from one point; corners are that point and the far ends."""
    branches = draws.integer(3, 7)
    index = jnp.arange(LAYERS)
    turns = (index.astype(jnp.float32) + 0.5 * draws.uniform(0, 1, LAYERS)) / branches.astype(jnp.float32)
    angle = 2 * math.pi * (turns + draws.uniform(0, 1))
    reach = draws.uniform(0.15, 0.6, LAYERS)[:, None] * min(shape) * direction(angle)
    centre = jnp.broadcast_to(_inside(draws, shape, 1, margin=0.15), (LAYERS, 2))
    scene = _segments(draws, scene, jnp.stack([centre, centre + reach], axis=1), index < branches)
    # The centre is a corner of the last layer, so that no branch above it can hide it.
    layers = jnp.append(index, LAYERS - 1)
    used = jnp.append(index < branches, True)
    return _with_corners(scene, jnp.concatenate([centre + reach, centre[:1]]), used, layers, layers)


def polygon_scene(draws: Draws, shape: tuple[int, int], scene: Scene) -> Scene:
    """One polygon, convex or not; corners are its vertices."""
    return _polygons(draws, shape, scene, most=1, radii=(0.2, 0.55))


def polygons_scene(draws: Draws, shape: tuple[int, int], scene: Scene) -> Scene:
    """Two to five polygons, one over the other; corners are the vertices and where an outline meets one above it."""
    return _polygons(draws, shape, scene, most=_MAX_POLYGONS, radii=(0.12, 0.4))


def ellipses_scene(draws: Draws, shape: tuple[int, int], scene: Scene) -> Scene:
    """Ellipses that do not touch; no corners."""
    centre = _inside(draws, shape, LAYERS)
    major = draws.uniform(0.06, 0.28, LAYERS) * min(shape)
    minor = major * draws.uniform(0.4, 1, LAYERS)
    angle = draws.uniform(0, math.pi, LAYERS)
    apart = norm(centre[:, None] - centre[None]) - major[:, None] - major[None]
    wanted = jnp.arange(LAYERS) < draws.integer(1, LAYERS + 1)
    return dataclasses.replace(
        scene,
        ellipses=jnp.concatenate([centre, jnp.stack([major, minor, angle], axis=-1)], axis=-1),
        is_ellipse=jnp.ones(LAYERS, bool),
        active=accept(wanted, apart < 4.0),
        shades=_shades(draws, scene, LAYERS),
    )


def checkerboard_scene(draws: Draws, shape: tuple[int, int], scene: Scene) -> Scene:
    """A checkerboard of 3 to 9 cells per direction under perspective; corners are the crossings of its lines."""
    homography, sides = _perspective(draws, shape)
    # Corners of cells of 12 px or more stay further apart than `MIN_DISTANCE_PX` where perspective shrinks the cells.
    cells = jnp.clip(jnp.floor(draws.uniform(3, LINES, 2)), 3, jnp.clip(jnp.floor(sides / 12), 3, LINES - 1))
    u, v = (jnp.minimum(jnp.arange(LINES, dtype=jnp.float32) / cells[i], 1.0) for i in (0, 1))
    shades = _shades(draws, scene, 2)
    scene = dataclasses.replace(
        scene,
        u_shades=jnp.mean(shades) + draws.uniform(-0.01, 0.01, LINES - 1),
        v_shades=draws.uniform(-0.01, 0.01, LINES - 1),
        chess=(shades[0] - shades[1]) / 2,
    )
    return _lattice(scene, homography, (u, v), cells.astype(jnp.int32))


def stripes_scene(draws: Draws, shape: tuple[int, int], scene: Scene) -> Scene:
    """Three to nine stripes of uneven width under perspective; corners are the ends of the lines between them."""
    homography, sides = _perspective(draws, shape)
    count = jnp.minimum(jnp.floor(draws.uniform(3, LINES)), jnp.clip(jnp.floor(sides[0] / 14), 3, LINES - 1))
    widths = jnp.where(jnp.arange(LINES - 1, dtype=jnp.float32) < count, draws.uniform(0.5, 1.3, LINES - 1), 0.0)
    u = jnp.append(jnp.zeros(1, jnp.float32), jnp.minimum(jnp.cumsum(widths) / jnp.sum(widths), 1.0))
    v = jnp.minimum(jnp.arange(LINES, dtype=jnp.float32), 1.0)
    # One or two steps through three levels, so that no stripe has the level of its neighbour.
    levels = jnp.cumsum(jnp.floor(draws.uniform(1, 3, LINES - 1)).astype(jnp.int32)) % 3
    scene = dataclasses.replace(scene, u_shades=_shades(draws, scene, 3)[levels])
    return _lattice(scene, homography, (u, v), jnp.stack([count.astype(jnp.int32), jnp.ones((), jnp.int32)]))


def cube_scene(draws: Draws, shape: tuple[int, int], scene: Scene) -> Scene:
    """A box in perspective that shows three faces; corners are its seven visible vertices."""
    half = draws.uniform(0.6, 1.1, 3)
    yaw, pitch = draws.uniform(math.radians(25), math.radians(65)), draws.uniform(math.radians(23), math.radians(46))
    # Face i lies at +half along axis i; the camera is in the octant where all coordinates are positive.
    faces = half[None, None] * jnp.asarray([np.insert(_SQUARE, i, 1, axis=1) for i in range(3)], jnp.float32)
    towards = jnp.append(jnp.cos(pitch) * direction(yaw), jnp.sin(pitch))
    right = jnp.append(direction(yaw + math.pi / 2), jnp.zeros(1, jnp.float32))
    seen = exact_product(faces, jnp.stack([right, jnp.cross(towards, right), towards], axis=1))
    plane = seen[..., :2] / (1 - seen[..., 2:] / draws.uniform(5, 12))
    scale = draws.uniform(0.15, 0.4) * min(shape)
    quads = _inside(draws, shape, 1, margin=0.2)[None] + exact_product(
        scale * plane, rotation(draws.uniform(0, 2 * math.pi))
    )
    scene = dataclasses.replace(
        _quads(scene, jnp.pad(quads, ((0, LAYERS - 3), (0, 0), (0, 0))), jnp.arange(LAYERS) < 3),
        shades=jnp.pad(_shades(draws, scene, 3), (0, LAYERS - 3)),
        partition=jnp.ones((), bool),
    )
    layers = jnp.full(12, LAYERS - 1, jnp.int32)
    return _with_corners(scene, quads.reshape(-1, 2), jnp.ones(12, bool), layers, layers)


def noise_scene(draws: Draws, shape: tuple[int, int], scene: Scene) -> Scene:
    """Gaussian noise; no corners."""
    return dataclasses.replace(scene, noise=draws.uniform(0.05, 0.3))


def numbers_needed(shape: tuple[int, int]) -> int:
    """Upper bound of how many numbers a scene of this image shape draws."""
    return 160 + sum(map(math.prod, _knots(shape)))


def empty_scene(draws: Draws, shape: tuple[int, int]) -> Scene:
    """A random background with nothing on it."""
    coarse, fine = (draws.uniform(0, 1, math.prod(knots)).reshape(knots) for knots in _knots(shape))
    return Scene(
        level=draws.uniform(0, 1),
        amplitude=draws.uniform(0, _MAX_AMPLITUDE),
        coarse=coarse,
        fine=fine,
        mixing=draws.uniform(0, 1),
        u_lines=jnp.zeros((LINES, 3), jnp.float32),
        v_lines=jnp.zeros((LINES, 3), jnp.float32),
        u_shades=jnp.zeros(LINES - 1, jnp.float32),
        v_shades=jnp.zeros(LINES - 1, jnp.float32),
        chess=jnp.zeros((), jnp.float32),
        polygons=jnp.zeros((LAYERS, VERTICES, 2), jnp.float32),
        ellipses=jnp.ones((LAYERS, 5), jnp.float32),
        is_ellipse=jnp.zeros(LAYERS, bool),
        active=jnp.zeros(LAYERS, bool),
        shades=jnp.zeros(LAYERS, jnp.float32),
        partition=jnp.zeros((), bool),
        softness_px=draws.uniform(1, 2),
        noise=jnp.zeros((), jnp.float32),
        corners_xy=jnp.zeros((CORNERS, 2), jnp.float32),
        corners_mask=jnp.zeros(CORNERS, bool),
        corners_layers=jnp.zeros((CORNERS, 2), jnp.int32),
    )


# --- polygons --- -----------------------------------------------------------------------------------------------------


def _polygons(draws: Draws, shape: tuple[int, int], scene: Scene, *, most: int, radii: tuple[float, float]) -> Scene:
    radius = draws.uniform(*radii, most) * min(shape)
    centre = _inside(draws, shape, most)
    outlines, valid = _outlines(draws, centre, radius)
    shades = _shades(draws, scene, most)
    wanted = jnp.any(valid, axis=-1) & (jnp.arange(most) < draws.integer(min(2, most), most + 1))
    meet = norm(centre[:, None] - centre[None]) < radius[:, None] + radius[None] + 3.0
    alike = jnp.abs(shades[:, None] - shades[None]) < MIN_CONTRAST
    active = accept(wanted, meet & alike)
    rest = LAYERS - most
    scene = dataclasses.replace(
        scene,
        polygons=jnp.pad(outlines, ((0, rest), (0, 0), (0, 0))),
        active=jnp.pad(active, (0, rest)),
        shades=jnp.pad(shades, (0, rest)),
    )
    corners, mask = outlines.reshape(-1, 2), (valid & active[:, None]).reshape(-1)
    lower = upper = jnp.repeat(jnp.arange(most), VERTICES)
    if most > 1:
        crossings = _crossings(outlines, active)
        corners, mask, lower, upper = map(jnp.append, (corners, mask, lower, upper), crossings, (0, None, None, None))
    return _with_corners(scene, corners, mask, lower, upper)


def _outlines(
    draws: Draws, centre: Float[Array, "p 2"], radius: Float[Array, " p"]
) -> tuple[Float[Array, "p v 2"], Bool[Array, "p v"]]:
    """Random polygons within `radius` of the centres, and a mask of the vertices that are not repetitions.

    A mask without any True means that there is no polygon.
    """
    most = centre.shape[0]
    count = jnp.floor(draws.uniform(3, VERTICES + 1, most))[:, None]
    index = jnp.arange(VERTICES, dtype=jnp.float32)[None]
    angle = 2 * math.pi * (index + 0.7 * draws.uniform(0, 1, most * VERTICES).reshape(most, VERTICES)) / count
    dented = (draws.uniform(0, 1, most) < 0.5).astype(jnp.float32)[:, None]
    dents = dented * draws.uniform(0, 0.6, most * VERTICES).reshape(most, VERTICES)
    stretch = jnp.stack([jnp.ones(most, jnp.float32), draws.uniform(0.5, 1, most)], axis=-1)[:, None]
    reach = (radius[:, None] * (1 - dents))[..., None] * direction(angle) * stretch
    vertices = centre[:, None] + exact_product(reach, jax.vmap(rotation)(draws.uniform(0, 2 * math.pi, most)))
    return jax.vmap(prune)(vertices, index < count)


def _crossings(
    outlines: Float[Array, "p v 2"], active: Bool[Array, " p"]
) -> tuple[Float[Array, "m 2"], Bool[Array, " m"], Int[Array, " m"], Int[Array, " m"]]:
    """The crossings of outlines of different layers: points, mask, lower and upper layer."""
    layers, vertices, _ = outlines.shape
    n = layers * vertices
    start = jnp.roll(outlines, 1, axis=1).reshape(n, 2)
    edge = outlines.reshape(n, 2) - start
    layer = jnp.repeat(jnp.arange(layers), vertices)
    between = start[None] - start[:, None]
    product = cross_product(edge[:, None], edge[None])
    divisor = jnp.where(product == 0, 1.0, product)
    on_first, on_second = cross_product(between, edge[None]) / divisor, cross_product(between, edge[:, None]) / divisor
    within = (on_first > 0) & (on_first < 1) & (on_second > 0) & (on_second < 1) & (product != 0)
    drawn = active[layer]
    cross = within & (layer[:, None] < layer[None]) & drawn[:, None] & drawn[None]
    size = min(_MAX_CROSSINGS, n * n)
    found, flat = lax.top_k(cross.reshape(-1).astype(jnp.float32), size)
    first, second = flat // n, flat % n
    points = start[first] + on_first[first, second][:, None] * edge[first]
    return points, found > 0, layer[first], layer[second]


# --- segments and quadrilaterals ------------------------------------------------------------------------------------


def _segments(draws: Draws, scene: Scene, ends: Float[Array, "p 2 2"], active: Bool[Array, " p"]) -> Scene:
    """The scene with segments of 1.5 to 3.5 px width, one per layer."""
    start, stop = ends[:, 0], ends[:, 1]
    along = stop - start
    across = jnp.stack([-along[:, 1], along[:, 0]], axis=-1) / norm(along)[:, None]
    offset = across * (draws.uniform(1.5, 3.5, LAYERS) / 2)[:, None]
    quads = jnp.stack([start + offset, stop + offset, stop - offset, start - offset], axis=1)
    return dataclasses.replace(_quads(scene, quads, active), shades=_shades(draws, scene, LAYERS))


def _quads(scene: Scene, quads: Float[Array, "p 4 2"], active: Bool[Array, " p"]) -> Scene:
    repeated = jnp.concatenate([quads, jnp.repeat(quads[:, -1:], VERTICES - 4, axis=1)], axis=1)
    return dataclasses.replace(scene, polygons=repeated, active=active)


def _perspective(draws: Draws, shape: tuple[int, int]) -> tuple[Float[Array, "3 3"], Float[Array, " 2"]]:
    """A homography from the unit square to the image, and the length of its sides in pixels before perspective."""
    centre = _inside(draws, shape, 1, margin=0.25)[0]
    sides = draws.uniform(0.5, 1.1, 2) * min(shape)
    linear = rotation(draws.uniform(0, 2 * math.pi)) * sides[None]
    # The third coordinate stays within 1 +- 0.5 on the square, so that nothing comes near infinity.
    tilt = draws.uniform(-0.5, 0.5, 2)
    rows = jnp.concatenate([linear + centre[:, None] * tilt[None], centre[:, None]], axis=1)
    to_centre = jnp.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]], jnp.float32)
    return exact_product(jnp.concatenate([rows, jnp.append(tilt, 1.0)[None]]), to_centre), sides


def _lattice(
    scene: Scene, homography: Float[Array, "3 3"], breaks: tuple[Array, Array], cells: Int[Array, " 2"]
) -> Scene:
    """The scene with the lattice of lines u = breaks[0], v = breaks[1] of the unit square under the homography."""
    a, b, c = homography.T
    inverse = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)]) / jnp.sum(a * jnp.cross(b, c))
    u_lines, v_lines = (inverse[i][None] - breaks[i][:, None] * inverse[2][None] for i in (0, 1))
    grid = jnp.stack([*jnp.meshgrid(*breaks, indexing="ij"), jnp.ones((LINES, LINES), jnp.float32)], axis=-1)
    points = exact_product(grid.reshape(-1, 3), homography.T)
    index = jnp.arange(LINES)
    used = (index[:, None] <= cells[0].astype(jnp.int32)) & (index[None] <= cells[1].astype(jnp.int32))
    layers = jnp.zeros(CORNERS, jnp.int32)
    return _with_corners(
        dataclasses.replace(
            scene,
            u_lines=u_lines / norm(u_lines[:, :2])[:, None],
            v_lines=v_lines / norm(v_lines[:, :2])[:, None],
        ),
        points[:, :2] / points[:, 2:],
        used.reshape(-1),
        layers,
        layers,
    )


# --- shared by all scenes -------------------------------------------------------------------------------------------


def _knots(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Sizes of the coarse and the fine grid of the background, with 2 and 7 spans along the shorter side."""
    height, width = shape
    return [(round(n * height / min(shape)) + 3, round(n * width / min(shape)) + 3) for n in (2, 7)]


def _with_corners(scene: Scene, corners_xy: Array, mask: Array, lower: Array, upper: Array) -> Scene:
    rest = CORNERS - corners_xy.shape[0]
    return dataclasses.replace(
        scene,
        corners_xy=jnp.pad(corners_xy, ((0, rest), (0, 0))),
        corners_mask=jnp.pad(mask, (0, rest)),
        corners_layers=jnp.pad(jnp.stack([lower, upper], axis=-1).astype(jnp.int32), ((0, rest), (0, 0))),
    )


def _shades(draws: Draws, scene: Scene, count: int) -> Float[Array, " n"]:
    """Evenly spaced grey levels in random order, each at least MIN_CONTRAST from those of the background."""
    reach = scene.amplitude + MIN_CONTRAST
    low, high = jnp.maximum(scene.level - reach, 0.0), jnp.minimum(scene.level + reach, 1.0)
    slack = 0.2 if count > 1 else 1.0
    rank = draws.permutation(count).astype(jnp.float32)
    place = (rank + draws.uniform(0, slack, count)) / (count - 1 + slack) * (low + 1 - high)
    return jnp.where(place < low, place, place + high - low)


def _inside(draws: Draws, shape: tuple[int, int], count: int, *, margin: float = 0.0) -> Float[Array, "n 2"]:
    """Random positions in the image, at least the fraction `margin` of its sides away from its border."""
    size = jnp.array(shape[::-1], jnp.float32) - 1
    return draws.uniform(margin, 1 - margin, 2 * count).reshape(count, 2) * size[None]
