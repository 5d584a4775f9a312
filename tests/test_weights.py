"""Weights in and out: every layout, every container, every kind of rubbish."""

import importlib.resources
import json
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import superpoint_jax as sp
from superpoint_jax import SuperPoint, SuperPointConfig, WeightsError, from_pretrained, save_pretrained
from superpoint_jax.model import Constant
from superpoint_jax.weights import convert, from_state_dict, save_weights, state_dict
from superpoint_jax.weights.licence import show_notice_once
from tests import foreign_weights
from tests.conftest import SMALL
from tests.random_weights import model_of, random_state

torch = pytest.importorskip("torch")

SMALL_CONFIG = SuperPointConfig(**SMALL)


@pytest.fixture(autouse=True)
def _fresh_notice():
    show_notice_once.cache_clear()


def save_torch(state: dict[str, np.ndarray], path: Path, **options) -> Path:
    torch.save({name: torch.from_numpy(np.array(value)) for name, value in state.items()}, path, **options)
    return path


def transformers_model(seed: int = 0, **options):
    """transformers' SuperPoint with weights that find keypoints."""
    from transformers import SuperPointConfig as TheirConfig
    from transformers import SuperPointForKeypointDetection

    model = SuperPointForKeypointDetection(TheirConfig(**{**SMALL, **options})).eval()
    config = SMALL_CONFIG.replace(**{name: options[name] for name in options if name in SMALL})
    model.load_state_dict({name: torch.from_numpy(value) for name, value in random_state(seed, config).items()})
    return model


def assert_same_weights(model: SuperPoint, expected: SuperPoint) -> None:
    ours, theirs = (dict(nnx.to_flat_state(nnx.state(m, (nnx.Param, nnx.BatchStat)))) for m in (model, expected))
    assert ours.keys() == theirs.keys()
    for path, variable in ours.items():
        assert type(variable) is type(theirs[path])
        assert variable[...].dtype == np.float32
        np.testing.assert_array_equal(variable[...], theirs[path][...], err_msg=str(path))


# State dicts


@pytest.mark.parametrize("batch_norm", [False, True])
def test_state_dict_goes_out_and_back(batch_norm):
    config = SMALL_CONFIG.replace(batch_norm=batch_norm)
    model = model_of(random_state(0, config), config)
    assert_same_weights(from_state_dict(state_dict(model), config=config), model)


def test_state_dict_has_the_keys_shapes_and_values_of_transformers():
    theirs = {name: value.numpy() for name, value in transformers_model().state_dict().items()}
    ours = state_dict(from_state_dict(theirs))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name])


def test_the_default_network_has_the_published_number_of_parameters():
    model = SuperPoint(SuperPointConfig(), rngs=nnx.Rngs(0))
    assert sum(value.size for value in state_dict(model).values()) == 1_300_865


def test_arrays_of_a_loaded_model_are_parameters_statistics_and_two_constants():
    model = from_state_dict(foreign_weights.rpautrat(0, SMALL_CONFIG))
    _, parameters, statistics, constants = nnx.split(model, nnx.Param, nnx.BatchStat, Constant)
    assert len(jax.tree.leaves(parameters)) == 12 * 2 + 12 * 2
    assert len(jax.tree.leaves(statistics)) == 12 * 2
    assert len(jax.tree.leaves(constants)) == 2


def test_loaded_weights_own_their_memory():
    state = foreign_weights.magic_leap(0, SMALL_CONFIG)
    model = from_state_dict(state)
    before = np.array(model.keypoint_decoder.conv_score_b.bias[...])
    state["convPb.bias"][:] = 7
    np.testing.assert_array_equal(model.keypoint_decoder.conv_score_b.bias[...], before)


# Layouts and the configuration that comes with each


@pytest.mark.parametrize("zipped", [True, False])
def test_magic_leap_file_is_the_same_network_under_the_demos_rules(tmp_path, zipped):
    path = save_torch(
        foreign_weights.magic_leap(1, SMALL_CONFIG), tmp_path / "v1.pth", _use_new_zipfile_serialization=zipped
    )
    model = from_pretrained(path)
    assert model.config == SuperPointConfig.preset("magicleap", **SMALL)
    assert_same_weights(model, model_of(random_state(1, SMALL_CONFIG), SMALL_CONFIG))


