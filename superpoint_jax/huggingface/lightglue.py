"""LightGlue with its SuperPoint, under transformers' names."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from superpoint_jax.features import Keypoints
from superpoint_jax.hub import CONFIG_FILE, split_options
from superpoint_jax.huggingface.arrays import is_torch, is_traced, jax_device, to_like, type_name
from superpoint_jax.huggingface.config import COMMON
from superpoint_jax.huggingface.lightglue_config import DEFAULTS, LightGlueConfig
from superpoint_jax.huggingface.lightglue_rows import matched_as_theirs
from superpoint_jax.huggingface.model import SuperPointForKeypointDetection
from superpoint_jax.huggingface.outputs import LightGlueKeypointMatchingOutput, SuperPointKeypointDescriptionOutput
from superpoint_jax.huggingface.pretrained import IGNORED, Pretrained
from superpoint_jax.huggingface.rows import BUCKET
from superpoint_jax.lightglue import LightGlue
from superpoint_jax.lightglue.assembly import state_dict
from superpoint_jax.lightglue.config_json import DETECTOR, OWN
from superpoint_jax.lightglue.keys import DETECTOR_PREFIX
from superpoint_jax.lightglue.save import save_pretrained
from superpoint_jax.model import Constant, SuperPoint
from superpoint_jax.processing.options_file import read_options
from superpoint_jax.weights.writing import write_json


@jax.tree_util.register_pytree_node_class
class LightGlueForKeypointMatching(Pretrained):
    """A LightGlue with its SuperPoint that takes what the processor returns, and gives what transformers' model gives.

    It is a pytree, so it can be an argument of `jax.jit`; the number of rows is then fixed.

    Attributes:
        keypoint_detector: The `SuperPointForKeypointDetection`.
        model: The `superpoint_jax.LightGlue`, which `superpoint_jax.match` takes as well.
        config: The options of both. Those that do not shape a network are read at every call.
        training: Always False.
    """

    base_model_prefix = "lightglue"
    config_class = LightGlueConfig

    def __init__(
        self,
        config: LightGlueConfig | LightGlue,
        keypoint_detector: SuperPointForKeypointDetection | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        """A model with random weights for a configuration, or a model of two networks that belong together."""
        rngs = nnx.Rngs(0) if rngs is None else rngs
        if isinstance(config, LightGlue):
            if keypoint_detector is None:
                raise ValueError("a LightGlue needs the keypoint_detector whose descriptors it was trained for")
            detector = keypoint_detector
            options = LightGlueConfig.from_superpoint_jax(config.config, detector.model.config)
            self.model, self.config = config, options
        else:
            detector = keypoint_detector or SuperPointForKeypointDetection(config.keypoint_detector_config, rngs=rngs)
            self.model, self.config = LightGlue(config.to_superpoint_jax(), rngs=rngs), config
        self.keypoint_detector = detector
        self.config.keypoint_detector_config = detector.config

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | None = None,
        *,
        device_map: Any = None,
        dtype: Any = None,
        torch_dtype: Any = None,
        **options: Any,
    ) -> Self:
        """The model with the weights of a source, which holds a LightGlue and its SuperPoint.

        Args:
            source: None for both in this package; else a hub id, or a folder with config.json.
            device_map: A device: for example "cpu", "cuda:0" or a `jax.Device`. None and "auto" use jax's default.
            dtype: Type that both networks compute in: "float32", "bfloat16", "float16", or the type of that name from
                jax or torch. The weights stay float32. None and "auto" use the type of the configuration.
            torch_dtype: The old name of `dtype`.
            **options: Options of `LightGlueConfig` that replace the stored ones; and options for the hub, see
                `superpoint_jax.hub.HubOptions`.

        Raises:
            WeightsError, HubError, FileNotFoundError, TypeError, ValueError: As `superpoint_jax.from_pretrained`.
        """
        hub, options = split_options({name: value for name, value in options.items() if name not in IGNORED})
        if unknown := sorted(set(options) - {*DEFAULTS, *COMMON}):
            raise TypeError(f"unknown option {', '.join(unknown)}; the options are {', '.join(DEFAULTS)}")
        detector = SuperPointForKeypointDetection.from_pretrained(source, **hub)
        model = cls(LightGlue.from_pretrained(source, **hub), detector)
        stored = {} if source is None else LightGlueConfig.get_config_dict(source, **hub)[0]
        kept = {name: value for name, value in stored.items() if name not in ("model_type", "dtype", DETECTOR)}
        model.config.update({**kept, **options})
        model.config._name_or_path = "" if source is None else str(source)
        chosen = dtype if dtype is not None else torch_dtype
        if chosen is not None and type_name(chosen) != "auto":
            model.to(dtype=chosen)
        return model if device_map is None else model.to(device_map)

    def forward(
        self,
        pixel_values: Any,
        labels: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> LightGlueKeypointMatchingOutput | tuple[Any, ...]:
        """Keypoints and matches: torch tensors if `pixel_values` is a torch tensor, else jax arrays.

        Args:
            pixel_values: [B,2,3,H,W] or [B,2,1,H,W]; float in [0, 1] or uint8.
            labels: Must be None, because this class does not train.
            output_attentions: Must be False; None is the configuration's.
            output_hidden_states: Must be False; `superpoint_jax.LightGlue.states` returns the states of every layer.
            return_dict: False returns a plain tuple. None uses the configuration's.

        Raises:
            ValueError: There are labels, the array has another shape, or its values are far outside [0, 1] (checked
                unless jax is tracing); or attentions or hidden states are asked for.
        """
        if labels is not None:
            raise ValueError("labels are not taken: this class does not train")
        for name, given in (("output_attentions", output_attentions), ("output_hidden_states", output_hidden_states)):
            if given if given is not None else getattr(self.config, name):
                raise ValueError(
                    f"{name}=True is not possible here; superpoint_jax.LightGlue.states returns the states"
                )
        shape: tuple[int, ...] = tuple(getattr(pixel_values, "shape", ()))
        if len(shape) != 5 or shape[1] != 2:
            raise ValueError(f"pixel_values have shape {shape}; [B,2,3,H,W] is needed")
        found = self.keypoint_detector(pixel_values.reshape(-1, *shape[2:]), return_dict=True)
        assert not isinstance(found, tuple)
        depth, width = (
            confidence if confidence > 0 else None
            for confidence in (self.config.depth_confidence, self.config.width_confidence)
        )
        a, b = _sides(found)
        matched = matched_as_theirs(self.model, a, b, self.config.filter_threshold, depth, width)
        rows = found.mask.shape[1]
        outputs = LightGlueKeypointMatchingOutput(
            **{name: _like(values[..., :rows], found.mask) for name, values in matched.items()},
            keypoints=found.keypoints.reshape(-1, 2, rows, 2),
            mask=found.mask.reshape(-1, 2, rows),
        )
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return outputs if as_dict else outputs.to_tuple()

    __call__ = forward

    def _networks(self) -> tuple[SuperPoint, LightGlue]:
        return self.keypoint_detector.model, self.model

    def state_dict(self) -> dict[str, np.ndarray]:
        """The parameters as numpy arrays under transformers' names and in its layout."""
        inside = {DETECTOR_PREFIX + name: value for name, value in self.keypoint_detector.state_dict().items()}
        return {**inside, **state_dict(self.model)}

    def to(self, device: Any = None, dtype: Any = None) -> Self:
        """Itself, moved to another device or set to compute in another type: `to("cuda")`, `to("bfloat16")`.

        Raises:
            ValueError: jax does not have the device, or the networks can't compute in the type.
        """
        if device is not None and type_name(device) in ("float32", "bfloat16", "float16"):
            device, dtype = None, device
        self.keypoint_detector.to(device, dtype)
        if dtype is not None:
            self.model = self._changed(dtype=type_name(dtype))
        target = jax_device(device)
        if target is not None:
            self.model = jax.device_put(self.model, target)
        return self

    def save_pretrained(self, folder: str | os.PathLike[str], push_to_hub: bool = False, **options: Any) -> None:
        """Write config.json, model.safetensors and preprocessor_config.json into a folder, which transformers opens.

        With `push_to_hub=True`, also push the files to the hub; `options` are those of the method `push_to_hub`.
        """
        path = save_pretrained(self._changed(), folder, extractor=self.keypoint_detector.as_configured())
        written = read_options(path / CONFIG_FILE)
        own = {name: value for name, value in self.config.to_diff_dict().items() if name not in (OWN, DETECTOR)}
        write_json(path / CONFIG_FILE, {**written, **own})
        self._pushed(folder, push_to_hub, options)

    def _changed(self, **rules: Any) -> LightGlue:
        """The network with the threshold that is set now, and other rules."""
        model = nnx.merge(*nnx.split(self.model))
        model.rules = self.model.rules.replace(**rules)
        model.filter_threshold = Constant(jnp.float32(self.config.filter_threshold))
        return model

    def _save_for_hub(self, folder: Path) -> None:
        self.save_pretrained(folder)

    def tree_flatten(self) -> tuple[tuple[LightGlue, SuperPointForKeypointDetection], str]:
        """The networks, and the configuration as text, for jax."""
        return (self.model, self.keypoint_detector), self.config.to_json_string(use_diff=False)

    @classmethod
    def tree_unflatten(cls, config: str, children: tuple[LightGlue, SuperPointForKeypointDetection]) -> Self:
        """The model from its networks and configuration, for jax."""
        self = object.__new__(cls)
        self.model, self.keypoint_detector = children
        self.config = LightGlueConfig(**json.loads(config))
        if isinstance(self.keypoint_detector, SuperPointForKeypointDetection):  # jax also puts other objects there.
            self.config.keypoint_detector_config = self.keypoint_detector.config
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__} with {self.num_parameters():,} parameters, {self.config}"


def _sides(found: SuperPointKeypointDescriptionOutput) -> tuple[Keypoints, Keypoints]:
    """The keypoints of the first and of the second image of each pair, in pixels.

    Outside of a transformation they are padded to a multiple of `BUCKET` rows, so that few programs are compiled.
    """
    keypoints = dataclasses.replace(found.in_pixels(), hidden_states=None)
    if not is_traced(keypoints.mask):
        missing = -len(keypoints.mask[0]) % BUCKET or BUCKET * (not len(keypoints.mask[0]))
        padded = {
            name: jnp.pad(value, [(0, 0), (0, missing)] + [(0, 0)] * (value.ndim - 2))
            for name in ("keypoints", "scores", "descriptors", "mask")
            for value in [getattr(keypoints, name)]
        }
        keypoints = dataclasses.replace(keypoints, **padded)
    return keypoints[::2], keypoints[1::2]


def _like(values: jax.Array, like: Any) -> Any:
    """The values in the form of `like`; whole numbers of torch have 64 bits, as in transformers."""
    if is_torch(like) and values.dtype == jnp.int32:
        return to_like(np.asarray(values, np.int64), like)
    return to_like(values, like)
