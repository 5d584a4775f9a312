"""Views with parallax from one photo: a made-up depth over the photo, and two cameras that look at it.

A photo lies on a canvas, a grid of pixels somewhat larger than a view. Each pixel of the canvas has a depth, so it is a
point in space, and each camera sees it at a place of its view. A view is rendered by finding, for each of its pixels,
the place on the canvas that is seen there. If the canvas is a plane, the two views are related by a homography.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, UInt8

from superpoint_jax.features import pytree
from superpoint_jax.geometry import PRNGKey, exact_product, pixel_grid, sample_bilinear
from superpoint_jax.model import LUMA

CANVAS = 1.4
"""Size of the canvas, as a multiple of the view's."""
OBJECTS = 5
"""Largest number of objects in front of the ground."""
TOLERANCE_PX = 0.5
"""A place on the canvas is known if the camera sees it within this distance of where it should be."""
CALM = 0.25
"""How far the second camera of a calm pair is from the first, as a part of what it is in other pairs."""
COLOUR_SPREAD = 0.6
"""Standard deviation of the logarithm of a sensor's proportions."""
DAMPING = 0.8
"""Part of Newton's step that is taken, so that the search also converges where the depth changes quickly."""


@pytree
@dataclass(frozen=True)
class Scenes:
    """Scenes, each with two views of the same photo.

    Attributes:
        views: Gray values in [0, 1]; 0 where a view shows nothing of the photo. Where something hides what lies behind
            it, the search for the place on the canvas may fail; such pixels show a place near by.
        places: For each canvas pixel, the position (x, y) in each view, in pixels.
        canvas_xy: For each pixel of a view, the position (x, y) on the canvas that it shows, in pixels.
        known: False where a view shows nothing of the photo, or where the search failed.
        cameras: Intrinsic matrices of the views.
        rotations: Rotation from the first camera to the second.
        translations: Translation from the first camera to the second: x_b = rotation x_a + translation. The middle of
            the scene is about 1 in front of the cameras.
        flat: Whether the scene is a plane.
    """

    views: Float[Array, "n 2 h w"]
    places: Float[Array, "n 2 hc wc 2"]
    canvas_xy: Float[Array, "n 2 h w 2"]
    known: Bool[Array, "n 2 h w"]
    cameras: Float[Array, "n 2 3 3"]
    rotations: Float[Array, "n 3 3"]
    translations: Float[Array, "n 3"]
    flat: Bool[Array, " n"]


@partial(jax.jit, static_argnames=("batch", "shape"))
def sample_scenes(
    key: PRNGKey,
    images: UInt8[Array, "m s s *c"],
    sizes: Int[Array, "m 2"],
    *,
    batch: int,
    shape: tuple[int, int] = (320, 416),
    flat: float | Float[Array, ""] = 0.5,
    calm: float | Float[Array, ""] = 0.0,
    sharpness: float | Float[Array, ""] = 1.0,
) -> Scenes:
    """Scenes of photos drawn at random, without changes of light.

    Args:
        key: Source of randomness.
        images: Photos, each in the top-left corner of its array: gray, or red, green and blue in a last axis. Colours
            become gray in proportions that are drawn for each view: those of luma, times e to a normal number.
        sizes: (height, width) of each photo.
        batch: Number of scenes.
        shape: (height, width) of a view, in pixels.
        flat: Fraction of scenes that are a plane. Their cameras turn and zoom more.
        calm: Fraction of scenes whose cameras differ only a quarter as much.
        sharpness: Most pixels of a photo to a pixel of the canvas, along x and y.
    """

    def scene(key: Array) -> dict[str, Array]:
        keys = jax.random.split(key, 4)
        index = jax.random.randint(keys[0], (), 0, images.shape[0])
        is_flat = jax.random.uniform(keys[1]) < flat
        is_calm = jax.random.uniform(jax.random.fold_in(key, 2)) < calm
        canvas = int(shape[0] * CANVAS), int(shape[1] * CANVAS)
        depth, focal = _depth(keys[2], canvas, is_flat)
        photo_xy = _on_photo(keys[3], canvas, sizes[index], sharpness)
        points = _points(depth, focal * shape[1])
        cameras, rotations, translations = _cameras(jax.random.fold_in(key, 1), shape, is_flat, is_calm)
        places = jax.vmap(_seen_at, in_axes=(None, 0, 0, 0))(points, cameras, rotations, translations)
        canvas_xy, known = jax.vmap(partial(_invert, shape=shape))(places)
        photo = images[index].reshape(*images.shape[1:3], -1).astype(jnp.float32) / 255
        colours = sample_bilinear(photo, sample_bilinear(photo_xy, canvas_xy.reshape(-1, 2))).reshape(2, *shape, -1)
        grays = colours[..., 0] if images.ndim == 3 else _gray(jax.random.fold_in(key, 3), colours)
        between = exact_product(rotations[1], rotations[0].T)
        return dict(
            views=jnp.where(inside(canvas_xy, canvas), grays, 0),
            places=places,
            canvas_xy=canvas_xy,
            known=known,
            cameras=cameras,
            rotations=between,
            translations=translations[1] - exact_product(between, translations[0]),
            flat=is_flat,
        )

    # One after the other: the memory for one scene is several times its pixels.
    return Scenes(**lax.map(scene, jax.random.split(key, batch)))


