"""Configuration of a SuperPoint: its sizes, and the rules that differ between the published variants."""

from __future__ import annotations

import dataclasses
import operator
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

CELL_PX = 8
"""Side of a cell of the dense maps, in pixels. It is fixed, because it results from three 2x2 poolings."""

ScoreRule = Literal["softmax", "unshifted_softmax"]
ThresholdRule = Literal["greater", "greater_equal"]
SuppressionRule = Literal["three_pass", "greedy"]
BorderRule = Literal["image", "cells", "top_left"]
SamplingRule = Literal["legacy", "centered", "demo", "demo_2018"]
ChannelRule = Literal["luma", "first"]
RefinementRule = Literal["none", "soft_argmax", "learned"]
SpreadRule = Literal["none", "grid"]
ComputeDtype = Literal["float32", "bfloat16", "float16"]

_RULES = {
    "score_rule": ScoreRule,
    "threshold_rule": ThresholdRule,
    "suppression_rule": SuppressionRule,
    "border_rule": BorderRule,
    "sampling_rule": SamplingRule,
    "channel_rule": ChannelRule,
    "refinement": RefinementRule,
    "spread": SpreadRule,
    "dtype": ComputeDtype,
}

NETWORK_FIELDS = (
    "encoder_hidden_sizes",
    "decoder_hidden_size",
    "keypoint_decoder_dim",
    "descriptor_decoder_dim",
    "batch_norm",
    "batch_norm_eps",
    "refinement_head",
)
"""Fields that are fixed by the weights of a model; the others may change from call to call."""


@dataclass(frozen=True, kw_only=True)
class SuperPointConfig:
    """Sizes and rules of a SuperPoint; hashable, so that it can be a static argument of `jax.jit`.

    Field names are those of Hugging Face's `SuperPointConfig` where it has the field. The defaults are the network and
    the decoding of SuperGlue, LightGlue and hloc; `SuperPointConfig.preset(name)` gives the other published variants.

    Attributes:
        encoder_hidden_sizes: Channels of the convolution blocks. There are always four blocks: each but the last ends
            in a 2x2 max pooling, and three poolings make the 8-pixel cell.
        decoder_hidden_size: Channels of the 3x3 convolution of both heads.
        keypoint_decoder_dim: Channels of the keypoint logits: 64 pixels of a cell and the "no keypoint" bin.
        descriptor_decoder_dim: Length D of a descriptor.
        keypoint_threshold: Smallest score of a keypoint; see `threshold_rule`.
        max_keypoints: Capacity K of the output. With -1, the capacity is the number of keypoints that fit more than
            `nms_radius` apart. Under "three_pass", keypoints of exactly equal score may be closer;
            `Keypoints.num_detected` then shows whether more were found than fit.
        nms_radius: Chebyshev radius of non-maximum suppression, in pixels.
        border_removal_distance: Peaks nearer to the border than this are dropped, in pixels (before refinement); see
            `border_rule`.
        initializer_range: Standard deviation of random initial weights in Hugging Face's port. It is only kept for the
            config.json of that port; this library initialises with He's rule.
        batch_norm: Batch normalisation after each ReLU, as in rpautrat's network.
        batch_norm_eps: Added to the variance.
        score_rule: "softmax", or "unshifted_softmax" = exp(x) / (sum exp(x) + 1e-5) of the Magic Leap demo.
        threshold_rule: Scores must be "greater" than the threshold or "greater_equal".
        suppression_rule: "three_pass" max pooling, or "greedy" by descending score, after the threshold.
        border_rule: Which borders count: all four of the "image"; all four of the area covered by whole "cells"
            (SuperGlue, LightGlue, rpautrat; the same if height and width are multiples of 8); or only "top_left", a
            defect of Hugging Face's port that its published results contain.
        sampling_rule: How a pixel is mapped to a position in the dense descriptors; see `superpoint_jax.description`.
        channel_rule: How three channels become one: "luma" (0.299, 0.587, 0.114), or only the "first" channel.
        refinement: Sub-pixel refinement of the score peak: "none", "soft_argmax" over a small window of the score map,
            or "learned", by the refinement head.
        refinement_radius: Half side of the window of "soft_argmax", in pixels.
        refinement_head: Whether the weights have a refinement head; see `superpoint_jax.refinement`.
        spread: Which keypoints are kept where there are more than `max_keypoints`: those with the best scores ("none"),
            or the best of each cell of a grid in turn ("grid"), so that they cover the image; see
            `superpoint_jax.spreading`. docs/conventions.md has figures.
        enlarge: `extract` enlarges images by this factor first, from 1 to 8, and gives coordinates in pixels of the
            images as they were. `nms_radius`, borders and windows count pixels of the enlarged image. With 2, keypoints
            of small images are placed more exactly, for four times the work; docs/performance.md has figures.
        dtype: Compute type of the network. Scores, coordinates and descriptors are float32 in any case.
        preprocessor_json: What the preprocessor_config.json beside the weights says, as JSON text, so that it is there
            again when they are saved. Empty where it says what belongs to these rules anyway. Nothing computes with it.
        extra_json: Fields of config.json that no option stands for, as JSON text, for the same purpose. Configurations
            that differ in these two are equal, so that their models share compilations.
    """

    encoder_hidden_sizes: tuple[int, ...] = (64, 64, 128, 128)
    decoder_hidden_size: int = 256
    keypoint_decoder_dim: int = 65
    descriptor_decoder_dim: int = 256
    keypoint_threshold: float = 0.005
    max_keypoints: int = -1
    nms_radius: int = 4
    border_removal_distance: int = 4
    initializer_range: float = 0.02
    batch_norm: bool = False
    batch_norm_eps: float = 1e-3
    score_rule: ScoreRule = "softmax"
    threshold_rule: ThresholdRule = "greater"
    suppression_rule: SuppressionRule = "three_pass"
    border_rule: BorderRule = "cells"
    sampling_rule: SamplingRule = "legacy"
    channel_rule: ChannelRule = "luma"
    refinement: RefinementRule = "none"
    refinement_radius: int = 2
    refinement_head: bool = False
    spread: SpreadRule = "none"
    enlarge: float = 1.0
    dtype: ComputeDtype = "float32"
    preprocessor_json: str = dataclasses.field(default="", compare=False, repr=False)
    extra_json: str = dataclasses.field(default="", compare=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "encoder_hidden_sizes", tuple(int(size) for size in self.encoder_hidden_sizes))
        for field in dataclasses.fields(self):
            if field.type in _NUMBERS:
                object.__setattr__(self, field.name, number(field.name, getattr(self, field.name), field.type))
        object.__setattr__(self, "dtype", dtype_name(self.dtype))
        for name, rule in _RULES.items():
            value = getattr(self, name)
            if value not in get_args(rule):
                raise ValueError(f"{name}={value!r} is not known; choose one of {', '.join(map(repr, get_args(rule)))}")
        if len(self.encoder_hidden_sizes) != 4:
            raise ValueError(
                f"encoder_hidden_sizes={self.encoder_hidden_sizes} must be four channel counts: three of the "
                f"blocks pool by 2, which makes the {CELL_PX}-pixel cell of the heads"
            )
        if self.keypoint_decoder_dim != CELL_PX**2 + 1:
            raise ValueError(
                f"keypoint_decoder_dim={self.keypoint_decoder_dim} must be {CELL_PX**2 + 1}: the pixels of a cell and "
                f"the 'no keypoint' bin"
            )
        if self.refinement == "learned" and not self.refinement_head:
            raise ValueError(
                "refinement='learned' needs weights with a refinement head, which `superpoint-jax train refinement` "
                "makes; choose 'soft_argmax' or 'none'"
            )
        if self.max_keypoints != -1 and not 1 <= self.max_keypoints < 2**31:
            raise ValueError(f"max_keypoints={self.max_keypoints} must be positive, or -1 for all of them")
        for name, (least, most) in _RANGES.items():
            values = getattr(self, name)
            for value in values if isinstance(values, tuple) else (values,):
                if not least <= value <= most:  # Not a number is outside, too.
                    raise ValueError(f"{name}={values}; {least} to {most} is needed")

    def replace(self, **changes: Any) -> Self:
        """This configuration with some fields changed.

        Raises:
            TypeError: There is no field of this name; the message lists the fields.
        """
        names = [field.name for field in dataclasses.fields(self)]
        if unknown := sorted(set(changes) - set(names)):
            raise TypeError(f"unknown option {', '.join(unknown)}; the options are {', '.join(names)}")
        return dataclasses.replace(self, **changes)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """The configuration of a published variant, by its name in `PRESETS`.

        Source: the public implementations, as listed in docs/variants.md; tests/parity compares each variant with a
        plain reference.
        """
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is not known; choose one of {', '.join(map(repr, PRESETS))}")
        return cls(**{**PRESETS[name], **changes})


