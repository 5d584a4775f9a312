"""Pairs of views for a network's second half: what its first half makes of them, and where each pixel is seen again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, Int16, UInt8

from superpoint_jax.config import CELL_PX
from superpoint_jax.detection import pixels_to_cells
from superpoint_jax.features import AnyArray, pytree
from superpoint_jax.geometry import pixel_grid
from superpoint_jax.training.parts import BATCH, Network, Scenery, lit_views, make_parts
from superpoint_jax.training.scenes import inside, transfer

FIRST_BLOCKS = 2
"""Number of blocks of the encoder in the first half, which is not trained, so that its output can be stored."""
STEPS_PER_PX = 32
"""Places are stored in steps of 1/32 pixel, so that those of views of up to 1024 pixels fit into 16 bits."""


@pytree
@dataclass(frozen=True)
class SharedViews:
    """Pairs of views, of whole cells; along the second axis, a comes before b. A pair of 320x416 takes 3.5 MB.

    Attributes:
        features: Output of the encoder's first `FIRST_BLOCKS` blocks, in half precision.
        places: The place (x, y) of each pixel in the other view, in steps of 1/32 pixel.
        shared: Whether that place is known, and within a whole cell of the other view.
        whole: Whether all pixels of a cell are known: they show the photo, and nothing of what is around it.
    """

    features: Float[AnyArray, "*n 2 h4 w4 c"]
    places: Int16[AnyArray, "*n 2 h w 2"]
    shared: Bool[AnyArray, "*n 2 h w"]
    whole: Bool[AnyArray, "*n 2 hc wc"]

    def __len__(self) -> int:
        return len(self.features)


def make_shared_views(data: Path, folder: Path, *, scenery: Scenery, extractor: str, seed: int = 0) -> SharedViews:
    """The pairs of a folder of photos, which are also kept in files of `folder`; see `make_parts`.

    Raises:
        ValueError: The views have more than 1024 pixels in height or width; or as `make_parts`.
    """
    if max(scenery.shape) > (largest := 2**15 // STEPS_PER_PX):
        raise ValueError(f"shape={scenery.shape}; views of up to {largest} pixels are possible here")

    def make(key: Array, images: Array, sizes: Array, network: Network) -> SharedViews:
        return jax.tree.map(np.asarray, _views_of(key, images, sizes, network, scenery=scenery))

    # Only XLA gives the output of blocks, and computes nothing that comes after them.
    options: Any = dict(scenery=scenery, extractor=extractor, seed=seed, engine="xla")
    return make_parts(SharedViews, make, data, folder, **options)


@partial(jax.jit, static_argnames="scenery")
def _views_of(
    key: Array, images: UInt8[Array, "m s s *c"], sizes: Int[Array, "m 2"], model: Network, *, scenery: Scenery
) -> SharedViews:
    scenes, views = lit_views(key, images, sizes, scenery)
    dense = model(views, dtype=scenery.extractor_dtype, output_hidden_states=True)
    assert dense.hidden_states is not None
    height, width = (side // CELL_PX * CELL_PX for side in scenery.shape)
    grid = pixel_grid((height, width)).reshape(-1, 2)
    places, known = transfer(scenes, jnp.broadcast_to(grid, (BATCH, 2, *grid.shape)))
    steps = jnp.clip(jnp.round(places * STEPS_PER_PX), -(2**15), 2**15 - 1).astype(jnp.int16)

    def by_pair(leaf: Array) -> Array:
        return leaf.reshape(BATCH, 2, *leaf.shape[1:])

    whole = by_pair(pixels_to_cells(scenes.known[..., :height, :width].reshape(-1, height, width)).all(axis=-1))
    shared = known & jax.vmap(jax.vmap(in_whole_cells))(places, whole[:, ::-1])
    return SharedViews(
        features=by_pair(dense.hidden_states[FIRST_BLOCKS - 1]).astype(jnp.float16),
        places=steps.reshape(BATCH, 2, height, width, 2),
        shared=shared.reshape(BATCH, 2, height, width),
        whole=whole,
    )


def in_whole_cells(places_xy: Float[Array, "n 2"], whole: Bool[Array, "hc wc"]) -> Bool[Array, " n"]:
    """Whether places of a view lie within it, and their nearest pixels in a whole cell."""
    rows, columns = whole.shape
    last = jnp.array([[columns, rows]]) * CELL_PX - 1
    x, y = jnp.moveaxis(jnp.clip(jnp.round(places_xy).astype(jnp.int32), 0, last) // CELL_PX, -1, 0)
    return inside(places_xy, (rows * CELL_PX, columns * CELL_PX)) & whole[y, x]
