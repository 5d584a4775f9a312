"""Synthetic shapes with exactly known corners, drawn on the accelerator, from which a detector learns corners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from superpoint_jax.geometry import PRNGKey
from superpoint_jax.training import synthetic_scenes as scenes
from superpoint_jax.training.synthetic_drawing import Scene, draw, ellipse_distance, polygon_distance

_SAMPLERS = {
    "lines": scenes.lines_scene,
    "polygon": scenes.polygon_scene,
    "polygons": scenes.polygons_scene,
    "ellipses": scenes.ellipses_scene,
    "star": scenes.star_scene,
    "checkerboard": scenes.checkerboard_scene,
    "stripes": scenes.stripes_scene,
    "cube": scenes.cube_scene,
    "noise": scenes.noise_scene,
}
KINDS = tuple(_SAMPLERS)
"""Kinds of images; `SyntheticBatch.kind` is an index into this. Ellipses and noise have no corners."""

MIN_DISTANCE_PX = 3.0
"""Smallest distance between two corners; among corners nearer to each other, only the first of the scene is kept."""

MIN_BORDER_PX = 2.0
"""Smallest distance of a corner from the border of the image, so that the shape is visible around it."""

_MIN_SIDE_PX = 32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SyntheticBatch:
    """Images of synthetic shapes and their corners.

    Attributes:
        images: Grey levels in [0, 1].
        corners_xy: (x, y) in pixels, exact to float32, pixel centres at integers; valid rows first, the others 0.
        corners_mask: False for rows that are padding.
        kind: Index into `KINDS`.
    """

    images: Float[Array, "b h w 1"]
    corners_xy: Float[Array, "b n 2"]
    corners_mask: Bool[Array, "b n"]
    kind: Int[Array, " b"]


def render_shapes(key: PRNGKey, *, batch: int, shape: tuple[int, int], kinds: Sequence[str] = KINDS) -> SyntheticBatch:
    """Random images of simple shapes with their corners; the kind of each image is drawn from `kinds`.

    One program draws all kinds; it is compiled once per batch size and image shape. A corner is labelled if it is
    visible: in the image, not hidden by a later shape, and different in grey level from what is under it by at least
    `synthetic_scenes.MIN_CONTRAST` (before edges are softened). For photometric changes see
    `superpoint_jax.training.augmentation`.

    Args:
        key: Source of randomness.
        batch: Number of images.
        shape: (height, width), at least 32 px each. Shapes scale with the shorter side.
        kinds: Kinds to choose from.

    Raises:
        ValueError: An unknown kind, or an image that is too small.

    Source: paper, section 4 ("Synthetic Shapes"), with analytic drawing instead of a rasteriser.
    """
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise ValueError(f"kinds {unknown} are not known; choose from {', '.join(KINDS)}")
    if not kinds:
        raise ValueError(f"kinds is empty; choose at least one of {', '.join(KINDS)}")
    if min(shape) < _MIN_SIDE_PX:
        raise ValueError(f"shape={shape} is too small for shapes with distinct corners: {_MIN_SIDE_PX} px are needed")
    chances = np.array([kind in kinds for kind in KINDS], np.float32) / len(set(kinds))
    return _render(key, chances, batch=batch, shape=tuple(shape))


@partial(jax.jit, static_argnames=("batch", "shape"))
def _render(
    key: PRNGKey, chances: Float[Array, " k"] | Float[np.ndarray, " k"], *, batch: int, shape: tuple[int, int]
) -> SyntheticBatch:
    kind_key, scene_key, noise_key = jax.random.split(key, 3)
    kind = jax.random.choice(kind_key, len(KINDS), (batch,), p=chances)
    numbers = jax.random.uniform(scene_key, (batch, scenes.numbers_needed(shape)), jnp.float32)
    # Without the barriers, XLA would compile the generator into each use of the numbers: minutes instead of seconds.
    batch_scene = jax.vmap(partial(sample_scene, shape=shape))(lax.optimization_barrier(numbers), kind)
    batch_scene = lax.optimization_barrier(batch_scene)
    corners_xy, corners_mask = jax.vmap(partial(visible_corners, shape=shape))(batch_scene)
    images = jax.vmap(draw)(batch_scene, jax.random.normal(noise_key, (batch, *shape), jnp.float32))
    return SyntheticBatch(images=images[..., None], corners_xy=corners_xy, corners_mask=corners_mask, kind=kind)


def sample_scene(numbers: Float[Array, " n"], kind: Int[Array, ""], *, shape: tuple[int, int]) -> Scene:
    """The scene of a kind (an index into `KINDS`) given by uniform random `numbers` in [0, 1).

    `synthetic_scenes.numbers_needed(shape)` numbers are needed; `shape` is (height, width) of the image.
    """
    draws = scenes.Draws(numbers)
    empty = scenes.empty_scene(draws, shape)

    # Every kind is computed and then one selected; under `vmap`, `lax.switch` would do the same.
    every = [sampler(scenes.Draws(draws.rest()), shape, empty) for sampler in _SAMPLERS.values()]
    return jax.tree.map(lambda *leaves: lax.select_n(kind, *leaves), *every)


def visible_corners(scene: Scene, *, shape: tuple[int, int]) -> tuple[Float[Array, "n 2"], Bool[Array, " n"]]:
    """The visible corners of a scene, first in the array, and their mask.

    Left out are corners outside the image or within `MIN_BORDER_PX` of its border, corners that another layer covers or
    touches (within a pixel), and corners nearer than `MIN_DISTANCE_PX` to one before them.
    """
    x, y = scene.corners_xy[:, 0], scene.corners_xy[:, 1]
    border = jnp.minimum(jnp.minimum(x, shape[1] - 1 - x), jnp.minimum(y, shape[0] - 1 - y))
    visible = scene.corners_mask & (border >= MIN_BORDER_PX)
    distance = jnp.where(
        scene.is_ellipse[:, None],
        jax.vmap(ellipse_distance, in_axes=(None, None, 0))(x, y, scene.ellipses),
        jax.vmap(polygon_distance, in_axes=(None, None, 0))(x, y, scene.polygons),
    )
    layer = jnp.arange(distance.shape[0])[:, None]
    lower, upper = scene.corners_layers[None, :, 0], scene.corners_layers[None, :, 1]
    covers = scene.active[:, None] & (layer > lower) & (layer != upper) & (distance < 1.0)
    visible &= ~jnp.any(covers, axis=0)

    apart = jnp.sqrt(jnp.sum((scene.corners_xy[:, None] - scene.corners_xy[None]) ** 2, axis=-1))
    before = jnp.tri(len(x), k=-1, dtype=bool)
    visible &= ~jnp.any((apart < MIN_DISTANCE_PX) & before & visible[None], axis=1)

    order = jnp.argsort(~visible, stable=True)
    return jnp.where(visible[:, None], scene.corners_xy, 0.0)[order], visible[order]
