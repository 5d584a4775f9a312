"""`python -m convert`: what it writes, what it proves, and that the proof can fail."""

import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from convert.comparison import Row, compare, split_by_reason, table, worst
from convert.stages import Stages, our_stages
from superpoint_jax import SuperPointConfig, from_pretrained, save_pretrained
from superpoint_jax.weights import convert, from_state_dict
from tests import foreign_weights
from tests.conftest import SMALL

torch = pytest.importorskip("torch")
program = pytest.importorskip("convert.__main__")

CONFIG = SuperPointConfig(**SMALL)
STAGES = [
    *(f"block {i}" for i in range(1, 5)),
    "logits",
    "score map",
    "suppressed map",
    "keypoints",
    "scores",
    "descriptors",
]


def save_source(kind: str, folder: Path) -> Path:
    """A file as its publisher would save it: Hugging Face's as a folder, the others as pickles."""
    if kind == "huggingface":
        from transformers import SuperPointConfig as TheirConfig
        from transformers import SuperPointForKeypointDetection

        theirs = SuperPointForKeypointDetection(TheirConfig(**SMALL, max_keypoints=50, nms_radius=3))
        theirs.load_state_dict({n: torch.from_numpy(v) for n, v in foreign_weights.own(0, CONFIG).items()})
        theirs.save_pretrained(folder / "source")
        return folder / "source"
    state = getattr(foreign_weights, kind)(0, CONFIG)
    torch.save({n: torch.from_numpy(np.array(v)) for n, v in state.items()}, folder / "source.pth")
    return folder / "source.pth"


@pytest.fixture(scope="session")
def two_photos(tmp_path_factory, photos) -> list[str]:
    """Crops of two sizes, no multiples of 8."""
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(photos["coffee"][:101, :150]).save(folder / "coffee.png")
    Image.fromarray(photos["camera"][40:160, 60:163]).save(folder / "camera.png")
    return [str(folder / "coffee.png"), str(folder / "camera.png")]


@pytest.mark.parametrize(
    ("kind", "preset"),
    [
        ("huggingface", "huggingface"),
        ("magic_leap", "magicleap"),
        ("rpautrat", "rpautrat"),
        ("shaofengzeng", "rpautrat"),
        ("pytorch_superpoint", "magicleap"),
    ],
)
def test_every_layout_converts_and_equals_its_original(tmp_path, capsys, two_photos, kind, preset):
    source = save_source(kind, tmp_path)
    arguments = [str(source), "-o", str(tmp_path / "out"), "--verify", "--images", *two_photos]
    assert program.main(arguments) == 0, capsys.readouterr().out
    out = capsys.readouterr().out
    lines = {line[:15].strip(): line for line in out.splitlines()}
    for stage in STAGES:
        assert " pass " in lines[stage]
    assert f"rules: '{preset}'" in out
    assert out.rstrip().endswith("the same within rounding")
    # Hundreds of keypoints or the comparison would be empty.
    counts = [int(line.split("keypoints: ")[1].split(" in common")[0]) for line in out.splitlines() if "x1" in line]
    assert len(counts) == 2
    assert min(counts) > 30
    converted = from_pretrained(tmp_path / "out")
    assert converted.config == from_pretrained(source).config


@pytest.mark.parametrize("kind", ["huggingface", "magic_leap", "rpautrat"])
@pytest.mark.parametrize(
    ("layer", "stage"),
    [
        ("encoder.conv_blocks.2.conv_b", "block 3"),
        ("keypoint_decoder.conv_score_a", "logits"),
        ("descriptor_decoder.conv_descriptor_b", "descriptors"),
    ],
)
def test_a_conversion_with_one_channel_off_by_two_percent_fails_at_its_stage(
    tmp_path, capsys, monkeypatch, two_photos, kind, layer, stage
):
    def spoiled(source, folder, *, revision=None):
        model = from_pretrained(source, revision=revision)
        module = model
        for part in layer.split("."):
            module = module[int(part)] if part.isdigit() else getattr(module, part)
        # One output channel of the layer, so that normalising the descriptor does not hide it.
        module.kernel[...] = module.kernel[...].at[..., 0].multiply(1.02)
        return save_pretrained(model, folder)

    monkeypatch.setattr("convert.verification.convert", spoiled)
    arguments = [str(save_source(kind, tmp_path)), "-o", str(tmp_path / "out"), "--verify", "--images", two_photos[0]]
    assert program.main(arguments) == 1
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if " pass " in line or " FAIL " in line]
    failed = [line[:15].strip() for line in rows if " FAIL " in line]
    assert failed[0] == stage
    assert "NOT the same" in out


def test_the_wrong_rules_fail_at_the_keypoints(two_photos, tmp_path):
    from convert.originals import original
    from convert.photos import load_photos
    from superpoint_jax.weights.keys import RPAUTRAT

    state = foreign_weights.rpautrat(0, CONFIG)
    config = SuperPointConfig.preset("rpautrat", **SMALL)
    model = from_state_dict(state, config=config.replace(border_removal_distance=8, sampling_rule="legacy"))
    (gray, _) = load_photos([Path(path) for path in two_photos]).values()
    rows = compare("photo", original(state, RPAUTRAT, config)(gray), our_stages(model, gray), config)
    assert [row.stage for row in rows if not row.passed] == ["keypoints", "descriptors"]