def test_rpautrat_file_keeps_its_batch_norm(tmp_path):
    model = from_pretrained(save_torch(foreign_weights.rpautrat(2, SMALL_CONFIG), tmp_path / "v6.pth"))
    config = SuperPointConfig.preset("rpautrat", **SMALL)
    assert model.config == config
    assert_same_weights(model, model_of(random_state(2, config), config))


@pytest.mark.parametrize("layout", ["magic_leap", "rpautrat"])
def test_a_foreign_layout_in_safetensors_is_recognised_too(tmp_path, layout):
    state = getattr(foreign_weights, layout)(0, SMALL_CONFIG)
    save_file(state, tmp_path / "w.safetensors")
    assert_same_weights(from_pretrained(tmp_path / "w.safetensors"), from_state_dict(state))


def test_a_training_checkpoint_of_a_wrapped_model_is_read(tmp_path):
    state = foreign_weights.magic_leap(0, SMALL_CONFIG)
    tensors = {f"_orig_mod.module.{name}": torch.from_numpy(value) for name, value in state.items()}
    for i, key in enumerate(("model", "model_state_dict", "state_dict")):
        torch.save({"n_iter": 5, key: tensors, "optimizer_state_dict": {"step": 3}}, tmp_path / f"{i}.pth")
        assert_same_weights(from_pretrained(tmp_path / f"{i}.pth"), from_state_dict(state))


@pytest.mark.parametrize("prefix", ["extractor.", "superpoint."])
def test_the_superpoint_inside_a_pipeline_is_read(tmp_path, prefix):
    state = foreign_weights.rpautrat(0, SMALL_CONFIG)
    inside = {prefix + name: value for name, value in state.items()} | {"matcher.bin_score": np.zeros(1)}
    assert_same_weights(from_pretrained(save_torch(inside, tmp_path / "both.pth")), from_state_dict(state))