@jax.jit
def transfer(
    scenes: Scenes, keypoints_xy: Float[Array, "n 2 k 2"]
) -> tuple[Float[Array, "n 2 k 2"], Bool[Array, "n 2 k"]]:
    """Positions of the keypoints of each view in the other view, in pixels, and whether they are known.

    A position may lie outside the other view. It is unknown if the keypoint is not on the photo, or is hidden in the
    other view by something nearer.
    """

    def of_view(here: int, places: Array, canvas_xy: Array, known: Array, points: Array) -> tuple[Array, Array]:
        there = 1 - here
        on_canvas, found = _refined(places[here], canvas_xy[here], known[here], points)
        positions = sample_bilinear(places[there], on_canvas)
        within = inside(positions, known.shape[1:])
        # What the other view shows there must be the same place of the canvas.
        again, seen = _refined(places[there], canvas_xy[there], known[there], positions)
        visible = seen & (jnp.max(jnp.abs(again - on_canvas), axis=-1) < 1)
        return positions, found & (visible | ~within)

    def of_scene(scene: tuple[Array, Array, Array], points: Array) -> tuple[Array, Array]:
        both = [of_view(here, *scene, points[here]) for here in (0, 1)]
        positions, known = zip(*both, strict=True)
        return jnp.stack(positions), jnp.stack(known)

    return jax.vmap(of_scene)((scenes.places, scenes.canvas_xy, scenes.known), keypoints_xy)


def _gray(key: Array, colours: Array) -> Array:
    """Views [2,h,w] as sensors see them that weigh red, green and blue [2,h,w,3] differently."""
    weights = jnp.array([LUMA]) * jnp.exp(COLOUR_SPREAD * jax.random.normal(key, (2, 3)))
    weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    return jnp.sum(colours * weights[:, None, None], axis=-1)


def _on_photo(key: Array, canvas: tuple[int, int], size: Array, sharpness: float | Array) -> Array:
    """For each canvas pixel, its position on the photo [hc,wc,2]: a crop, by default of at least half the photo."""
    height, width = canvas
    zoom_key, place_key = jax.random.split(key)
    extent = jnp.array([width - 1, height - 1], jnp.float32)
    last = (size[::-1] - 1).astype(jnp.float32)
    # No smoothing is done, so a photo is hardly reduced.
    zoom = jnp.minimum(jnp.min(last / extent) * jax.random.uniform(zoom_key, minval=0.7, maxval=1.0), sharpness)
    corner = jax.random.uniform(place_key, (2,)) * (last - extent * zoom)
    return corner[None, None] + zoom * pixel_grid(canvas)


