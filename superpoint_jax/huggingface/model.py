"""The model under transformers' names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from superpoint_jax.extraction import extract
from superpoint_jax.hub import PREPROCESSOR_FILE, HubOptions, split_options
from superpoint_jax.huggingface.arrays import is_torch, is_traced, jax_device, to_jax, to_like, type_name
from superpoint_jax.huggingface.config import COMMON, SuperPointConfig
from superpoint_jax.huggingface.outputs import SuperPointKeypointDescriptionOutput
from superpoint_jax.huggingface.pixels import as_images
from superpoint_jax.huggingface.pretrained import IGNORED, Pretrained
from superpoint_jax.huggingface.rows import as_theirs
from superpoint_jax.model import Constant, SuperPoint
from superpoint_jax.weights import from_pretrained, state_dict
from superpoint_jax.weights.config_json import HUGGING_FACE_FIELDS, OWN
from superpoint_jax.weights.preprocessing import preprocessor_config
from superpoint_jax.weights.save import save_network


@jax.tree_util.register_pytree_node_class
class SuperPointForKeypointDetection(Pretrained):
    """A SuperPoint that takes what the processor returns, and gives what transformers' model gives.

    It is a pytree, so it can be an argument of `jax.jit`; the number of rows is then fixed.

    Attributes:
        model: The network, which `superpoint_jax.extract` takes as well.
        config: Its options. Those that do not shape the network are read at every call.
        training: Always False.
    """

    base_model_prefix = "superpoint"
    config_class = SuperPointConfig

    def __init__(self, config: SuperPointConfig | SuperPoint, *, rngs: nnx.Rngs | None = None) -> None:
        """A model with random weights for a configuration, or a model that wraps a `superpoint_jax.SuperPoint`."""
        if isinstance(config, SuperPoint):
            self.model, self.config = config, SuperPointConfig.from_superpoint_jax(config.config)
        else:
            self.config = config
            self.model = SuperPoint(config.to_superpoint_jax(), rngs=nnx.Rngs(0) if rngs is None else rngs)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | None = None,
        *,
        config: SuperPointConfig | str | os.PathLike[str] | None = None,
        device_map: Any = None,
        dtype: Any = None,
        torch_dtype: Any = None,
        **options: Any,
    ) -> Self:
        """The model with the weights of a source; the sources are those of `superpoint_jax.from_pretrained`.

        Args:
            source: None for the weights in this package; else a hub id, a folder or a file.
            config: A configuration, or the path or hub id of one, that replaces the one stored with the weights.
            device_map: A device: for example "cpu", "cuda:0" or a `jax.Device`. None and "auto" use jax's default.
            dtype: Type that the network computes in: "float32", "bfloat16", "float16", or the type of that name from
                jax or torch. The weights stay float32. None and "auto" use the type of the configuration.
            torch_dtype: The old name of `dtype`.
            **options: Options of `SuperPointConfig` that replace the stored ones; and options for the hub, see
                `superpoint_jax.hub.HubOptions`: `revision`, `token`, `cache_dir`, `local_files_only`,
                `force_download`, `subfolder`.

        Raises:
            WeightsError, HubError, FileNotFoundError, TypeError, ValueError: As `superpoint_jax.from_pretrained`.
        """
        hub, options = split_options({name: value for name, value in options.items() if name not in IGNORED})
        common = {name: options.pop(name) for name in COMMON if name in options}
        given = config if config is None or isinstance(config, SuperPointConfig) else _read_config(config, hub)
        own = None if given is None else given.to_superpoint_jax()
        chosen = dtype if dtype is not None else torch_dtype
        if chosen is not None and type_name(chosen) != "auto":
            options["dtype"] = type_name(chosen)
        model = cls(from_pretrained(source, config=own, **hub, **options))
        beside = {} if given is None else {name: getattr(given, name) for name in COMMON}
        model.config.update({**beside, **common})
        model.config._name_or_path = "" if source is None else str(source)
        return model if device_map is None else model.to(device_map)

    def forward(
        self,
        pixel_values: Any,
        labels: Any = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        image_sizes: Any = None,
        **options: Any,
    ) -> SuperPointKeypointDescriptionOutput | tuple[Any, ...]:
        """Keypoints, scores and descriptors: torch tensors if `pixel_values` is a torch tensor, else jax arrays.

        Args:
            pixel_values: [B,3,H,W] or [B,1,H,W], or with channels last; float in [0, 1] or uint8.
            labels: Must be None, because this class does not train.
            output_hidden_states: Return the output of each encoder block as well. None uses the configuration's.
            return_dict: False returns a plain tuple. None uses the configuration's.
            image_sizes: True (height, width) of each image in the top-left corner of its array, [B,2]. The keypoints
                are then relative to these sizes. transformers does not have this argument.
            **options: Options of the configuration for this call. transformers does not have this argument.

        Raises:
            ValueError: There are labels, the array has another shape, or its values are far outside [0, 1] (checked
                unless jax is tracing).
            TypeError: An option does not exist.
        """
        if labels is not None:
            raise ValueError("labels are not taken: this class does not train; superpoint_jax.training does")
        hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        images = as_images(pixel_values, first_channel=self.model.rules.channel_rule == "first")
        leaf = jax.tree.leaves(self.model)[0]
        if not is_traced(images, leaf) and isinstance(images, jax.Array) and images.devices() != leaf.devices():
            images = jax.device_put(images, leaf.sharding)
        found = extract(
            self.model,
            images,
            image_sizes=None if image_sizes is None else jnp.asarray(to_jax(image_sizes)),
            output_hidden_states=bool(hidden),
            **{**self._options(), **options},
        )
        like = pixel_values if is_torch(pixel_values) else found.mask
        blocks = tuple(to_like(jnp.moveaxis(block, -1, 1), like) for block in found.hidden_states or ())
        outputs = SuperPointKeypointDescriptionOutput(
            **{name: to_like(values, like) for name, values in as_theirs(found).items()},
            hidden_states=blocks if hidden else None,
            image_sizes=to_like(found.image_sizes, like),
        )
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return outputs if as_dict else outputs.to_tuple()

    __call__ = forward

    def _options(self) -> dict[str, Any]:
        """The configuration as options of `extract`, which refuses a changed option if the weights fix its value."""
        options = {name: getattr(self.config, name) for name in HUGGING_FACE_FIELDS}
        options["encoder_hidden_sizes"] = tuple(options["encoder_hidden_sizes"])
        return {**options, **getattr(self.config, OWN, {})}

    def _networks(self) -> SuperPoint:
        return self.model

    def state_dict(self) -> dict[str, np.ndarray]:
        """The parameters as numpy arrays under transformers' names and in its layout."""
        return state_dict(self.model)

    def to(self, device: Any = None, dtype: Any = None) -> Self:
        """Itself, moved to another device or set to compute in another type: `to("cuda")`, `to("bfloat16")`.

        Raises:
            ValueError: jax does not have the device, or the network can't compute in the type.
        """
        if device is not None and type_name(device) in ("float32", "bfloat16", "float16"):
            device, dtype = None, device
        if dtype is not None:
            self.config.update({OWN: {**getattr(self.config, OWN, {}), "dtype": type_name(dtype)}})
            self.config.to_superpoint_jax()
        target = jax_device(device)
        if target is not None:
            self.model = jax.device_put(self.model, target)
        return self

    def save_pretrained(self, folder: str | os.PathLike[str], push_to_hub: bool = False, **options: Any) -> None:
        """Write config.json and model.safetensors into a folder, which transformers opens as well.

        Write preprocessor_config.json too, unless the folder already has one. With `push_to_hub=True`, also push the
        files to the hub; `options` are those of the method `push_to_hub`.
        """
        path = save_network(self.as_configured(), folder)
        beside = path / PREPROCESSOR_FILE
        if not beside.exists():
            options_beside = preprocessor_config(self.model.config)
            beside.write_text(json.dumps(options_beside, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        self._pushed(folder, push_to_hub, options)

    def as_configured(self) -> SuperPoint:
        """The network with the options that are set now."""
        config = self.config.to_superpoint_jax()
        model = nnx.merge(*nnx.split(self.model))
        carried = self.model.rules.preprocessor_json
        model.rules = config.replace(keypoint_threshold=self.model.rules.keypoint_threshold, preprocessor_json=carried)
        model.keypoint_threshold = Constant(jnp.float32(config.keypoint_threshold))
        return model

    def _save_for_hub(self, folder: Path) -> None:
        self.save_pretrained(folder)

    def tree_flatten(self) -> tuple[tuple[SuperPoint], str]:
        """The network and the configuration as text, for jax."""
        return (self.model,), self.config.to_json_string(use_diff=False)

    @classmethod
    def tree_unflatten(cls, config: str, children: tuple[SuperPoint]) -> Self:
        """The model from its network and configuration, for jax."""
        self = object.__new__(cls)
        (self.model,), self.config = children, SuperPointConfig(**json.loads(config))
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__} with {self.num_parameters():,} parameters, {self.config}"


def _read_config(source: str | os.PathLike[str], hub: HubOptions) -> SuperPointConfig:
    return SuperPointConfig.from_pretrained(source, **hub)
