"""The configuration of a LightGlue: its sizes, thresholds and compute options."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from superpoint_jax.config import ComputeDtype, dtype_name, number

AttentionKernel = Literal["xla", "cudnn"]

HEAD_MULTIPLE = 2
"""The channels of an attention head must be a multiple of this, because they are rotated in pairs."""


@dataclass(frozen=True, kw_only=True)
class LightGlueConfig:
    """Sizes and thresholds of one LightGlue; hashable, so it can be a static argument of `jax.jit`.

    Field names are those of Hugging Face's `LightGlueConfig` where it has one. The defaults are the network of the
    paper for descriptors of 256 numbers.

    Attributes:
        input_dim: Length of the descriptors that are matched: 256 for SuperPoint, 128 for DISK and ALIKED.
        descriptor_dim: Length of a keypoint's state inside the network.
        num_hidden_layers: Number of layers; each has a self attention and a cross attention.
        num_attention_heads: Number of heads of each attention.
        input_projection: Whether a linear map turns the descriptors into the first states. None: only if their lengths
            differ.
        tied_cross_attention: One projection gives both query and key of the cross attention, as in the paper. Weights
            in Hugging Face's layout may have two.
        filter_threshold: The score of a match must be greater than this.
        depth_confidence: With a value (0.95 in the paper), a pair runs no further layers as soon as more than this
            fraction of its keypoints is confident. None and 1 run every layer.
        attention: "xla", or "cudnn" for the flash attention of NVIDIA's library, which needs `dtype` "bfloat16" or
            "float16" and CUDA, and has no forward-mode derivative. In all other cases "cudnn" is the same as "xla".
        dtype: Compute type of the attention and the linear maps. Positions, the states, scores and probabilities are
            always float32.
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
            if not 1 <= value <= 8192:
                raise ValueError(f"{name}={value} must be positive, and at most 8192")
        for name in ("filter_threshold", "depth_confidence"):
            value = getattr(self, name)
            if value is not None or name == "filter_threshold":
                value = number(name, value, "float")
                object.__setattr__(self, name, value)
                if not value >= 0:
                    raise ValueError(f"{name}={value} must be 0 or greater")
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
                f"input_projection={self.input_projection}, but descriptors of length {self.input_dim} need a "
                f"projection to states of length {self.descriptor_dim}"
            )

    @property
    def head_dim(self) -> int:
        """Number of channels of one attention head."""
        return self.descriptor_dim // self.num_attention_heads

    def replace(self, **changes: Any) -> Self:
        """This configuration with some fields changed.

        Raises:
            TypeError: A name is not a field; the message lists the fields.
        """
        names = [field.name for field in dataclasses.fields(self)]
        if unknown := sorted(set(changes) - set(names)):
            raise TypeError(f"unknown option {', '.join(unknown)}; the options are {', '.join(names)}")
        return dataclasses.replace(self, **changes)
