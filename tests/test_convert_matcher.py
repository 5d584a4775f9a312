"""`python -m convert` on matchers: what it proves, and that the proof can fail."""

import numpy as np
import pytest
from PIL import Image

import superpoint_jax as sp
from superpoint_jax.lightglue import conversion
from superpoint_jax.lightglue.save import save_pretrained
from tests.test_lightglue_weights import foreign_state

torch = pytest.importorskip("torch")
program = pytest.importorskip("convert.__main__")

LAYERS = ("layer 1", "layer 2", "layer 3")


@pytest.fixture(scope="module")
def photo(tmp_path_factory, photos) -> str:
    path = tmp_path_factory.mktemp("photos") / "coffee.png"
    Image.fromarray(photos["coffee"][:120, :203]).save(path)
    return str(path)


def save_source(style: str, folder) -> str:
    if style == "transformers":
        from transformers import LightGlueConfig, LightGlueForKeypointMatching, SuperPointConfig

        torch.manual_seed(0)
        detector = SuperPointConfig(encoder_hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=16)
        config = LightGlueConfig(keypoint_detector_config=detector, num_hidden_layers=3, filter_threshold=0.0)
        LightGlueForKeypointMatching(config).save_pretrained(folder / "source")
        return str(folder / "source")
    state = {name: torch.from_numpy(value) for name, value in foreign_state(style).items()}
    # Points that stay apart, or no pair would stand out.
    factors = {"input_proj.weight": 4, "ffn.3.weight": 0.1, "ffn.3.bias": 0.1, "final_proj.weight": 8}
    for name, value in state.items():
        for ending, factor in factors.items():
            value *= factor if name.endswith(ending) else 1
        if name.endswith("matchability.bias"):
            value.fill_(3)
    torch.save({"model": state} if style == "glue-factory" else state, folder / "source.pth")
    return str(folder / "source.pth")


@pytest.mark.parametrize("style", ["published", "first", "glue-factory", "transformers"])
def test_every_layout_converts_and_equals_its_original(tmp_path, capsys, photo, style):
    source = save_source(style, tmp_path)
    arguments = [source, "-o", str(tmp_path / "out"), "--verify", "--images", photo]
    assert program.main(arguments) == 0, capsys.readouterr().out
    out = capsys.readouterr().out
    lines = {line[:15].strip(): line for line in out.splitlines()}
    for stage in (*LAYERS, "probabilities", "matches", "scores"):
        assert " pass " in lines[stage]
    assert int(out.split("matches: ")[1].split(" in common")[0]) > 10
    assert out.rstrip().endswith("the same within rounding")
    assert sp.LightGlue.from_pretrained(tmp_path / "out").config == sp.LightGlue.from_pretrained(source).config
    if style == "transformers":
        assert sp.from_pretrained(tmp_path / "out").config == sp.from_pretrained(source).config


@pytest.mark.parametrize(
    ("layer", "stage"),
    [
        ("transformer_layers.self_attention.k_proj", "layer 2"),
        ("transformer_layers.cross_mlp.fc1", "layer 2"),
        ("match_assignment_layers.final_projection", "probabilities"),
    ],
)
def test_a_conversion_with_one_matrix_off_fails_at_its_stage(tmp_path, capsys, monkeypatch, photo, layer, stage):
    def spoiled(source, folder, *, revision=None):
        model = sp.LightGlue.from_pretrained(source, revision=revision)
        module = model
        for part in layer.split("."):
            module = getattr(module, part)
        index = 1 if "transformer" in layer else 2
        module.kernel[...] = module.kernel[...].at[index].multiply(1.1)
        return save_pretrained(model, folder)

    monkeypatch.setattr("convert.verification.convert_matcher", spoiled)
    arguments = [save_source("published", tmp_path), "-o", str(tmp_path / "out"), "--verify", "--images", photo]
    assert program.main(arguments) == 1
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if " pass " in line or " FAIL " in line]
    assert next(line[:15].strip() for line in rows if " FAIL " in line) == stage
    assert "NOT the same" in out


def test_a_superpoint_is_no_lightglue(tmp_path):
    sp.save_pretrained(sp.from_pretrained(), tmp_path)
    assert not conversion.is_lightglue(tmp_path)
    np.savez(tmp_path / "other.pth", x=np.zeros(3))
    with pytest.raises(FileNotFoundError):
        conversion.is_lightglue(tmp_path / "none.pth")