def _depth(key: Array, canvas: tuple[int, int], is_flat: Array) -> tuple[Array, Array]:
    """The depth of each canvas pixel [hc,wc], about 1, and the focal length of the canvas over the width of a view.

    A plane of any tilt; on it a ground that comes nearer towards the bottom, smooth hills, and objects in front of it
    with soft edges.
    """
    height, width = canvas
    keys = jax.random.split(key, 8)
    x, y = jnp.moveaxis(pixel_grid(canvas), -1, 0)
    x, y = x / width - 0.5, y / height - 0.5
    # A plane is linear in 1 / depth.
    tilt = jax.random.normal(keys[0], (2,)) * jnp.array([0.35, 0.5])
    inverse = 1 + tilt[0] * x + tilt[1] * y
    slope = jnp.where(jax.random.uniform(keys[1]) < 0.35, jax.random.uniform(keys[2], minval=0.5, maxval=2.5), 0)
    relief = ~is_flat
    inverse = inverse * (1 + relief * slope * jnp.maximum(y + 0.1, 0))
    hills = jnp.zeros(canvas)
    for cells, largest, part in ((4, 0.12, keys[3]), (9, 0.05, keys[4])):
        amplitude, values = jax.random.split(part)
        coarse = jax.random.normal(values, (cells, cells)) * jax.random.uniform(amplitude, maxval=largest)
        hills = hills + jax.image.resize(coarse, canvas, "cubic")
    depth = jnp.exp(relief * hills) / jnp.clip(inverse, 0.25, 4)
    count = relief * jax.random.randint(keys[5], (), 0, OBJECTS + 1)

    def put(index: Array, depth: Array) -> Array:
        part = jax.random.split(jax.random.fold_in(keys[6], index), 5)
        center = jax.random.uniform(part[0], (2,)) - 0.5
        half = jax.random.uniform(part[1], (2,), minval=0.045, maxval=0.25)  # Fractions of the canvas's width.
        power = jnp.array([2.0, 4.0, 8.0])[jax.random.randint(part[2], (), 0, 3)]
        edge_px = jax.random.uniform(part[3], minval=3.0, maxval=8.0)
        nearer = jax.random.uniform(part[4], minval=0.5, maxval=0.95)
        distance = jnp.abs(x - center[0]) / half[0], jnp.abs(y - center[1]) * (height / width) / half[1]
        radius = (distance[0] ** power + distance[1] ** power) ** (1 / power)
        cover = jax.nn.sigmoid((1 - radius) * jnp.min(half) * width / edge_px)
        return jnp.where(index < count, depth * (1 - cover * (1 - nearer)), depth)

    depth = lax.fori_loop(0, OBJECTS, put, depth)
    return depth, jax.random.uniform(keys[7], minval=0.7, maxval=1.5)


def _cameras(key: Array, shape: tuple[int, int], is_flat: Array, is_calm: Array) -> tuple[Array, Array, Array]:
    """Two cameras: intrinsic matrices, rotations and translations from the canvas's coordinates."""
    height, width = shape

    def drawn(key: Array) -> tuple[Array, Array, Array, Array]:
        """The logarithm of the focal length, the tilt about x and y, the turn about the axis, and the shift."""
        keys = jax.random.split(key, 6)
        zoom = jnp.where(
            is_flat, jax.random.uniform(keys[0], minval=-0.43, maxval=0.4), 0.18 * jax.random.normal(keys[0])
        )
        focal = jnp.log(width * jax.random.uniform(keys[1], minval=0.75, maxval=1.5)) + zoom
        tilt = jax.random.normal(keys[2], (2,)) * jnp.array([0.08, 0.10]) * jnp.where(is_flat, 1.5, 1.0)
        # One camera in ten may be turned by any angle about its axis.
        wide = jnp.where(jax.random.uniform(keys[3]) < 0.1, 1.0, jnp.where(is_flat, 0.3, 0.15))
        shift = jax.random.normal(keys[5], (3,)) * jnp.array([0.12, 0.06, 0.10])
        return focal, tilt, wide * jax.random.normal(keys[4]), shift

    def camera(focal: Array, tilt: Array, turn: Array, shift: Array) -> tuple[Array, Array, Array]:
        rotation = _turned(tilt[0], tilt[1], turn)
        # The camera turns about the middle of the scene, (0, 0, 1).
        middle = jnp.array([0.0, 0.0, 1.0])
        translation = middle + shift - exact_product(rotation, middle)
        intrinsic = jnp.array([[0, 0, (width - 1) / 2], [0, 0, (height - 1) / 2], [0, 0, 1]])
        return intrinsic.at[0, 0].set(jnp.exp(focal)).at[1, 1].set(jnp.exp(focal)), rotation, translation

    first, second = (drawn(part) for part in jax.random.split(key))
    near = jax.tree.map(lambda a, b: jnp.where(is_calm, a + CALM * (b - a), b), first, second)
    return jax.tree.map(lambda *both: jnp.stack(both), camera(*first), camera(*near))


def _turned(about_x: Array, about_y: Array, about_z: Array) -> Array:
    """The rotation by three angles, in radians, about x first, then y, then z."""
    zero, one = jnp.zeros(()), jnp.ones(())

    def matrix(*rows: list[Array]) -> Array:
        return jnp.stack([jnp.stack(row) for row in rows])

    (cx, cy, cz), (sx, sy, sz) = ([f(angle) for angle in (about_x, about_y, about_z)] for f in (jnp.cos, jnp.sin))
    x = matrix([one, zero, zero], [zero, cx, -sx], [zero, sx, cx])
    y = matrix([cy, zero, sy], [zero, one, zero], [-sy, zero, cy])
    z = matrix([cz, -sz, zero], [sz, cz, zero], [zero, zero, one])
    return exact_product(z, exact_product(y, x))