def test_weights_in_several_files_are_read_by_their_index(tmp_path):
    model = model_of(random_state(4, SMALL_CONFIG), SMALL_CONFIG)
    save_pretrained(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = {key: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, key in enumerate(tensors)}
    for name in set(names.values()):
        save_file({key: tensors[key] for key in tensors if names[key] == name}, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert_same_weights(from_pretrained(tmp_path), model)
    index.write_text(json.dumps({"weight_map": names | {"more": next(iter(names.values()))}}))
    with pytest.raises(WeightsError, match="lack more"):
        from_pretrained(tmp_path)
    index.write_text(json.dumps({"weight_map": {key: f"../{name}" for key, name in names.items()}}))
    with pytest.raises(WeightsError, match="weight_map"):
        from_pretrained(tmp_path)
    index.write_text(json.dumps({"weight_map": names}))
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="lacks model-00002"):
        from_pretrained(tmp_path)


def test_transformers_folder_is_read_with_the_fields_of_its_config(tmp_path):
    theirs = transformers_model(keypoint_threshold=0.02, max_keypoints=77, nms_radius=3)
    theirs.save_pretrained(tmp_path)
    model = from_pretrained(tmp_path)
    assert model.config.replace(extra_json="") == SuperPointConfig.preset(
        "huggingface", **SMALL, keypoint_threshold=0.02, max_keypoints=77, nms_radius=3
    )
    assert_same_weights(model, model_of(random_state(0, SMALL_CONFIG), SMALL_CONFIG))


def test_pytorch_model_bin_beside_a_config_is_read(tmp_path):
    theirs = transformers_model(nms_radius=5)
    theirs.config.save_pretrained(tmp_path)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    assert from_pretrained(tmp_path).config.nms_radius == 5
    assert_same_weights(from_pretrained(tmp_path), model_of(random_state(0, SMALL_CONFIG), SMALL_CONFIG))
    assert_same_weights(from_pretrained(tmp_path / "pytorch_model.bin"), from_pretrained(tmp_path))


def test_a_single_safetensors_file_of_hugging_face_gets_its_preset_and_its_sizes_from_the_tensors(tmp_path):
    transformers_model().save_pretrained(tmp_path)
    assert from_pretrained(tmp_path / "model.safetensors").config == SuperPointConfig.preset("huggingface", **SMALL)


def test_a_preset_by_name_leaves_the_sizes_to_the_weights(tmp_path):
    path = save_torch(foreign_weights.magic_leap(0, SMALL_CONFIG), tmp_path / "v1.pth")
    assert from_pretrained(path, config="superglue").config == SuperPointConfig.preset("superglue", **SMALL)
    with pytest.raises(ValueError, match="preset 'superglu' is not known; choose one of 'huggingface'"):
        from_pretrained(path, config="superglu")


def test_options_replace_those_of_the_configuration(tmp_path):
    path = save_torch(foreign_weights.magic_leap(0, SMALL_CONFIG), tmp_path / "v1.pth")
    assert from_pretrained(path, nms_radius=2, config=SMALL_CONFIG).config == SMALL_CONFIG.replace(nms_radius=2)
    with pytest.raises(TypeError, match="unknown option radius; the options are"):
        from_pretrained(path, radius=2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("container", ["safetensors", "pth"])
def test_other_float_types_become_float32(tmp_path, dtype, container):
    from safetensors.torch import save_file as save_torch_file

    state = {n: torch.from_numpy(v).to(dtype) for n, v in foreign_weights.own(0, SMALL_CONFIG).items()}
    path = tmp_path / f"w.{container}"
    save_torch_file(state, path) if container == "safetensors" else torch.save(state, path)
    expected = {name: value.float().numpy() for name, value in state.items()}
    assert_same_weights(from_pretrained(path), from_state_dict(expected))


# What we write


@pytest.mark.parametrize("preset", ["huggingface", "magicleap", "rpautrat", "superpoint_jax"])
def test_a_saved_folder_gives_the_same_model_back(tmp_path, preset):
    config = SuperPointConfig.preset(preset, **SMALL, max_keypoints=99, dtype="bfloat16")
    model = model_of(random_state(0, config), config)
    folder = save_pretrained(model, tmp_path / "made" / "here")
    assert folder == tmp_path / "made" / "here"
    restored = from_pretrained(folder)
    assert restored.config == config
    assert_same_weights(restored, model)


def test_a_saved_file_stands_alone_and_half_precision_halves_it(tmp_path):
    config = SuperPointConfig.preset("rpautrat", **SMALL, nms_radius=7)
    model = model_of(random_state(0, config), config)
    full = save_weights(model, tmp_path / "full.safetensors")
    half = save_weights(model, tmp_path / "half.safetensors", dtype="float16")
    assert from_pretrained(full).config == from_pretrained(half).config == config
    assert_same_weights(from_pretrained(full), model)
    assert {value.dtype for value in load_file(half).values()} == {np.dtype(np.float16)}
    rounded = {name: value.astype(np.float16).astype(np.float32) for name, value in state_dict(model).items()}
    assert_same_weights(from_pretrained(half), from_state_dict(rounded))

    (tmp_path / "plain").touch()
    assert full.stat().st_mode == (tmp_path / "plain").stat().st_mode, "others may read it, as any file"


@pytest.mark.filterwarnings("default")
def test_transformers_opens_what_we_save_and_computes_the_same(tmp_path, gray_photos):
    from transformers import SuperPointForKeypointDetection

    config = SuperPointConfig.preset("huggingface", **SMALL, max_keypoints=60, keypoint_threshold=0.01)
    model = model_of(random_state(0, config), config)
    theirs, report = SuperPointForKeypointDetection.from_pretrained(
        save_pretrained(model, tmp_path), output_loading_info=True
    )
    assert not any(report.values())
    image = gray_photos["chelsea"]
    with torch.no_grad():
        expected = theirs(torch.from_numpy(image)[None, None].expand(1, 3, -1, -1))
    out = sp.extract(model, jnp.asarray(image)[None, ..., None])
    count = int(expected.mask.sum())
    assert count == int(out.mask.sum()) == 60
    size = np.array(image.shape[::-1], np.float32)
    # Hugging Face divides by the size in float32; half a pixel is what tells two pixels apart.
    xy = np.round(expected.keypoints[0].numpy() * size)
    theirs_by_pixel = {tuple(p): row for row, p in enumerate(xy)}
    rows = [theirs_by_pixel[tuple(p)] for p in np.asarray(out.keypoints[0])]
    # Two float32 convolution libraries sum in different orders; 1e-5 is what the issue allows a score.
    np.testing.assert_allclose(out.scores[0], expected.scores[0].numpy()[rows], atol=1e-5, rtol=0)
    cosines = np.sum(np.asarray(out.descriptors[0]) * expected.descriptors[0].numpy()[rows], axis=-1)
    assert cosines.min() > 0.99999


def test_our_options_survive_a_round_through_transformers(tmp_path):
    from transformers import SuperPointForKeypointDetection

    config = SuperPointConfig.preset("superpoint_jax", **SMALL, keypoint_threshold=0.03)
    model = model_of(random_state(0, config), config)
    theirs = SuperPointForKeypointDetection.from_pretrained(save_pretrained(model, tmp_path / "ours"))
    theirs.save_pretrained(tmp_path / "theirs")
    restored = from_pretrained(tmp_path / "theirs")
    # Who wrote the file is carried along as well.
    assert restored.config.replace(extra_json="") == config
    assert_same_weights(restored, model)


def test_transformers_refuses_a_model_with_batch_norm_instead_of_misreading_it(tmp_path):
    from transformers import AutoConfig, SuperPointForKeypointDetection

    plain = model_of(random_state(0, SMALL_CONFIG), SMALL_CONFIG)
    config = SuperPointConfig.preset("rpautrat", **SMALL)
    # In a folder that held a model which transformers does open: none of it may be left.
    save_pretrained(plain, tmp_path)
    save_pretrained(model_of(random_state(0, config), config), tmp_path)
    with pytest.raises(OSError, match=r"model\.safetensors"):
        SuperPointForKeypointDetection.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="superpoint_jax"):
        AutoConfig.from_pretrained(tmp_path)
    assert from_pretrained(tmp_path).config == config
    save_pretrained(plain, tmp_path)
    assert_same_weights(from_pretrained(tmp_path), plain)


@pytest.mark.parametrize(
    ("preset", "gray", "shape"), [("huggingface", False, (480, 640)), ("superpoint_jax", True, (512, 1024))]
)
def test_transformers_processor_opens_what_we_save(tmp_path, preset, gray, shape):
    """transformers reads only the largest size of our "shrink", so it also enlarges to that size."""
    from transformers import AutoImageProcessor

    config = SuperPointConfig.preset(preset, **SMALL)
    processor = AutoImageProcessor.from_pretrained(save_pretrained(model_of(random_state(0, config), config), tmp_path))
    assert type(processor).__name__.startswith("SuperPointImageProcessor")
    assert processor.do_grayscale is gray
    pixels = processor(np.zeros((100, 200, 3), np.uint8), return_tensors="np")["pixel_values"]
    assert pixels.shape == (1, 3, *shape)


def test_saving_onto_a_file_is_refused(tmp_path, model):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="is a file; save_pretrained needs a folder"):
        save_pretrained(model, tmp_path / "file")


