"""Configuration: presets, replacement, hashing, and errors that say what to do."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from superpoint_jax import SuperPointConfig
from superpoint_jax.config import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_configurations(name):
    config = SuperPointConfig.preset(name)
    assert config == SuperPointConfig(**PRESETS[name])
    assert hash(config) == hash(SuperPointConfig.preset(name))


def test_presets_take_the_published_rules():
    """A row a variant of the table in docs/variants.md."""
    rules = {
        name: (
            config.score_rule,
            config.keypoint_threshold,
            config.threshold_rule,
            config.suppression_rule,
            config.border_rule,
            config.sampling_rule,
            config.batch_norm,
        )
        for name in PRESETS
        if name != "superpoint_jax"
        for config in [SuperPointConfig.preset(name)]
    }
    assert rules == {
        "huggingface": ("softmax", 0.005, "greater", "three_pass", "top_left", "legacy", False),
        "magicleap": ("unshifted_softmax", 0.015, "greater_equal", "greedy", "image", "demo", False),
        "superglue": ("softmax", 0.005, "greater", "three_pass", "cells", "legacy", False),
        "lightglue": ("softmax", 0.0005, "greater", "three_pass", "cells", "legacy", False),
        "rpautrat": ("softmax", 0.005, "greater", "three_pass", "cells", "centered", True),
    }
    for name in rules:
        assert SuperPointConfig.preset(name).nms_radius == 4
        assert SuperPointConfig.preset(name).border_removal_distance == 4
        assert SuperPointConfig.preset(name).refinement == "none"
    own = SuperPointConfig.preset("superpoint_jax")
    assert (own.nms_radius, own.border_removal_distance, own.refinement) == (2, 4, "soft_argmax")


def test_preset_takes_changes():
    config = SuperPointConfig.preset("magicleap", keypoint_threshold=0.1)
    assert (config.keypoint_threshold, config.suppression_rule) == (0.1, "greedy")


def test_replace_changes_a_copy():
    config = SuperPointConfig()
    assert config.replace(nms_radius=3) == SuperPointConfig(nms_radius=3)
    assert config.nms_radius == 4


def test_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SuperPointConfig().nms_radius = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_lists_of_sizes_become_hashable():
    config = SuperPointConfig(encoder_hidden_sizes=[8, 8, 16, 16])  # pyright: ignore[reportArgumentType]
    assert hash(config) == hash(SuperPointConfig(encoder_hidden_sizes=(8, 8, 16, 16)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(sampling_rule="nearest"), r"sampling_rule='nearest' is not known; choose one of 'legacy', 'centered'"),
        (dict(suppression_rule="fast"), r"suppression_rule='fast' is not known; choose one of 'three_pass', 'greedy'"),
        (dict(dtype="float64"), r"dtype='float64' is not known; choose one of 'float32', 'bfloat16', 'float16'"),
        (dict(encoder_hidden_sizes=(64, 64, 128)), r"\(64, 64, 128\) must be four channel counts"),
        (dict(encoder_hidden_sizes=(64, 64, 0, 8)), r"\(64, 64, 0, 8\); 1 to 8192 is needed"),
        (dict(keypoint_decoder_dim=64), r"keypoint_decoder_dim=64 must be 65"),
        (dict(descriptor_decoder_dim=0), r"descriptor_decoder_dim=0; 1 to 8192 is needed"),
        (dict(max_keypoints=0), r"max_keypoints=0 must be positive, or -1"),
        (dict(max_keypoints=-2), r"max_keypoints=-2 must be positive, or -1"),
        (dict(nms_radius=10**9), r"nms_radius=1000000000; 0 to 1024 is needed"),
        (dict(refinement_radius=10**9), r"refinement_radius=1000000000; 0 to 64 is needed"),
        (dict(decoder_hidden_size=60000), r"decoder_hidden_size=60000; 1 to 8192 is needed"),
        (dict(batch_norm_eps=float("nan")), r"batch_norm_eps=nan; 0 to 1 is needed"),
        (dict(nms_radius=-1), r"nms_radius=-1; 0 to 1024 is needed"),
        (dict(border_removal_distance=-1), r"border_removal_distance=-1; 0 to 1048576 is needed"),
        (dict(keypoint_threshold=-0.1), r"keypoint_threshold=-0.1; 0 to inf is needed"),
        (dict(keypoint_threshold=float("nan")), r"keypoint_threshold=nan; 0 to inf is needed"),
        (dict(keypoint_threshold="0.1"), r"keypoint_threshold='0.1' is a str; a number is needed"),
        (dict(max_keypoints="10"), r"max_keypoints='10' is a str; a whole number is needed"),
        (dict(max_keypoints=10.0), r"max_keypoints=10.0 is a float; a whole number is needed"),
        (dict(max_keypoints=True), r"max_keypoints=True is a bool; a whole number is needed"),
        (dict(max_keypoints=2**31), r"max_keypoints=2147483648 must be positive, or -1"),
    ],
)
def test_wrong_values_say_what_is_needed(options, message):
    with pytest.raises(ValueError, match=message):
        SuperPointConfig(**options)


def test_unknown_option_names_those_that_are():
    with pytest.raises(TypeError, match=r"unknown option treshold; the options are .*keypoint_threshold"):
        SuperPointConfig().replace(treshold=0.1)


def test_unknown_preset_names_those_that_are():
    with pytest.raises(ValueError, match=r"preset 'superglu' is not known; choose one of .*'superglue'"):
        SuperPointConfig.preset("superglu")


def test_scalars_of_any_library_are_taken_as_python_numbers():
    config = SuperPointConfig(
        max_keypoints=np.int64(10), nms_radius=jnp.int32(3), keypoint_threshold=jnp.float32(0.5), dtype=jnp.bfloat16
    )
    assert config == SuperPointConfig(max_keypoints=10, nms_radius=3, keypoint_threshold=0.5, dtype="bfloat16")
    assert hash(config)
    assert SuperPointConfig(dtype=np.dtype("float16")).dtype == "float16"
