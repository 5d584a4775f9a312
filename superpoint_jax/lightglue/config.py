"""What a LightGlue is: its sizes, and the thresholds that it decides by."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from superpoint_jax.config import ComputeDtype, dtype_name, number

AttentionKernel = Literal["xla", "cudnn"]

HEAD_MULTIPLE = 2
"""Channels of an attention head are rotated in pairs."""


@dataclass(frozen=True, kw_only=True)
class LightGlueConfig:
    """Sizes and thresholds of one LightGlue; hashable, so it can be a static argument of `jax.jit`.

    Field names are those of Hugging Face's `LightGlueConfig` where it has one. The defaults are the network of the
    paper for descriptors of 256 numbers.

    Attributes:
        input_dim: Length of the descriptors that are matched: 256 for SuperPoint, 128 for DISK and ALIKED.
        descriptor_dim: Length of a keypoint's state inside the network.
        num_hidden_layers: Layers, each of a self and a cross attention.
        num_attention_heads: Heads of every attention.
        input_projection: A linear map from the descriptors to the first state. None means: where the lengths differ.
        tied_cross_attention: One projection gives both query and key of the cross attention, as in the paper. Weights
            in Hugging Face's layout may hold two.
        filter_threshold: Smallest score of a match; a score must be greater.
        depth_confidence: With a value (0.95 in the paper), the layers end for a pair as soon as more than this part of
            its keypoints is confident. None and 1 run every layer.
        attention: "xla", or "cudnn" for the flash attention of NVIDIA's library, which serves `dtype` "bfloat16" and
            "float16" on CUDA, and has no forward-mode derivative. Elsewhere "cudnn" is "xla".
        dtype: Compute type of the attention and the linear maps. Positions, the sum that the layers add to, the scores
            and everything about probabilities are float32 in any case.
    """

    input_dim: int = 256
    descriptor_dim: int = 256
    num_hidden_layers: int = 9
    num_attention_heads: int = 4
    input_projection: bool | None = None
    tied_cross_attention: bool = True
    filter_threshold: float = 0.1
    depth_confidence: float | None = None
    attention: AttentionKernel = "xla"
    dtype: ComputeDtype = "float32"

    def __post_init__(self):
        for name in ("input_dim", "descriptor_dim", "num_hidden_layers", "num_attention_heads"):
            value = number(name, getattr(self, name), "int")
            object.__setattr__(self, name, value)
            if value < 1:
                raise ValueError(f"{name}={value} must be positive")
        for name in ("filter_threshold", "depth_confidence"):
            value = getattr(self, name)
            if value is not None or name == "filter_threshold":
                value = number(name, value, "float")
                object.__setattr__(self, name, value)
                if not value >= 0:
                    raise ValueError(f"{name}={value} must be a number that is not negative")
        object.__setattr__(self, "dtype", dtype_name(self.dtype))
        for name, known in (("attention", AttentionKernel), ("dtype", ComputeDtype)):
            if getattr(self, name) not in get_args(known):
                choice = ", ".join(map(repr, get_args(known)))
                raise ValueError(f"{name}={getattr(self, name)!r} is not known; choose one of {choice}")
        if self.descriptor_dim % (HEAD_MULTIPLE * self.num_attention_heads):
            raise ValueError(
                f"descriptor_dim={self.descriptor_dim} must be a multiple of {HEAD_MULTIPLE * self.num_attention_heads}"
                f": {self.num_attention_heads} heads whose channels are rotated in pairs"
            )
        differ = self.input_dim != self.descriptor_dim
        if self.input_projection is None:
            object.__setattr__(self, "input_projection", differ)
        if differ and not self.input_projection:
            raise ValueError(
                f"input_projection={self.input_projection}, but descriptors of {self.input_dim} numbers become states "
                f"of {self.descriptor_dim} through it only"
            )

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.descriptor_dim // self.num_attention_heads

    def replace(self, **changes: Any) -> Self:
        """This configuration with some fields changed.

        Raises:
            TypeError: A name that is no field; the message lists those that are.
        """
        names = [field.name for field in dataclasses.fields(self)]
        if unknown := sorted(set(changes) - set(names)):
            raise TypeError(f"unknown option {', '.join(unknown)}; the options are {', '.join(names)}")
        return dataclasses.replace(self, **changes)