# Files that are wrong


def test_one_error_names_everything_missing_unexpected_misshapen_and_not_of_floats(tmp_path):
    state = foreign_weights.magic_leap(0, SMALL_CONFIG)
    del state["conv2a.bias"], state["convDb.weight"]
    state["conv9z.weight"] = state["optimizer"] = np.zeros(3, np.float32)
    state["conv1a.weight"] = np.zeros((8, 3, 3, 3), np.float32)
    state["convPb.bias"] = np.zeros(64, np.float32)
    state["conv1b.bias"] = np.zeros(8, np.int64)
    with pytest.raises(WeightsError) as caught:
        from_pretrained(save_torch(state, tmp_path / "v1.pth"))
    title, *lines = str(caught.value).split("\n")
    assert title.startswith(f"{tmp_path / 'v1.pth'} does not fit a SuperPoint in Magic Leap's layout")
    assert lines == [
        "  missing: conv2a.bias, convDb.weight",
        "  unexpected: conv9z.weight, optimizer",
        "  misshapen: conv1a.weight has shape (8, 3, 3, 3), needs (8, 1, 3, 3), "
        "convPb.bias has shape (64,), needs (65,)",
        "  not of floats: conv1b.bias is int64",
    ]


def test_every_key_is_missed():
    state = foreign_weights.rpautrat(0, SMALL_CONFIG)
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    assert counters
    from_state_dict({name: value for name, value in state.items() if name not in counters})
    for name in set(state) - set(counters):
        rest = {other: value for other, value in state.items() if other != name}
        with pytest.raises(WeightsError, match=f"missing: {name}$"):
            from_state_dict(rest)


def test_rpautrats_convolutions_alone_are_not_taken_for_a_network_without_batch_norm():
    state = {n: v for n, v in foreign_weights.rpautrat(0, SMALL_CONFIG).items() if ".bn." not in n}
    with pytest.raises(WeightsError, match=r"missing: backbone\.0\.0\.bn\.weight, backbone\.0\.0\.bn\.bias"):
        from_state_dict(state)


