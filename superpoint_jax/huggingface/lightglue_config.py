"""The configuration of LightGlue under transformers' names."""

from __future__ import annotations

from typing import Any, Self

import superpoint_jax.config
import superpoint_jax.lightglue
from superpoint_jax.huggingface.config import COMMON, Config, SuperPointConfig
from superpoint_jax.lightglue.config_json import OWN, from_config_json, to_config_json

DEFAULTS: dict[str, Any] = {
    "keypoint_detector_config": None,
    "descriptor_dim": 256,
    "num_hidden_layers": 9,
    "num_attention_heads": 4,
    "num_key_value_heads": None,
    "depth_confidence": 0.95,
    "width_confidence": 0.99,
    "filter_threshold": 0.1,
    "initializer_range": 0.02,
    "hidden_act": "gelu",
    "attention_dropout": 0.0,
    "attention_bias": True,
}


class LightGlueConfig(Config):
    """Options of a LightGlue and its SuperPoint as attributes, under transformers' names and with its defaults.

    `keypoint_detector_config` is a `SuperPointConfig` or a dictionary of its options. You may set `filter_threshold`,
    `depth_confidence`, `width_confidence` and the options of the detector: the model reads them at every call.
    """

    model_type = "lightglue"
    defaults = DEFAULTS

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        detector = self.keypoint_detector_config
        if not isinstance(detector, SuperPointConfig):
            self.keypoint_detector_config = SuperPointConfig(**(detector or {}))
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        self.to_superpoint_jax()  # Raises an error if an option is wrong.

    def to_dict(self) -> dict[str, Any]:
        """Every option, including unknown ones; those of the detector are a dictionary."""
        return {**super().to_dict(), "keypoint_detector_config": self.keypoint_detector_config.to_dict()}

    def to_diff_dict(self) -> dict[str, Any]:
        """The options of the model and its detector, and those of the others that differ from their defaults."""
        return {**super().to_diff_dict(), "keypoint_detector_config": self.keypoint_detector_config.to_diff_dict()}

    @classmethod
    def from_superpoint_jax(
        cls,
        config: superpoint_jax.lightglue.LightGlueConfig,
        detector: superpoint_jax.config.SuperPointConfig,
        **changes: Any,
    ) -> Self:
        """The options of a LightGlue and its SuperPoint under transformers' names; every layer runs."""
        return cls(**{**to_config_json(config, detector), **changes})

    def to_superpoint_jax(self) -> superpoint_jax.lightglue.LightGlueConfig:
        """The same options as the library's own configuration; it has no `width_confidence`.

        Raises:
            WeightsError: An option has a value that no LightGlue has. A `ValueError`.
        """
        options = {name: value for name, value in self.__dict__.items() if name not in COMMON}
        origin = self._name_or_path or "the configuration"
        own = dict(options.pop(OWN, {"tied_cross_attention": False}))
        own |= from_config_json(options, origin=origin)
        own |= dict(
            input_dim=self.keypoint_detector_config.descriptor_decoder_dim,
            depth_confidence=self.depth_confidence if self.depth_confidence > 0 else None,
        )
        return superpoint_jax.lightglue.LightGlueConfig(**own)