def _stages(score_map: np.ndarray, kept: list[tuple[int, int]]) -> Stages:
    """Stages that differ in what suppression keeps; (x, y) of the kept pixels."""
    suppressed = np.zeros_like(score_map)
    for x, y in kept:
        suppressed[y, x] = score_map[y, x]
    xy = np.array(kept, np.float32).reshape(-1, 2)
    empty = np.zeros((1, 1, 1), np.float32)
    descriptors = np.ones((len(kept), 2), np.float32)
    scores = np.array([score_map[y, x] for x, y in kept], np.float32)
    return Stages((empty,), empty, score_map, suppressed, xy, scores, descriptors)


def test_a_tie_that_fell_the_other_way_is_rounding_and_a_lost_keypoint_is_not():
    config = SuperPointConfig(nms_radius=2)
    scores = np.full((12, 20), 0.001, np.float32)
    scores[5, 5], scores[5, 6] = 0.5, 0.5 + 5e-6  # a tie: either may be kept
    scores[5, 9] = 0.4  # freed or suppressed, as the tie falls
    scores[5, 16] = 0.3  # far from both
    original, ours = _stages(scores, [(6, 5), (16, 5)]), _stages(scores, [(5, 5), (9, 5)])
    explained, unexplained = split_by_reason(original, ours, config)
    assert explained == {(5, 5), (6, 5), (9, 5)}
    assert unexplained == {(16, 5)}
    rows = {row.stage: row for row in compare("photo", original, ours, config)}
    assert not rows["suppressed map"].passed
    assert rows["keypoints"].difference == 1
    assert rows["keypoints"].note == "0 in common of 2 and 2"


def test_a_score_at_the_threshold_is_rounding():
    config = SuperPointConfig(nms_radius=2, keypoint_threshold=0.3)
    scores = np.zeros((12, 20), np.float32)
    scores[5, 5], scores[5, 14] = 0.3 + 5e-6, 0.3 + 5e-4
    both = _stages(scores, [(5, 5), (14, 5)])

    def without(kept: list[tuple[int, int]]) -> Stages:
        fewer = _stages(scores, kept)
        return Stages(both.blocks, both.logits, scores, both.suppressed, fewer.keypoints_xy, fewer.scores,
                      fewer.descriptors)  # fmt: skip

    assert all(row.passed for row in compare("photo", both, without([(14, 5)]), config))
    failed = [row.stage for row in compare("photo", both, without([(5, 5)]), config) if not row.passed]
    assert failed == ["keypoints"]


def test_nan_never_passes_and_is_the_worst():
    rows = [Row("logits", name, value, 1.0, "") for name, value in (("a", 0.5), ("b", float("nan")), ("c", 0.7))]
    assert not rows[1].passed
    (row,) = worst(rows)
    assert row.photo == "b"
    assert "FAIL" in list(table([row]))[1]


def test_a_plain_conversion_needs_no_original_and_its_folder_no_torch(tmp_path, capsys):
    source = save_source("magic_leap", tmp_path)
    assert program.main([str(source), "-o", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert capsys.readouterr().out == f"{source} -> {tmp_path / 'out'}\n"
    image = jnp.zeros((1, 16, 24, 1))
    converted, direct = from_pretrained(tmp_path / "out"), from_pretrained(source)
    np.testing.assert_array_equal(converted(image).logits, direct(image).logits)


def test_converting_what_is_converted_changes_nothing(tmp_path):
    once = convert(save_source("rpautrat", tmp_path), tmp_path / "once")
    twice = convert(once, tmp_path / "twice")
    assert (once / "config.json").read_bytes() == (twice / "config.json").read_bytes()
    # Not their bytes: safetensors writes the metadata's entries in any order.
    with (
        safe_open(once / "superpoint_jax.safetensors", "numpy") as first,
        safe_open(twice / "superpoint_jax.safetensors", "numpy") as second,
    ):
        assert first.metadata() == second.metadata()
        assert first.keys() == second.keys()
        for key in first.keys():  # noqa: SIM118
            np.testing.assert_array_equal(first.get_tensor(key), second.get_tensor(key))


@pytest.mark.parametrize(
    ("contents", "message"), [(None, "does not exist"), (b"", "is empty"), (b"<html>", "not a weight file")]
)
def test_what_cannot_be_converted_is_one_line_and_exit_code_2(tmp_path, capsys, contents, message):
    source = tmp_path / "w.pth"
    if contents is not None:
        source.write_bytes(contents)
    assert program.main([str(source), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_verified_is_exit_code_2(tmp_path, capsys, two_photos):
    out = str(tmp_path / "out")
    (tmp_path / "no.png").write_text("text")
    source = str(save_source("magic_leap", tmp_path))
    assert program.main([source, "-o", out, "--verify", "--images", str(tmp_path / "no.png")]) == 2
    assert "no.png: not an image" in capsys.readouterr().err
    normalised = SuperPointConfig(**SMALL, batch_norm=True)
    save_file(foreign_weights.own(0, normalised), tmp_path / "own.safetensors")
    assert program.main([str(tmp_path / "own.safetensors"), "-o", out, "--verify", "--images", two_photos[0]]) == 2
    assert "no PyTorch original has batch norm in this layout" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_itself_on_the_default_photos(tmp_path):
    source = save_source("huggingface", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "convert", str(source), "-o", str(tmp_path / "out"), "--verify"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("camera", "coffee", "chelsea", "rocket", "coins", "page"):
        assert f"\n{name}: " in done.stdout


def test_the_command_with_wrong_arguments_is_exit_code_2(capsys):
    with pytest.raises(SystemExit) as caught:
        program.main(["source"])
    assert caught.value.code == 2
    assert "-o/--output" in capsys.readouterr().err