_RANGES = {
    "encoder_hidden_sizes": (1, 8192),
    "decoder_hidden_size": (1, 8192),
    "descriptor_decoder_dim": (1, 8192),
    "keypoint_threshold": (0, float("inf")),
    "nms_radius": (0, 1024),
    "border_removal_distance": (0, 2**20),
    "initializer_range": (0, 1e6),
    "batch_norm_eps": (0, 1),
    "refinement_radius": (0, 64),
    "enlarge": (1, 8),
}
"""Smallest and largest value of the fields that are numbers; beyond them, a network would fill any memory."""

_NUMBERS = {"int": operator.index, "float": float}
"""How the value of a field of each type becomes a Python number, which is hashable; any library's scalars are accepted.
"""


def number(name: str, value: Any, kind: str) -> int | float:
    """The option's value as a Python number, `kind` "int" or "float".

    Raises:
        ValueError: It is none.
    """
    try:
        if isinstance(value, bool | str):
            raise TypeError
        return _NUMBERS[kind](value)
    except TypeError:
        needed = "a whole number" if kind == "int" else "a number"
        raise ValueError(f"{name}={value!r} is a {type(value).__name__}; {needed} is needed") from None


def dtype_name(dtype: Any) -> str:
    """The name of a type, which is given as jnp.bfloat16, np.dtype("float16") or its name."""
    return dtype if isinstance(dtype, str) else str(getattr(dtype, "dtype", getattr(dtype, "__name__", dtype)))


PRESETS: dict[str, dict[str, Any]] = {
    # SuperPointForKeypointDetection of transformers, including its defects.
    "huggingface": dict(border_rule="top_left", sampling_rule="legacy", channel_rule="first"),
    # The demo published with superpoint_v1.pth.
    "magicleap": dict(
        keypoint_threshold=0.015,
        score_rule="unshifted_softmax",
        threshold_rule="greater_equal",
        suppression_rule="greedy",
        border_rule="image",
        sampling_rule="demo",
    ),
    # SuperGlue and hloc, which use Magic Leap's weights.
    "superglue": dict(),
    "lightglue": dict(keypoint_threshold=0.0005),
    # rpautrat's PyTorch network and the "open" one of glue-factory.
    "rpautrat": dict(batch_norm=True, sampling_rule="centered"),
    # The weights in this package.
    "superpoint_jax": dict(nms_radius=2, border_rule="image", sampling_rule="centered", refinement="soft_argmax"),
}
"""Options of each published variant that differ from the defaults of `SuperPointConfig`."""
