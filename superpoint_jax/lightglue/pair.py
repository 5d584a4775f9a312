"""Two batches of images as the layers of LightGlue take them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from superpoint_jax.features import Keypoints
from superpoint_jax.lightglue.layers import PositionalEncoder, Rotation
from superpoint_jax.sharding import vary_like


class Image(NamedTuple):
    """What the network looks at in a batch of images."""

    keypoints: Float[Array, "b k 2"]
    descriptors: Float[Array, "b k d"]
    mask: Bool[Array, "b k"]
    image_sizes: Int[Array, "b 2"]


class Pair(NamedTuple):
    """First states, and what stays the same in all layers; the first of each two belongs to a.

    Attributes:
        states: Float32.
        masks: Of the states.
        rotations: Positions of the keypoints.
        orders: Row of the keypoints that each row was taken from; None where they keep their order.
    """

    states: tuple[Float[Array, "b i d"], Float[Array, "b j d"]]
    masks: tuple[Bool[Array, "b i"], Bool[Array, "b j"]]
    rotations: tuple[Rotation, Rotation]
    orders: tuple[Int[Array, "b i"], Int[Array, "b j"]] | None

    def restored(
        self, states: tuple[Float[Array, "*l b i d"], Float[Array, "*l b j d"]]
    ) -> tuple[Float[Array, "*l b i d"], Float[Array, "*l b j d"]]:
        """Later states in the order of the keypoints."""
        if self.orders is None:
            return states
        a, b = (_take(x, jnp.argsort(order, axis=-1)) for x, order in zip(states, self.orders, strict=True))
        return a, b


def prepare(
    a: Image,
    b: Image,
    encoder: PositionalEncoder,
    projection: Callable[[Array], Array] | None,
    *,
    sort: bool,
) -> Pair:
    """The pairs of two batches, either of which may be one image against all of the other.

    Args:
        a: First images.
        b: Second images.
        encoder: From positions to rotations.
        projection: From descriptors to states; None where they are the states.
        sort: Valid rows come first.
    """
    count = max(len(a.mask), len(b.mask))
    a, b = (Image(*(jnp.broadcast_to(leaf, (count, *leaf.shape[1:])) for leaf in image)) for image in (a, b))
    orders = None
    if sort:
        orders = jnp.argsort(~a.mask, axis=-1, stable=True), jnp.argsort(~b.mask, axis=-1, stable=True)
        a, b = _sorted(a, orders[0]), _sorted(b, orders[1])
    (states_a, rotation_a), (states_b, rotation_b) = (_first(image, encoder, projection) for image in (a, b))
    # What the loop over the layers makes of a state varies over a mesh as both images and the parameters do.
    for reference in (a.mask, b.mask, encoder.projector.kernel[...]):
        states_a, states_b = vary_like((states_a, states_b), reference)
    return Pair((states_a, states_b), (a.mask, b.mask), (rotation_a, rotation_b), orders)


def _first(
    image: Image, encoder: PositionalEncoder, projection: Callable[[Array], Array] | None
) -> tuple[Array, Rotation]:
    # Whatever stands in padding rows: NaN times a weight of zero would be NaN.
    valid = image.mask[..., None]
    descriptors = jnp.where(valid, image.descriptors.astype(jnp.float32), 0)
    positions = jnp.where(valid, normalize_positions(image.keypoints, image.image_sizes), 0)
    return descriptors if projection is None else projection(descriptors), encoder(positions)


def normalize_positions(keypoints_xy: Float[Array, "b k 2"], image_sizes: Int[Array, "b 2"]) -> Float[Array, "b k 2"]:
    """Pixels to positions: the middle of the image becomes 0, and half of its longer side 1.

    Source: what cvg's code, glue-factory and transformers have in common (tests/parity/test_lightglue.py). Transformers
    takes one size for all images of a batch, that of the array which they are padded into.
    """
    sizes = jnp.maximum(image_sizes[:, None, ::-1].astype(jnp.float32), 1)
    return (keypoints_xy.astype(jnp.float32) - sizes / 2) / (jnp.max(sizes, axis=-1, keepdims=True) / 2)


def image_of(keypoints: Keypoints) -> Image:
    """The part of the keypoints that the network looks at."""
    return Image(keypoints.keypoints, keypoints.descriptors, keypoints.mask, keypoints.image_sizes)


def longer(a: Image, b: Image) -> Bool[Array, "b k"]:
    """The mask of the side that is a batch, where the other may be one image against all of it."""
    return a.mask if len(a.mask) >= len(b.mask) else b.mask


def _sorted(image: Image, order: Int[Array, "b k"]) -> Image:
    return image._replace(
        keypoints=_take(image.keypoints, order),
        descriptors=_take(image.descriptors, order),
        mask=jnp.take_along_axis(image.mask, order, axis=1),
    )


def _take(rows: Float[Array, "*l b k d"], order: Int[Array, "b k"]) -> Float[Array, "*l b k d"]:
    """The rows of each image in another order."""
    index = order.reshape((1,) * (rows.ndim - 3) + (*order.shape, 1))
    return jnp.take_along_axis(rows, index, axis=-2)