def test_sizes_that_the_config_states_are_checked_against_the_tensors(tmp_path):
    transformers_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "descriptor_decoder_dim": 32}))
    with pytest.raises(WeightsError, match=r"conv_descriptor_b\.bias has shape \(16,\), needs \(32,\)"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "does not hold a JSON object"),
        ('{"model_type": "bert"}', "belongs to a 'bert' model; a 'superpoint' is needed"),
        ('{"encoder_hidden_sizes": [8, 8]}', "must be four channel counts"),
        ('{"encoder_hidden_sizes": "large"}', "the configuration of .*: "),
        ('{"superpoint_jax": {"warp_drive": 1}}', "warp_drive, which this version does not know; upgrade"),
        ('{"superpoint_jax": 3}', "holds 3 where an object of options is needed"),
        ('{"superpoint_jax": {"border_rule": "left"}}', "(?s)the configuration of .*border_rule"),
    ],
)
def test_a_wrong_config_json_is_a_clear_error(tmp_path, contents, message):
    transformers_model().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(contents)
    with pytest.raises(WeightsError, match=message):
        from_pretrained(tmp_path)


def _whole(kind: str, path: Path) -> bytes:
    state = foreign_weights.own(0, SMALL_CONFIG)
    if kind == "safetensors":
        save_file(state, path)
    else:
        save_torch(state, path, _use_new_zipfile_serialization=kind == "zip")
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.9999])
def test_a_truncated_file_is_a_clear_error(tmp_path, kind, share):
    path = tmp_path / "weights"
    contents = _whole(kind, path)
    path.write_bytes(contents[: int(share * len(contents))])
    with pytest.raises(WeightsError, match="download it again"):
        from_pretrained(path)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_the_whole_file_is_read_whatever_its_suffix(tmp_path, kind):
    path = tmp_path / "weights"
    _whole(kind, path)
    assert from_pretrained(path).config.encoder_hidden_sizes == (8, 8, 16, 16)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "is empty; download it again"),
        (b"\x00", "is damaged or not a weight file"),
        (b"<!DOCTYPE html><html>404</html>", "is damaged or not a weight file: it starts with b'<!DOCTYPE ht'"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "is truncated or damaged"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00{}", "holds no tensors; none belongs to a SuperPoint"),
        (b"PK\x03\x04" + bytes(100), "is truncated or damaged"),
        (b"\x80\x02" + bytes(100), "damaged"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is damaged or not a weight file"),
    ],
)
@pytest.mark.parametrize("suffix", ["safetensors", "bin", "pth"])
def test_a_file_that_is_none_is_a_clear_error(tmp_path, contents, message, suffix):
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(contents)
    with pytest.raises(WeightsError, match=message) as caught:
        from_pretrained(path)
    assert str(path) in str(caught.value)


def test_weights_of_another_network_are_a_clear_error(tmp_path):
    path = save_torch({"layer1.0.weight": np.zeros((2, 2), np.float32)}, tmp_path / "resnet.pth")
    with pytest.raises(WeightsError, match=r"keys layer1\.0\.weight; none belongs to a SuperPoint.*conv1a\.weight"):
        from_pretrained(path)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([1, 2], "holds a list; a state dict"),
        ({"epoch": 3, "weights": {}}, "holds epoch, weights, which are not tensors; a flat state dict"),
        ({}, "holds no tensors"),
    ],
)
def test_a_pickle_that_is_no_state_dict_is_a_clear_error(tmp_path, contents, message):
    torch.save(contents, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message):
        from_pretrained(tmp_path / "w.pth")


class _Malicious:
    """Its pickle, once opened by an unrestricted reader, makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("container", ["torch", "torch_legacy", "pickle"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, container):
    path, trace = tmp_path / "w.pth", tmp_path / "ran"
    malicious = {"conv1a.weight": _Malicious(trace)}
    if container == "pickle":
        path.write_bytes(pickle.dumps(malicious))
    else:
        torch.save(malicious, path, _use_new_zipfile_serialization=container == "torch")
    with pytest.raises(WeightsError, match="could run code and are not opened"):
        from_pretrained(path)
    assert not trace.exists()


def test_paths_that_are_not_there_are_clear_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; give a weight file, a folder, or a hub id"):
        from_pretrained(tmp_path / "nowhere.pth")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors does not exist"):
        from_pretrained("nowhere.safetensors")
    with pytest.raises(FileNotFoundError, match=r"has none of model\.safetensors"):
        from_pretrained(tmp_path)
    (tmp_path / "superpoint_v1.pth").touch()
    with pytest.raises(FileNotFoundError, match=r"pass the file itself: superpoint_v1\.pth"):
        from_pretrained(tmp_path)


def test_a_revision_of_a_local_path_is_refused(tmp_path):
    with pytest.raises(ValueError, match="revision='main' is for hub ids"):
        from_pretrained(tmp_path, revision="main")


# Without torch; import weight; licence


def test_safetensors_need_no_torch_and_a_pickle_says_what_to_install(tmp_path):
    save_file(foreign_weights.own(0, SMALL_CONFIG), tmp_path / "w.safetensors")
    save_torch(foreign_weights.own(0, SMALL_CONFIG), tmp_path / "w.pth")
    program = """
