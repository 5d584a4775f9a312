"""Prepares two batches of images for the layers of LightGlue."""

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
    """The fields of `Keypoints` that the network uses, for a batch of images."""

    keypoints: Float[Array, "b k 2"]
    descriptors: Float[Array, "b k d"]
    mask: Bool[Array, "b k"]
    image_sizes: Int[Array, "b 2"]


class Pair(NamedTuple):
    """The first states, and the inputs that are the same for all layers; in each tuple, a comes before b.

    Attributes:
        states: First states, float32.
        masks: Masks of the states; False for padding rows.
        rotations: Positions of the keypoints, as rotations.
        orders: For each row of the states, the row of the keypoints that it belongs to; None if the order is the same.
    """

    states: tuple[Float[Array, "b i d"], Float[Array, "b j d"]]
    masks: tuple[Bool[Array, "b i"], Bool[Array, "b j"]]
    rotations: tuple[Rotation, Rotation]
    orders: tuple[Int[Array, "b i"], Int[Array, "b j"]] | None

    def restored(
        self, states: tuple[Float[Array, "*l b i d"], Float[Array, "*l b j d"]]
    ) -> tuple[Float[Array, "*l b i d"], Float[Array, "*l b j d"]]:
        """The states of any layer in the order of the keypoints."""
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
    """The pairs of two batches; a batch of one image is paired with all images of the other batch.

    Args:
        a: First images.
        b: Second images.
        encoder: Turns positions into rotations.
        projection: Turns descriptors into states; None if the descriptors are the states.
        sort: Move the valid rows to the front.
    """
    count = max(len(a.mask), len(b.mask))
    a, b = (Image(*(jnp.broadcast_to(leaf, (count, *leaf.shape[1:])) for leaf in image)) for image in (a, b))
    orders = None
    if sort:
        orders = jnp.argsort(~a.mask, axis=-1, stable=True), jnp.argsort(~b.mask, axis=-1, stable=True)
        a, b = _sorted(a, orders[0]), _sorted(b, orders[1])
    (states_a, rotation_a), (states_b, rotation_b) = (_first(image, encoder, projection) for image in (a, b))
    # After a layer, the states vary over a mesh as both images and the parameters do, so the first states must too.
    for reference in (a.mask, b.mask, encoder.projector.kernel[...]):
        states_a, states_b = vary_like((states_a, states_b), reference)
    return Pair((states_a, states_b), (a.mask, b.mask), (rotation_a, rotation_b), orders)


def _first(
    image: Image, encoder: PositionalEncoder, projection: Callable[[Array], Array] | None
) -> tuple[Array, Rotation]:
    # Padding rows may hold NaN, and NaN times a weight of zero would be NaN.
    valid = image.mask[..., None]
    descriptors = jnp.where(valid, image.descriptors.astype(jnp.float32), 0)
    positions = jnp.where(valid, normalize_positions(image.keypoints, image.image_sizes), 0)
    return descriptors if projection is None else projection(descriptors), encoder(positions)


def normalize_positions(keypoints_xy: Float[Array, "b k 2"], image_sizes: Int[Array, "b 2"]) -> Float[Array, "b k 2"]:
    """Positions of keypoints in pixels: the middle of the image is 0, and half of its longer side is 1.

    Source: cvg's code, glue-factory and transformers, which agree (tests/parity/test_lightglue.py). For all images of a
    batch transformers uses one size, that of the padded array.
    """
    sizes = jnp.maximum(image_sizes[:, None, ::-1].astype(jnp.float32), 1)
    return (keypoints_xy.astype(jnp.float32) - sizes / 2) / (jnp.max(sizes, axis=-1, keepdims=True) / 2)


def image_of(keypoints: Keypoints) -> Image:
    """The fields of the keypoints that the network uses."""
    return Image(keypoints.keypoints, keypoints.descriptors, keypoints.mask, keypoints.image_sizes)


def longer(a: Image, b: Image) -> Bool[Array, "b k"]:
    """The mask of the side with more images; the other side may be one image that is matched with all of them."""
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
