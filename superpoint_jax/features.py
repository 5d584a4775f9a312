"""The results of SuperPoint as pytrees: dense features and keypoints."""

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
"""An array on a device or on the host. For type checkers it is JAX's array, because numpy's has the same arithmetic."""


def pytree(cls: Class) -> Class:
    """The dataclass of arrays, registered as a pytree that `jax.export` can also write into its files."""
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
        """The images selected by `index`. An integer drops the batch axis; a slice or an array keeps it.

        Raises:
            IndexError: An integer is outside the batch; jax would silently use the last image.
            TypeError: There is no batch axis.
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
    """The output of the network, with one vector per cell of 8x8 pixels.

    Attributes:
        logits: Keypoint logits; channel 8 * dy + dx is pixel (dx, dy) of the cell, channel 64 is "no keypoint".
        descriptors: Descriptors of unit length.
        hidden_states: Output of each encoder block, finest first; only on request.
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

    `extract` returns arrays of JAX. `extract_images` returns arrays of numpy, one object per image, without padding.

    Attributes:
        keypoints: (x, y) in pixels of the array passed in; pixel centres at integers.
        scores: Scores, descending; ties in raster order.
        descriptors: Descriptors of unit length.
        mask: False for rows that are padding, where every value is 0.
        num_detected: Number of keypoints before the cut to K rows. If it exceeds `mask.sum(-1)`, some were cut.
        image_sizes: (height, width) of the images that the coordinates refer to.
        hidden_states: Output of each encoder block, finest first; only on request.
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
        """One dictionary per image with its valid rows as numpy arrays: keypoints, scores, descriptors, image_size."""
        keypoints, scores, descriptors, mask, sizes = map(
            np.asarray, (self.keypoints, self.scores, self.descriptors, self.mask, self.image_sizes)
        )
        if mask.ndim != 2:
            raise ValueError(f"to_list needs a batch of images [B,K]; mask has shape {mask.shape}. Index with a slice")
        return [
            {"keypoints": k[m], "scores": s[m], "descriptors": d[m], "image_size": size}
            for k, s, d, m, size in zip(keypoints, scores, descriptors, mask, sizes, strict=True)
        ]
