"""Anti-aliased images of scenes of primitives, by signed distances. One program draws every kind of scene."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from superpoint_jax.geometry import exact_product


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Scene:
    """The content of one image: a background, a lattice of cells over it, and layers of polygons and ellipses on top.

    Positions are (x, y) in pixels, pixel centres at integers. Every scene has the same capacity, so that one program
    draws any of them; what a scene does not use is inactive.

    Attributes:
        level: Mean grey level of the background, which varies around it by at most `amplitude`.
        amplitude: See `level`.
        coarse, fine: Control values of the smooth variation of the background, mixed by `mixing` in [0, 1].
        mixing: See `coarse`.
        u_lines, v_lines: Lattice lines as (a, b, c): a x + b y + c is the signed distance to the line in pixels. Two
            equal neighbours enclose no cell.
        u_shades, v_shades: The grey level of the cell between lines k, k+1 and l, l+1 is u_shades[k] + v_shades[l] +
            (-1)^(k+l) chess.
        chess: See `u_shades`.
        polygons: Simple polygons, one per layer, later layers over earlier ones; vertices may repeat.
        ellipses: Centre x, y, semi-axes, and angle of the first axis in radians; drawn where `is_ellipse`.
        is_ellipse, active, shades: Whether the layer is an ellipse, whether it is drawn, and its grey level.
        partition: Whether the layers meet along common edges, so that their coverages add up (the faces of a cube).
        softness_px: Width of the ramp at an edge.
        noise: Standard deviation of Gaussian noise on the image.
        corners_xy: Candidate corners, visible or not.
        corners_mask: False for rows that are unused.
        corners_layers: The lower and the upper layer that make the corner; any other layer above the lower may hide it.
    """

    level: Float[Array, "*b"]
    amplitude: Float[Array, "*b"]
    coarse: Float[Array, "*b _g _h"]
    fine: Float[Array, "*b _i _j"]
    mixing: Float[Array, "*b"]
    u_lines: Float[Array, "*b lines 3"]
    v_lines: Float[Array, "*b lines 3"]
    u_shades: Float[Array, "*b lines-1"]
    v_shades: Float[Array, "*b lines-1"]
    chess: Float[Array, "*b"]
    polygons: Float[Array, "*b layers vertices 2"]
    ellipses: Float[Array, "*b layers 5"]
    is_ellipse: Bool[Array, "*b layers"]
    active: Bool[Array, "*b layers"]
    shades: Float[Array, "*b layers"]
    partition: Bool[Array, "*b"]
    softness_px: Float[Array, "*b"]
    noise: Float[Array, "*b"]
    corners_xy: Float[Array, "*b n 2"]
    corners_mask: Bool[Array, "*b n"]
    corners_layers: Int[Array, "*b n 2"]


def draw(scene: Scene, noise: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """The image of one scene, as grey levels in [0, 1]; `noise` is standard normal and is scaled by `scene.noise`."""
    shape = (noise.shape[0], noise.shape[1])
    y, x = (lax.broadcasted_iota(jnp.float32, shape, axis) for axis in (0, 1))
    image = _lattice_over(_background(scene, shape), scene, x, y)

    def paint(canvas: Array, layer: tuple[Array, ...]) -> tuple[Array, None]:
        polygon, ellipse, is_ellipse, active, shade = layer
        distance = jnp.where(is_ellipse, ellipse_distance(x, y, ellipse), polygon_distance(x, y, polygon))
        covered = jnp.where(active, _ramp(-distance, scene.softness_px), 0.0)
        # If two faces were painted over each other, the background would show through along their common edge.
        return canvas + covered * (shade - jnp.where(scene.partition, image, canvas)), None

    layers = (scene.polygons, scene.ellipses, scene.is_ellipse, scene.active, scene.shades)
    canvas, _ = lax.scan(paint, image, layers)
    return jnp.clip(canvas + scene.noise * noise, 0.0, 1.0)


def polygon_distance(x: Float[Array, "*p"], y: Float[Array, "*p"], polygon: Float[Array, "v 2"]) -> Float[Array, "*p"]:
    """Signed distance to a simple polygon in pixels, negative inside.

    The distance is that to the nearest edge. The sign is the parity of the number of edges that a ray to the right
    crosses. Vertices may repeat.
    """
    squared = jnp.full(x.shape, jnp.inf, jnp.float32)
    inside = jnp.zeros(x.shape, bool)
    for i in range(polygon.shape[0]):
        (ax, ay), (bx, by) = polygon[i - 1], polygon[i]
        ex, ey = bx - ax, by - ay
        dx, dy = x - ax, y - ay
        along = jnp.clip((dx * ex + dy * ey) * (1 / jnp.maximum(ex * ex + ey * ey, 1e-12)), 0.0, 1.0)
        squared = jnp.minimum(squared, (dx - along * ex) ** 2 + (dy - along * ey) ** 2)
        slope = ex / jnp.where(ey == 0, 1.0, ey)
        inside ^= ((ay > y) != (by > y)) & (dx < slope * dy)
    return jnp.where(inside, -1.0, 1.0) * jnp.sqrt(squared)


def ellipse_distance(x: Float[Array, "*p"], y: Float[Array, "*p"], ellipse: Float[Array, " 5"]) -> Float[Array, "*p"]:
    """Signed distance to an ellipse in pixels, negative inside; exact to first order near the outline."""
    cx, cy, rx, ry, angle = ellipse
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    u = (cos * (x - cx) + sin * (y - cy)) / rx
    v = (cos * (y - cy) - sin * (x - cx)) / ry
    radius = jnp.sqrt(u**2 + v**2)
    return radius * (radius - 1) / jnp.maximum(jnp.sqrt((u / rx) ** 2 + (v / ry) ** 2), 1e-6)


def _ramp(distance: Array, softness_px: Array) -> Array:
    """The fraction of a pixel on the positive side of an edge at this signed distance."""
    return jnp.clip(distance / softness_px + 0.5, 0.0, 1.0)


def _lattice_over(background: Array, scene: Scene, x: Array, y: Array) -> Array:
    """The background with the lattice over it.

    Grey levels are sums of products of a function of k and a function of l, so two separate sums give all cells.
    """
    u_covered, u_signed, u_shade = _interval_sums(scene.u_lines, scene.u_shades, scene.softness_px, x, y)
    v_covered, v_signed, v_shade = _interval_sums(scene.v_lines, scene.v_shades, scene.softness_px, x, y)
    shade = u_shade * v_covered + u_covered * v_shade + scene.chess * u_signed * v_signed
    return background * (1 - u_covered * v_covered) + shade


def _interval_sums(lines: Array, shades: Array, softness_px: Array, x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Three sums over the intervals k at each pixel: of coverage, of (-1)^k coverage, and of shade times coverage."""
    beyond = [_ramp(a * x + b * y + c, softness_px) for a, b, c in lines]
    # Beyond the vanishing point, the lines are in reverse order and the differences would be negative.
    weights = [jnp.maximum(beyond[k] - beyond[k + 1], 0.0) for k in range(len(beyond) - 1)]
    covered, signed, shade = (jnp.zeros_like(x) for _ in range(3))
    for k, weight in enumerate(weights):
        covered, signed, shade = covered + weight, signed + (-1) ** k * weight, shade + shades[k] * weight
    return covered, signed, shade


def _background(scene: Scene, shape: tuple[int, int]) -> Array:
    """Smooth blobs whose grey levels range exactly from level - amplitude to level + amplitude."""
    coarse, fine = (
        exact_product(
            exact_product(_spline_weights(shape[0], knots.shape[0]), knots), _spline_weights(shape[1], knots.shape[1]).T
        )
        for knots in (scene.coarse, scene.fine)
    )
    blobs = coarse + scene.mixing * (fine - coarse)
    low, high = jnp.min(blobs), jnp.max(blobs)
    return scene.level + scene.amplitude * (2 * (blobs - low) / jnp.maximum(high - low, 1e-6) - 1)


def _spline_weights(pixels: int, knots: int) -> Float[Array, "pixels knots"]:
    """Weights [pixels, knots] of a cubic B-spline whose knots cover the pixels."""
    position = np.arange(pixels) / (pixels - 1) * (knots - 3) + 1
    distance = np.abs(position[:, None] - np.arange(knots))
    near, far = 2 / 3 - distance**2 + distance**3 / 2, (2 - distance).clip(0) ** 3 / 6
    return jnp.asarray(np.where(distance < 1, near, far), jnp.float32)
