"""Pairs of views for the detector's head: the output of the encoder, and where each pixel is seen again."""

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
from superpoint_jax.description import sample_descriptors
from superpoint_jax.detection import pixels_to_cells
from superpoint_jax.features import AnyArray, pytree
from superpoint_jax.geometry import pixel_grid
from superpoint_jax.training.parts import BATCH, Network, Scenery, lit_views, make_parts
from superpoint_jax.training.scenes import transfer

STEPS_PER_PX = 32
"""Places are stored in steps of 1/32 pixel, so that those of views of up to 1024 pixels fit into 16 bits."""
DISTINCT_PX = 12.0
"""A descriptor at least this far from the right place must not be more similar than the one there."""
HIDDEN = -2.0
"""The margin of a cell that the other view does not show; other margins are between -2 and 2."""


@pytree
@dataclass(frozen=True)
class SharedViews:
    """Pairs of views, of whole cells; along the second axis, a comes before b. A pair of 320x416 takes 2.4 MB.

    Attributes:
        encoded: Output of the encoder, in half precision.
        places: The place (x, y) of each pixel in the other view, in steps of 1/32 pixel.
        shared: Whether that place is known, and within the other view.
        whole: Whether all pixels of a cell are known: they show the photo, and nothing of what is around it.
        margins: Similarity of the descriptor of each cell with that at its place in the other view, minus the largest
            similarity with a cell more than `DISTINCT_PX` away; `HIDDEN` where the place of its centre is not shared.
    """

    encoded: Float[AnyArray, "*n 2 hc wc c"]
    places: Int16[AnyArray, "*n 2 h w 2"]
    shared: Bool[AnyArray, "*n 2 h w"]
    whole: Bool[AnyArray, "*n 2 hc wc"]
    margins: Float[AnyArray, "*n 2 hc wc"]

    def __len__(self) -> int:
        return len(self.encoded)


def make_shared_views(data: Path, folder: Path, *, scenery: Scenery, extractor: str, seed: int = 0) -> SharedViews:
    """The pairs of a folder of photos, which are also kept in files of `folder`; see `make_parts`.

    Raises:
        ValueError: The views have more than 1024 pixels in height or width; or as `make_parts`.
    """
    if max(scenery.shape) > (largest := 2**15 // STEPS_PER_PX):
        raise ValueError(f"shape={scenery.shape}; views of up to {largest} pixels are possible here")

    def make(key: Array, images: Array, sizes: Array, network: Network) -> SharedViews:
        return jax.tree.map(np.asarray, _views_of(key, images, sizes, network, scenery=scenery))

    # Only XLA gives the output of the encoder.
    options: Any = dict(scenery=scenery, extractor=extractor, seed=seed, engine="xla")
    return make_parts(SharedViews, make, data, folder, **options)


@partial(jax.jit, static_argnames="scenery")
def _views_of(
    key: Array, images: UInt8[Array, "m s s"], sizes: Int[Array, "m 2"], model: Network, *, scenery: Scenery
) -> SharedViews:
    scenes, views = lit_views(key, images, sizes, scenery)
    dense = model(views, dtype=scenery.extractor_dtype, output_hidden_states=True)
    assert dense.hidden_states is not None
    rows, columns = scenery.shape[0] // CELL_PX, scenery.shape[1] // CELL_PX
    height, width = rows * CELL_PX, columns * CELL_PX
    grid = pixel_grid((height, width)).reshape(-1, 2)
    places, known = transfer(scenes, jnp.broadcast_to(grid, (BATCH, 2, *grid.shape)))
    shared = known & jnp.all((places >= 0) & (places <= jnp.array([width - 1, height - 1])[None, None, None]), axis=-1)
    places, shared = places.reshape(BATCH, 2, height, width, 2), shared.reshape(BATCH, 2, height, width)
    steps = jnp.clip(jnp.round(places * STEPS_PER_PX), -(2**15), 2**15 - 1).astype(jnp.int16)
    known = scenes.known[..., :height, :width].reshape(-1, height, width)

    def by_pair(leaf: Array) -> Array:
        return leaf.reshape(BATCH, 2, *leaf.shape[1:])

    return SharedViews(
        encoded=by_pair(dense.hidden_states[-1]).astype(jnp.float16),
        places=steps,
        shared=shared,
        whole=by_pair(pixels_to_cells(known).all(axis=-1)),
        margins=descriptor_margins(by_pair(dense.descriptors), places, shared).astype(jnp.float16),
    )


def descriptor_margins(
    descriptors: Float[Array, "n 2 hc wc d"], places: Float[Array, "n 2 h w 2"], shared: Bool[Array, "n 2 h w"]
) -> Float[Array, "n 2 hc wc"]:
    """How much more similar the descriptor at the right place is than those elsewhere; see `SharedViews`."""
    count, _, rows, columns, _ = descriptors.shape
    # The centre of a cell lies between pixels 3 and 4.
    first = CELL_PX // 2 - 1

    def at_centers(leaf: Array, offset: int) -> Array:
        return leaf[:, :, first + offset :: CELL_PX, first + offset :: CELL_PX]

    centers = ((at_centers(places, 0) + at_centers(places, 1)) / 2).reshape(count, 2, rows * columns, 2)
    seen = at_centers(shared, 0) & at_centers(shared, 1)
    sizes = jnp.broadcast_to(jnp.array([rows * CELL_PX, columns * CELL_PX], jnp.int32), (count, 2))
    own = (pixel_grid((rows, columns)) * CELL_PX + (CELL_PX - 1) / 2).reshape(-1, 2)

    def of_view(here: int) -> Array:
        there = descriptors[:, 1 - here]
        mine = descriptors[:, here].reshape(count, rows * columns, -1)
        right = sample_descriptors(there, centers[:, here], jnp.ones((count, rows * columns), bool), sizes)
        similarity = jnp.einsum("bnd,bmd->bnm", mine, there.reshape(mine.shape), preferred_element_type=jnp.float32)
        squared = jnp.sum((centers[:, here, :, None] - own[None, None]) ** 2, axis=-1)
        elsewhere = jnp.max(jnp.where(squared > DISTINCT_PX**2, similarity, -1), axis=-1)
        return (jnp.sum(mine * right, axis=-1) - elsewhere).reshape(count, rows, columns)

    return jnp.where(seen, jnp.stack([of_view(0), of_view(1)], axis=1), HIDDEN)