import sys
sys.modules["torch"] = None  # Importing it now raises ImportError.
import superpoint_jax as sp
folder = sys.argv[1]
model = sp.from_pretrained(folder + "/w.safetensors")
sp.save_pretrained(model, folder + "/saved")
assert sp.from_pretrained(folder + "/saved").config == model.config
try:
    sp.from_pretrained(folder + "/w.pth")
except ImportError as error:
    print(error)
assert not {"transformers", "huggingface_hub.hf_api"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pip install 'superpoint-jax[pickle]'" in done.stdout


def test_importing_the_library_imports_neither_safetensors_nor_the_hub():
    program = "import sys, superpoint_jax; print(*{'torch', 'safetensors', 'huggingface_hub'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_magic_leaps_licence_is_shown_once(tmp_path, caplog):
    path = save_torch(foreign_weights.magic_leap(0, SMALL_CONFIG), tmp_path / "v1.pth")
    with caplog.at_level(logging.WARNING, logger="superpoint_jax"):
        from_pretrained(path)
        from_pretrained(path)
    (record,) = caplog.records
    assert "non-commercial research only" in record.message


def test_other_weights_show_no_licence(tmp_path, caplog, random_model):
    from_pretrained()
    from_pretrained(save_torch(foreign_weights.rpautrat(0, SMALL_CONFIG), tmp_path / "w.pth"))
    folder = save_pretrained(random_model(0), tmp_path / "ours")
    from_pretrained(folder)
    from_pretrained(folder / "model.safetensors")
    assert not caplog.records


def test_a_local_copy_of_hugging_faces_file_shows_the_licence_and_keeps_it(tmp_path, caplog):
    model = from_pretrained(save_torch(foreign_weights.own(0, SMALL_CONFIG), tmp_path / "pytorch_model.bin"))
    assert len(caplog.records) == 1
    show_notice_once.cache_clear()
    from_pretrained(save_pretrained(model, tmp_path / "again"))
    assert len(caplog.records) == 2


def test_converting_magic_leaps_weights_does_not_lose_their_licence(tmp_path, caplog):
    path = save_torch(foreign_weights.magic_leap(0, SMALL_CONFIG), tmp_path / "v1.pth")
    folder = convert(path, tmp_path / "converted")
    assert from_pretrained(folder).config == SuperPointConfig.preset("magicleap", **SMALL)
    for source in (folder, folder / "model.safetensors"):
        show_notice_once.cache_clear()
        caplog.clear()
        from_pretrained(source)
        assert len(caplog.records) == 1


# The weights in the package


def test_the_bundled_weights_load_in_float32_with_our_preset(gray_photos):
    model = from_pretrained()
    assert model.config == SuperPointConfig.preset("superpoint_jax", refinement="learned", refinement_head=True)
    assert {value.dtype for value in state_dict(model).values()} == {np.dtype(np.float32)}
    assert int(sp.extract(model, jnp.asarray(gray_photos["camera"])[None, ..., None]).num_detected[0]) > 50


def test_the_bundled_file_is_float16_under_3_megabytes_and_in_hugging_faces_layout():
    resource = importlib.resources.files("superpoint_jax.weights") / "data" / "superpoint_jax.safetensors"
    with importlib.resources.as_file(resource) as path:
        assert path.stat().st_size < 3_000_000
        with safe_open(path, framework="numpy") as file:
            dtypes = {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
    config = SuperPointConfig(refinement_head=True)
    assert dtypes.keys() == state_dict(SuperPoint(config, rngs=nnx.Rngs(0))).keys()
    assert set(dtypes.values()) == {"F16"}
