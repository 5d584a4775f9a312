"""What comes out: the pytrees that travel from the network to the user."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

import jax
import jax.export
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

Class = TypeVar("Class", bound=type)

if TYPE_CHECKING:
    AnyArray = Array
else:
    AnyArray = Array | np.ndarray | np.generic
"""An array on a device or on the host. Type checkers take it for JAX's, whose arithmetic numpy's arrays share."""


def pytree(cls: Class) -> Class:
    """The dataclass of arrays as a pytree, which `jax.export` can write into its files, too."""
    jax.tree_util.register_dataclass(cls)
    jax.export.register_pytree_node_serialization(
        cls,
        serialized_name=f"superpoint_jax.{cls.__name__}",
        serialize_auxdata=lambda auxdata: b"",
        deserialize_auxdata=lambda data: (),
    )
    return cls


class Indexable:
    """Indexing over the batch axis for dataclasses of arrays."""

    def __getitem__(self, index: Any) -> Self:
        """The images that `index` picks. An integer drops the batch axis, a slice or an array keeps it.

        Raises:
            IndexError: An integer beyond the batch, where jax would take the last.
            TypeError: There is no batch axis (any more).
        """
        if isinstance(index, int) and not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of a batch of {len(self)}")
        return jax.tree.map(lambda leaf: leaf[index], self)

    def __len__(self) -> int:
        if not self._batched():
            raise TypeError(f"these {type(self).__name__} are of one image: there is no batch to count or index")
        return jax.tree.leaves(self)[0].shape[0]

    def _batched(self) -> bool:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))


@pytree
@dataclass(frozen=True)
class DenseFeatures(Indexable):
    """What the network computes, one vector a cell of 8x8 pixels.

    Attributes:
        logits: Keypoint logits; channel 8 * dy + dx is pixel (dx, dy) of the cell, channel 64 "no keypoint".
        descriptors: Unit-length descriptors.
        hidden_states: Output of each encoder block, finest first; only when asked for.
    """

    logits: Float[Array, "*b h w 65"]
    descriptors: Float[Array, "*b h w d"]
    hidden_states: tuple[Float[Array, "*b _h _w _c"], ...] | None = None

    def _batched(self) -> bool:
        return len(self.logits.shape) > 3


@pytree
@dataclass(frozen=True)
class Keypoints(Indexable):
    """Keypoints of a batch of images, padded to a fixed number of rows.

    `extract` gives arrays of JAX; `extract_images` gives arrays of numpy, of one image each and without padding.

    Attributes:
        keypoints: (x, y) in pixels of the array passed in; pixel centres at integers.
        scores: Descending; ties in raster order.
        descriptors: Unit length.
        mask: False rows are padding: every value 0.
        num_detected: Keypoints found before the cut to K rows. More than `mask.sum(-1)` means that some were cut.
        image_sizes: (height, width) of the images that the coordinates refer to.
        hidden_states: Output of each encoder block, finest first; only when asked for.
    """

    keypoints: Float[AnyArray, "*b k 2"]
    scores: Float[AnyArray, "*b k"]
    descriptors: Float[AnyArray, "*b k d"]
    mask: Bool[AnyArray, "*b k"]
    num_detected: Int[AnyArray, "*b"]
    image_sizes: Int[AnyArray, "*b 2"]
    hidden_states: tuple[Float[Array, "*b _h _w _c"], ...] | None = None

    def _batched(self) -> bool:
        return len(self.mask.shape) > 1

    def to_list(self) -> list[dict[str, np.ndarray]]:
        """The valid rows as numpy arrays, a dictionary an image: keypoints, scores, descriptors, image_size."""
        keypoints, scores, descriptors, mask, sizes = map(
            np.asarray, (self.keypoints, self.scores, self.descriptors, self.mask, self.image_sizes)
        )
        if mask.ndim != 2:
            raise ValueError(f"to_list needs a batch of images [B,K]; mask has shape {mask.shape}. Index with a slice")
        return [
            {"keypoints": k[m], "scores": s[m], "descriptors": d[m], "image_size": size}
            for k, s, d, m, size in zip(keypoints, scores, descriptors, mask, sizes, strict=True)
        ]
