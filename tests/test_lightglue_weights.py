"""LightGlue's checkpoints: every layout in, Hugging Face's out, and errors that name every tensor."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import superpoint_jax as sp
from superpoint_jax import cli
from superpoint_jax.geometry import warp_images, warp_points
from superpoint_jax.lightglue.assembly import from_state_dict, state_dict
from superpoint_jax.lightglue.save import save_weights
from tests.conftest import SMALL as SMALL_SUPERPOINT
from tests.lightglue_features import make_pair, random_matcher

LAYERS, SIZE, HEADS = 3, 32, 2


def foreign_state(style: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights as cvg's files name them. Written out, not by the library's key maps."""
    rng = np.random.default_rng(seed)
    state = {}

    def linear(name: str, outputs: int, inputs: int, bias: bool = True) -> None:
        state[f"{name}.weight"] = rng.normal(size=(outputs, inputs)).astype(np.float32) / np.float32(np.sqrt(inputs))
        if bias:
            state[f"{name}.bias"] = rng.normal(size=outputs).astype(np.float32) / 10

    linear("input_proj", SIZE, 16)
    linear("posenc.Wr", SIZE // HEADS // 2, 2, bias=False)
    for i in range(LAYERS):
        for block, maps in (("self_attn", {"Wqkv": 3, "out_proj": 1}), ("cross_attn", dict(to_qk=1, to_v=1, to_out=1))):
            name = f"transformers.{i}.{block}" if style != "first" else f"{block}.{i}"
            for layer, factor in maps.items():
                linear(f"{name}.{layer}", factor * SIZE, SIZE)
            linear(f"{name}.ffn.0", 2 * SIZE, 2 * SIZE)
            state[f"{name}.ffn.1.weight"] = np.ones(2 * SIZE, np.float32)
            state[f"{name}.ffn.1.bias"] = np.zeros(2 * SIZE, np.float32)
            linear(f"{name}.ffn.3", SIZE, 2 * SIZE)
        linear(f"log_assignment.{i}.final_proj", SIZE, SIZE)
        linear(f"log_assignment.{i}.matchability", 1, SIZE)
        if style == "first":
            state[f"log_assignment.{i}.r"] = np.ones(1, np.float32)
        if i < LAYERS - 1:
            linear(f"token_confidence.{i}.token.0", 1, SIZE)
    if style == "saved by cvg's code":
        state["confidence_thresholds"] = np.ones(LAYERS, np.float32)
    if style == "glue-factory":
        state = {f"matcher.{name}": value for name, value in state.items()}
        state["extractor.conv1a.weight"] = np.zeros((64, 1, 3, 3), np.float32)
    return state


STYLES = ("published", "first", "saved by cvg's code", "glue-factory")


def assert_equal_leaves(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("style", STYLES)
def test_every_style_of_keys_gives_the_same_network(style):
    expected = from_state_dict(foreign_state("published"))
    found = from_state_dict(foreign_state(style))
    assert found.config == expected.config
    assert found.config == sp.LightGlueConfig(
        input_dim=16, descriptor_dim=SIZE, num_hidden_layers=LAYERS, num_attention_heads=HEADS
    )
    assert_equal_leaves(found, expected)


def test_query_key_and_value_take_turns_in_cvg_s_rows():
    state = foreign_state("published")
    rows = state["transformers.1.self_attn.Wqkv.weight"].reshape(HEADS, SIZE // HEADS, 3, SIZE)
    attention = from_state_dict(state).transformer_layers.self_attention
    for part, projection in enumerate((attention.q_proj, attention.k_proj, attention.v_proj)):
        np.testing.assert_array_equal(projection.kernel[1].T, rows[:, :, part].reshape(SIZE, SIZE))


@pytest.mark.parametrize(
    "options", [{}, dict(input_dim=32), dict(tied_cross_attention=False), dict(num_hidden_layers=1)]
)
def test_a_state_dict_goes_out_and_back(options):
    model = random_matcher(**options)
    again = from_state_dict(state_dict(model), config=model.config)
    assert_equal_leaves(again, model)
    assert from_state_dict(state_dict(model)).config == model.config.replace(filter_threshold=0.1)


@pytest.mark.parametrize("style", STYLES)
def test_one_message_names_everything_that_is_wrong(style):
    prefix = "matcher." if style == "glue-factory" else ""
    block = "self_attn.1" if style == "first" else "transformers.1.self_attn"
    state = foreign_state(style)
    del state[f"{prefix}{block}.Wqkv.bias"], state[f"{prefix}log_assignment.2.final_proj.weight"]
    state[f"{prefix}{block}.out_proj.weight"] = np.zeros((3, 4), np.float32)
    state[f"{prefix}posenc.extra"] = np.zeros(2, np.float32)
    state[f"{prefix}{block}.ffn.0.bias"] = np.zeros(2 * SIZE, np.int32)
    with pytest.raises(sp.WeightsError) as error:
        from_state_dict(state, origin="the file")
    message = str(error.value)
    assert message.startswith("the file does not fit a LightGlue in cvg's")
    assert f"missing: {block}.Wqkv.bias, log_assignment.2.final_proj.weight" in message
    assert "unexpected: posenc.extra" in message
    assert f"misshapen: {block}.out_proj.weight has shape (3, 4), needs (32, 32)" in message
    assert f"not of floats: {block}.ffn.0.bias is int32" in message


def test_a_layer_that_is_missing_is_named_and_does_not_shorten_the_network():
    state = {
        name: value for name, value in foreign_state("published").items() if not name.startswith("transformers.1.")
    }
    with pytest.raises(sp.WeightsError, match=r"missing: transformers\.1\.self_attn\.Wqkv\.weight"):
        from_state_dict(state)
    whole = foreign_state("published") | {"transformers.77.self_attn.Wqkv.weight": np.zeros((96, 32), np.float32)}
    with pytest.raises(sp.WeightsError, match=r"num_hidden_layers=3.*\n  unexpected: transformers\.77"):
        from_state_dict(whole)


def test_what_is_no_lightglue_for_places_alone_is_refused():
    with pytest.raises(sp.WeightsError, match=r"keys encoder.*none belongs to a LightGlue"):
        from_state_dict({"encoder": np.zeros(3, np.float32)})
    with pytest.raises(sp.WeightsError, match="needs scale and orientation of each keypoint"):
        from_state_dict(foreign_state("published") | {"posenc.Wr.weight": np.zeros((8, 4), np.float32)})


def test_pickles_are_read_and_training_checkpoints_too(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(value) for name, value in foreign_state("first").items()}
    torch.save(tensors, tmp_path / "disk_lightglue.pth")
    training = {
        "model": {name: torch.from_numpy(value) for name, value in foreign_state("glue-factory").items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
        "conf": {"model": {"matcher": {"name": "matchers.lightglue"}}},
        "epoch": 3,
        "losses": {"total": np.float64(0.4), "last": np.float32(0.3), "rows": np.int64(3)},
    }
    torch.save(training, tmp_path / "checkpoint_best.tar")
    for name in ("disk_lightglue.pth", "checkpoint_best.tar"):
        assert_equal_leaves(sp.LightGlue.from_pretrained(tmp_path / name), from_state_dict(foreign_state("published")))


def test_the_command_converts_a_matcher(tmp_path, capsys):
    path = save_weights(random_matcher(filter_threshold=0.3), tmp_path / "matcher.safetensors")
    assert cli.main(["convert", str(path), "-o", str(tmp_path / "out")]) == 0
    assert " -> " in capsys.readouterr().out
    assert sp.LightGlue.from_pretrained(tmp_path / "out").config.filter_threshold == 0.3
    assert cli.main(["convert", str(tmp_path / "none.pth"), "-o", str(tmp_path / "out")]) != 0


def test_options_stand_in_for_what_belongs_to_the_weights(tmp_path):
    path = save_weights(random_matcher(), tmp_path / "matcher.safetensors")
    matcher = sp.LightGlue.from_pretrained(path, filter_threshold=0.3, depth_confidence=0.95, dtype="bfloat16")
    assert matcher.config == random_matcher().config.replace(
        filter_threshold=0.3, depth_confidence=0.95, dtype="bfloat16"
    )
    with pytest.raises(TypeError, match="unknown option threshold"):
        sp.LightGlue.from_pretrained(path, threshold=0.3)
    with pytest.raises(sp.WeightsError, match=r"misshapen: .*positional_encoder"):
        sp.LightGlue.from_pretrained(path, num_attention_heads=4)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        sp.LightGlue.from_pretrained(tmp_path / "none.pth")


def test_a_file_stands_alone_and_half_precision_halves_it(tmp_path):
    model = random_matcher(depth_confidence=0.9, input_dim=32, input_projection=True)
    whole = save_weights(model, tmp_path / "whole.safetensors")
    half = save_weights(model, tmp_path / "half.safetensors", dtype="float16")
    assert_equal_leaves(sp.LightGlue.from_pretrained(whole), model)
    assert sp.LightGlue.from_pretrained(half).config == model.config
    assert half.stat().st_size < 0.6 * whole.stat().st_size


@pytest.mark.parametrize("extractor", [True, False])
def test_a_folder_comes_back(tmp_path, random_model, extractor):
    model = random_matcher(depth_confidence=0.9)
    superpoint = random_model(0)
    model.save_pretrained(tmp_path / "out")
    model.save_pretrained(tmp_path / "out", extractor=superpoint if extractor else None)
    again = sp.LightGlue.from_pretrained(tmp_path / "out")
    assert again.config == model.config
    assert_equal_leaves(again, model)
    names = {path.name for path in (tmp_path / "out").glob("*.safetensors")}
    if extractor:
        inside = sp.from_pretrained(tmp_path / "out")
        assert inside.config == superpoint.config
        assert_equal_leaves(inside, superpoint)
        assert names == {"model.safetensors"}
    else:
        assert names == {"superpoint_jax_lightglue.safetensors"}
        with pytest.raises(sp.WeightsError):
            sp.from_pretrained(tmp_path / "out")


def test_the_licence_of_the_extractor_travels(tmp_path, random_model):
    superpoint = random_model(0)
    superpoint.magic_leap[...] = 1.0
    random_matcher().save_pretrained(tmp_path, extractor=superpoint)
    assert sp.from_pretrained(tmp_path).origin == "magicleap"
    random_matcher().save_pretrained(tmp_path, extractor=random_model(0))
    assert sp.from_pretrained(tmp_path).origin is None


def test_an_extractor_that_does_not_fit_is_refused(tmp_path, random_model):
    with pytest.raises(ValueError, match="descriptors have length 16; this LightGlue takes 32"):
        random_matcher(input_dim=32).save_pretrained(tmp_path, extractor=random_model(0))
    with pytest.raises(ValueError, match="batch norm"):
        random_matcher().save_pretrained(tmp_path, extractor=random_model(0, batch_norm=True))
    square = random_matcher(input_dim=16, descriptor_dim=16, input_projection=True)
    with pytest.raises(ValueError, match="projects descriptors of length 16 to states of the same length"):
        square.save_pretrained(tmp_path, extractor=random_model(0))
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        random_matcher().save_pretrained(tmp_path / "file")


def test_a_config_json_of_another_network_is_refused(tmp_path):
    random_matcher().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    contents = json.loads(path.read_text())
    for change, message in (
        ({"model_type": "superglue"}, "belongs to a 'superglue' model"),
        ({"superpoint_jax_lightglue": {"layers": 3}}, "states layers, which this version does not know"),
        ({"superpoint_jax_lightglue": 3}, "where an object of options is needed"),
    ):
        path.write_text(json.dumps(contents | change))
        with pytest.raises(sp.WeightsError, match=message):
            sp.LightGlue.from_pretrained(tmp_path)
    theirs = {"model_type": "lightglue", "descriptor_dim": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    path.write_text(json.dumps(theirs | {"hidden_act": "relu"}))
    with pytest.raises(sp.WeightsError, match="hidden_act"):
        sp.LightGlue.from_pretrained(tmp_path)
    path.write_text(json.dumps(theirs))
    assert sp.LightGlue.from_pretrained(tmp_path).config.filter_threshold == 0.1


@pytest.fixture(scope="module")
def transformers_folder(tmp_path_factory):
    """A LightGlue of transformers with its SuperPoint, as transformers saves it."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LightGlueConfig(
        keypoint_detector_config=transformers.SuperPointConfig(**SMALL_SUPERPOINT, max_keypoints=77),
        descriptor_dim=SIZE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        filter_threshold=0.2,
    )
    folder = tmp_path_factory.mktemp("transformers")
    transformers.LightGlueForKeypointMatching(config).save_pretrained(folder)
    return folder


def test_both_networks_come_out_of_transformers_folder(transformers_folder):
    matcher, extractor = sp.LightGlue.from_pretrained(transformers_folder), sp.from_pretrained(transformers_folder)
    assert matcher.config == sp.LightGlueConfig(
        input_dim=16,
        descriptor_dim=SIZE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        tied_cross_attention=False,
        filter_threshold=0.2,
    )
    assert extractor.config == sp.SuperPointConfig.preset("huggingface", **SMALL_SUPERPOINT, max_keypoints=77)
    assert extractor.origin == "magicleap"  # In doubt: transformers cannot train one.
    a, b = make_pair(0, (20, 30), 16, ((72, 104), (72, 104)))
    assert sp.match(a, b, matcher=matcher, min_score=0.0).mask.any()


@pytest.mark.filterwarnings("default")
def test_transformers_opens_what_is_saved(tmp_path, transformers_folder, random_model):
    from transformers import LightGlueForKeypointMatching

    saved = sp.LightGlue.from_pretrained(transformers_folder)
    saved.save_pretrained(tmp_path, extractor=sp.from_pretrained(transformers_folder))
    again, information = LightGlueForKeypointMatching.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(information[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected = LightGlueForKeypointMatching.from_pretrained(transformers_folder).state_dict()
    assert again.state_dict().keys() == expected.keys()
    for name, value in again.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), expected[name].numpy())
    assert (again.config.filter_threshold, again.depth_confidence, again.width_confidence) == (0.2, -1, -1)
    assert again.config.keypoint_detector_config.max_keypoints == 77
    tied = random_matcher(filter_threshold=0.3)
    tied.save_pretrained(tmp_path, extractor=random_model(0))
    assert LightGlueForKeypointMatching.from_pretrained(tmp_path).config.filter_threshold == 0.3


def test_the_matcher_of_the_package_is_better_than_nearest_neighbours(gray_photos):
    """On a photo and its warp; so file, names and normalisation of positions are those that it was trained with."""
    model, matcher = sp.from_pretrained(), sp.LightGlue.from_pretrained()
    assert matcher.config.input_dim == model.config.descriptor_decoder_dim
    photo = jnp.asarray(gray_photos["coffee"])[None, :, :, None]
    homography = jnp.array([[[0.85, -0.25, 60.0], [0.2, 0.8, 5.0], [2e-4, 3e-4, 1.0]]])
    view, _ = warp_images(photo, homography)
    a, b = (sp.extract(model, images, max_keypoints=256) for images in (photo, view))
    expected = warp_points(homography, a.keypoints)[0]
    rates = []
    for options in ({}, {"matcher": matcher}):
        found = sp.match(a, b, **options)[0]
        errors = jnp.linalg.norm(expected - b.keypoints[0][jnp.maximum(found.indices, 0)], axis=-1)
        right = int((found.mask & (errors < 3)).sum())
        rates.append((right, right / int(found.mask.sum())))
    (nearest_right, nearest_precision), (right, precision) = rates
    assert right >= nearest_right
    assert 1 - precision < 0.5 * (1 - nearest_precision)
    assert precision > 0.95