def _points(depth: Array, focal_px: Array) -> Array:
    """The canvas pixels as points in space [hc,wc,3]."""
    height, width = depth.shape
    rays = (pixel_grid(depth.shape) - jnp.array([[[(width - 1) / 2, (height - 1) / 2]]])) / focal_px
    return jnp.concatenate([rays * depth[..., None], depth[..., None]], axis=-1)


def _seen_at(points: Array, intrinsic: Array, rotation: Array, translation: Array) -> Array:
    """The positions of points in space [hc,wc,3] in the view of a camera, in pixels."""
    seen = exact_product(points, rotation.T) + translation[None, None]
    depth = jnp.maximum(seen[..., 2:], 0.1)
    return seen[..., :2] / depth * intrinsic[0, 0] + intrinsic[None, None, :2, 2]


def _invert(places: Array, *, shape: tuple[int, int], coarse: int = 4) -> tuple[Array, Array]:
    """For each pixel of a view, the canvas position seen there [h,w,2], and whether it is known.

    It is searched from the middle of the canvas on a coarse grid, and from there for all pixels.
    """
    grid = pixel_grid(shape)
    seeds = grid[::coarse, ::coarse]
    height, width = places.shape[:2]
    middle = jnp.array([[[(width - 1) / 2, (height - 1) / 2]]], jnp.float32)
    start = middle + exact_product(seeds - jnp.mean(places, axis=(0, 1), keepdims=True), _inverse_slope(places).T)
    rough = _search(places, start.reshape(-1, 2), seeds.reshape(-1, 2), steps=20).reshape(seeds.shape)
    # Pixel x of the view is x / coarse on the coarse grid.
    fine = sample_bilinear(rough, grid.reshape(-1, 2) / coarse)
    found = _search(places, fine, grid.reshape(-1, 2), steps=6)
    return found.reshape(*shape, 2), _is_right(places, found, grid.reshape(-1, 2)).reshape(shape)


def _refined(places: Array, canvas_xy: Array, known: Array, points_xy: Array) -> tuple[Array, Array]:
    """The canvas positions [k,2] seen at points of a view, found from those of the nearest pixels; which are known."""
    height, width = known.shape
    x, y = jnp.round(points_xy).astype(jnp.int32).T
    nearest = jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)
    start, sound = canvas_xy[nearest], known[nearest]
    found = _search(places, start, points_xy, steps=8)
    return found, sound & _is_right(places, found, points_xy)


def _search(places: Array, start: Array, wanted: Array, *, steps: int) -> Array:
    """Canvas positions [n,2] that are seen at the wanted positions, by damped Newton steps with one slope for all."""
    slope = _inverse_slope(places)

    def step(_: int | Array, here: Array) -> Array:
        return here - DAMPING * exact_product(sample_bilinear(places, here) - wanted, slope.T)

    return lax.fori_loop(0, steps, step, start)


def _is_right(places: Array, found: Array, wanted: Array) -> Array:
    error = jnp.max(jnp.abs(sample_bilinear(places, found) - wanted), axis=-1)
    return inside(found, places.shape[:2]) & (error < TOLERANCE_PX)


def inside(points_xy: Float[Array, "*n 2"], shape: tuple[int, ...], *, margin_px: int = 0) -> Bool[Array, "*n"]:
    """Whether points lie between the centres of the outermost pixels of a view, at least `margin_px` away from them."""
    x, y = points_xy[..., 0], points_xy[..., 1]
    end_x, end_y = shape[1] - 1 - margin_px, shape[0] - 1 - margin_px
    return (x >= margin_px) & (x <= end_x) & (y >= margin_px) & (y <= end_y)


def _inverse_slope(places: Array) -> Array:
    """The inverse of the mean derivative [2,2] of view positions by canvas positions, between halves of the canvas."""
    y, x = places.shape[0] // 2, places.shape[1] // 2
    along_x = (jnp.mean(places[:, -x:], axis=(0, 1)) - jnp.mean(places[:, :x], axis=(0, 1))) / (places.shape[1] - x)
    along_y = (jnp.mean(places[-y:], axis=(0, 1)) - jnp.mean(places[:y], axis=(0, 1))) / (places.shape[0] - y)
    slope = jnp.stack([along_x, along_y], axis=1)
    determinant = slope[0, 0] * slope[1, 1] - slope[0, 1] * slope[1, 0]
    adjugate = jnp.array([[slope[1, 1], -slope[0, 1]], [-slope[1, 0], slope[0, 0]]])
    return adjugate / jnp.where(jnp.abs(determinant) < 1e-6, 1e-6, determinant)
