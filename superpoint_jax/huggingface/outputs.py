"""The outputs of the models, whose entries are attributes, keys and places of a tuple; and the keypoints in pixels."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from superpoint_jax.features import Keypoints
from superpoint_jax.huggingface.arrays import is_torch, to_jax, to_like, to_numpy


class Output(dict[str, Any]):
    """Entries of fixed names: `outputs.mask`, `outputs["mask"]` and `outputs[4]` are the same.

    A value that is None is neither a key nor an entry of the tuple. Iterating gives the keys, as with a dictionary.
    """

    FIELDS: ClassVar[tuple[str, ...]]
    BESIDE: ClassVar[tuple[str, ...]] = ()
    """Attributes that are not entries."""

    def _fill(self, values: tuple[Any, ...], **beside: Any) -> None:
        super().__init__({name: value for name, value in zip(self.FIELDS, values, strict=True) if value is not None})
        self.__dict__.update(beside)

    def __getattr__(self, name: str) -> Any:
        if name in self.FIELDS:
            return self.get(name)
        raise AttributeError(f"no entry {name!r}; there are {', '.join(map(repr, self))}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.FIELDS:
            raise AttributeError(f"no entry {name!r}; the entries are {', '.join(self.FIELDS)}")
        self[name] = value

    def __getitem__(self, key: str | int | slice) -> Any:
        """The entry with this name, or at this place of `to_tuple`."""
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        """The entries that are not None, in the order of the attributes."""
        return tuple(self.values())

    def _fixed(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("an output keeps its entries; make a dict of it first: dict(outputs)")

    __delitem__ = pop = popitem = clear = _fixed
    setdefault = update = _fixed  # pyright: ignore[reportAssignmentType]

    def __reduce__(self) -> Any:
        return _restored, (type(self), dict(self), {name: getattr(self, name) for name in self.BESIDE})

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[str, ...]]:
        """The entries and the attributes beside them, and the names of the entries, for jax."""
        return (*self.values(), *(getattr(self, name) for name in self.BESIDE)), tuple(self)

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], values: Any) -> Self:
        """The output from the names of its entries and all values, for jax."""
        return cls(**dict(zip((*names, *cls.BESIDE), values, strict=True)))


def _restored(cls: type[Output], entries: dict[str, Any], beside: dict[str, Any]) -> Output:
    return cls(**entries, **beside)


@jax.tree_util.register_pytree_node_class
class SuperPointKeypointDescriptionOutput(Output):
    """Keypoints of a batch of images: `outputs.scores`, `outputs["scores"]` and `outputs[1]` are the same.

    A value that is None is neither a key nor an entry of the tuple. Iterating gives the keys, as with a dictionary.

    Attributes:
        loss: Always None.
        keypoints: [B,K,2], (x, y) relative to the width and height of each image.
        scores: [B,K].
        descriptors: [B,K,D], unit length.
        mask: int32 [B,K], 1 for a keypoint and 0 for a padding row, whose values are all 0.
        hidden_states: Output of each encoder block [B,C,h,w], finest first; only when asked for.
        image_sizes: int [B,2], (height, width) that the keypoints are relative to. transformers does not have it, so it
            is not a key. None if the output was made without it.
    """

    FIELDS = ("loss", "keypoints", "scores", "descriptors", "mask", "hidden_states")
    BESIDE = ("image_sizes",)

    def __init__(
        self,
        loss: Any = None,
        keypoints: Any = None,
        scores: Any = None,
        descriptors: Any = None,
        mask: Any = None,
        hidden_states: Any = None,
        *,
        image_sizes: Any = None,
    ) -> None:
        self._fill((loss, keypoints, scores, descriptors, mask, hidden_states), image_sizes=image_sizes)

    def in_pixels(self) -> Keypoints:
        """These keypoints in pixels of the images that the model was given.

        The result is that of `superpoint_jax.extract`, except for the order of the rows.

        Raises:
            ValueError: The sizes of the images are not known, because the output was made without them.
        """
        if self.image_sizes is None:
            raise ValueError("the size of the images is not known here; multiply the keypoints by (width, height)")
        values = {name: jnp.asarray(to_jax(self[name])) for name in ("keypoints", "scores", "descriptors")}
        sizes = jnp.asarray(to_jax(self.image_sizes))
        mask = jnp.asarray(to_jax(self["mask"])) > 0
        return Keypoints(
            keypoints=values["keypoints"] * sizes[:, None, ::-1].astype(jnp.float32),
            scores=values["scores"],
            descriptors=values["descriptors"],
            mask=mask,
            num_detected=mask.sum(-1),
            image_sizes=sizes,
            hidden_states=None,
        )


@jax.tree_util.register_pytree_node_class
class LightGlueKeypointMatchingOutput(Output):
    """Keypoints and matches of a batch of pairs; the first axis of length 2 is over the images of a pair.

    A value that is None is neither a key nor an entry of the tuple. Iterating gives the keys, as with a dictionary.

    Attributes:
        loss: Always None.
        matches: int [B,2,K], row of the partner in the other image, -1 where there is none.
        matching_scores: [B,2,K], probability of the mutual best partner, also where it is too small for a match; 0
            where there is none.
        keypoints: [B,2,K,2], (x, y) relative to the width and height of the images.
        prune: [B,2,K], number of layers that a keypoint took part in.
        mask: int32 [B,2,K], 1 for a keypoint and 0 for a padding row.
        hidden_states: Always None.
        attentions: Always None.
    """

    FIELDS = ("loss", "matches", "matching_scores", "keypoints", "prune", "mask", "hidden_states", "attentions")

    def __init__(
        self,
        loss: Any = None,
        matches: Any = None,
        matching_scores: Any = None,
        keypoints: Any = None,
        prune: Any = None,
        mask: Any = None,
        hidden_states: Any = None,
        attentions: Any = None,
    ) -> None:
        self._fill((loss, matches, matching_scores, keypoints, prune, mask, hidden_states, attentions))


def post_process(outputs: Any, target_sizes: Any) -> list[dict[str, Any]]:
    """The keypoints without padding rows, in whole pixels of the original images: one dictionary per image.

    Each has "keypoints" int32 [N,2], truncated towards zero; "scores" [N]; and "descriptors" [N,D]. The values are
    torch tensors if the outputs are, else numpy arrays.

    Args:
        outputs: What the model returned.
        target_sizes: (height, width) of each original image: a list of pairs, or an array or tensor [B,2].

    Raises:
        ValueError: `target_sizes` is not one (height, width) per image.

    Source: the method of transformers' processor; tests/parity/test_transformers_suite.py.
    """
    if len(target_sizes) != len(outputs.mask):
        raise ValueError(
            f"target_sizes has {len(target_sizes)} entries; {len(outputs.mask)} are needed, one (height, width) per "
            f"image"
        )
    sizes = np.asarray([to_numpy(size) for size in target_sizes])
    if sizes.shape != (len(outputs.mask), 2):
        raise ValueError(f"target_sizes={target_sizes!r}; each entry must be the (height, width) of an image")
    relative, scores, descriptors, mask = (
        to_numpy(values) for values in (outputs.keypoints, outputs.scores, outputs.descriptors, outputs.mask)
    )
    keypoints = (relative * sizes[:, None, ::-1].astype(np.float32)).astype(np.int32)
    columns = {"keypoints": keypoints, "scores": scores, "descriptors": descriptors}

    def kept(values: np.ndarray, i: int) -> Any:
        rows = values[i][mask[i] != 0]
        return to_like(rows, outputs.mask) if is_torch(outputs.mask) else rows

    return [{name: kept(values, i) for name, values in columns.items()} for i in range(len(mask))]
