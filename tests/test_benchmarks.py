"""The benchmarks: contenders compute the same thing, and the program says what it measured and what it skipped."""

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from benchmarks import __main__ as program
from benchmarks import ahead, compiled, draw
from benchmarks.agreement import agreement
from benchmarks.contenders import CONTENDERS
from benchmarks.contenders.setting import NotAvailable, Setting, descriptor_sets, photo
from benchmarks.floor import floor_seconds, layers, work
from benchmarks.measuring import measure
from benchmarks.stages import stages
from superpoint_jax import SuperPointConfig

SMALL = Setting(batch=2, height=64, width=96, max_keypoints=40)


def test_the_naive_network_and_ours_give_the_same_dense_features():
    dense = CONTENDERS["superpoint_jax float32"].call_of("network", SMALL)()
    logits, descriptors = CONTENDERS["naive JAX float32"].call_of("network", SMALL)()
    np.testing.assert_allclose(dense.logits, logits, rtol=0, atol=1e-4)
    np.testing.assert_allclose(dense.descriptors, descriptors, rtol=0, atol=1e-5)


def test_our_decoding_alone_gives_the_keypoints_of_the_whole():
    decoded, whole = (
        CONTENDERS["superpoint_jax float32"].call_of(suite, SMALL)() for suite in ("decoding", "end-to-end")
    )
    np.testing.assert_array_equal(decoded.mask, whole.mask)
    np.testing.assert_allclose(decoded.keypoints, whole.keypoints, atol=1e-3)


def test_the_port_and_we_give_the_same_dense_features():
    pytest.importorskip("transformers")
    dense = CONTENDERS["superpoint_jax float32"].call_of("network", SMALL)()
    logits, _ = CONTENDERS["transformers float32"].call_of("network", SMALL)()
    np.testing.assert_allclose(dense.logits, logits.permute(0, 2, 3, 1), rtol=0, atol=1e-4)


def test_our_matches_are_those_of_the_usual_code():
    pytest.importorskip("torch")
    ours = CONTENDERS["superpoint_jax float32"].call_of("match", SMALL)()
    theirs = CONTENDERS["transformers float32"].call_of("match", SMALL)()
    np.testing.assert_array_equal(ours.indices, theirs)
    assert np.sum(ours.indices >= 0) >= SMALL.max_keypoints  # Half of the rows of both images are true pairs.


def test_data_is_what_it_says():
    assert photo(SMALL).shape == (2, 64, 96, 1)
    for descriptors in descriptor_sets(SMALL):
        np.testing.assert_allclose(np.linalg.norm(descriptors, axis=-1), 1, rtol=1e-6)


@pytest.mark.parametrize(("name", "suite"), [("naive JAX float32", "match"), ("OpenVINO float32", "decoding")])
def test_who_cannot_take_part_says_so(name, suite):
    with pytest.raises(NotAvailable):
        CONTENDERS[name].call_of(suite, SMALL)


def test_contenders_are_chosen_by_a_part_of_their_name():
    assert program.selected(()) == list(CONTENDERS)
    assert program.selected(("naive",)) == ["naive JAX float32", "naive JAX bfloat16", "transformers float32"]
    with pytest.raises(SystemExit, match="no contender's name contains nobody"):
        program.selected(("nobody",))


def test_the_work_is_counted_by_hand():
    config = SuperPointConfig(encoder_hidden_sizes=(2, 2, 4, 4), decoder_hidden_size=8, descriptor_decoder_dim=16)
    # Blocks at 16x8, 8x4, 4x2 and 2x1 pixels, then two heads at 2x1 cells.
    taps = 128 * 9 * (1 * 2 + 2 * 2) + 32 * 9 * (2 * 2 + 2 * 2) + 8 * 9 * (2 * 4 + 4 * 4) + 2 * 9 * (4 * 4 + 4 * 4)
    taps += 2 * (9 * 4 * 8 + 8 * 65) + 2 * (9 * 4 * 8 + 8 * 16)
    setting = Setting(batch=3, height=16, width=8, max_keypoints=1)
    assert work(config, setting, "float32")["operations"] == 3 * 2 * taps
    assert layers(config, 16, 8)[1].values == 128 * 4 + 9 * 4
    ceilings = {"bfloat16": {"operations_per_s": 6 * taps / 5}, "bytes_per_s": 1e12}
    assert floor_seconds(config, setting, "bfloat16", ceilings) == pytest.approx(5)


@pytest.mark.slow
def test_a_measurement_has_times_ratios_and_reasons():
    found = measure(
        "network", SMALL, ["superpoint_jax float32", "transformers float32"], rounds=2, calls=1, patience=300
    )
    ours, theirs = found["results"].values()
    assert 0 < ours["min_s"] <= ours["median_s"] <= ours["max_s"]
    assert theirs["ratio"] == 1
    assert ours["peak_bytes"] > 1e8
    assert measure("decoding", SMALL, ["transformers float32"], rounds=1, calls=1, patience=300)["skipped"]


@pytest.mark.slow
def test_the_command_writes_what_it_prints(tmp_path, monkeypatch, capsys):
    out = tmp_path / "deep" / "out.json"
    options = ["--suite", "match", "--contenders", "superpoint_jax", "--rounds", "1", "--calls", "1"]
    options += ["--max-keypoints", "16", "--json"]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *options, str(out)])
    program.main()
    report = json.loads(out.read_text())
    assert report["versions"]["jax"]
    assert list(report["suites"][0]["results"]) == ["superpoint_jax float32", "transformers float32"]
    assert "skipped: descriptors are float32" in capsys.readouterr().out


def test_a_contender_that_fails_is_told_at_the_end():
    skipped = {"a": "failed: division by zero", "b": "it only matches"}
    suites = [{"suite": "decoding", "setting": asdict(SMALL), "skipped": skipped}, {"suite": "stages"}]
    assert program.failures(suites) == [f"a in decoding, {SMALL}"]


def test_who_is_not_ready_in_time_is_skipped_and_ended():
    found = measure("network", SMALL, ["naive JAX float32"], rounds=1, calls=1, patience=0.01)
    assert found["skipped"] == {"naive JAX float32": "two calls take more than 0 s here"}
    assert not found["results"]


def test_a_device_that_is_not_there_is_told(monkeypatch):
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")  # and back to what it was
    with pytest.raises(SystemExit, match="jax finds no tpu here"):
        program.choose_device("tpu")
    program.choose_device("cpu")
    assert os.environ["JAX_PLATFORMS"] == "cpu"


def test_stages_are_those_of_extract():
    found = stages(SMALL, "float32")
    assert sum(stage.operations for name, stage in found.items() if name != "whole") == found["whole"].operations
    assert found["whole"].operations == work(SuperPointConfig.preset("superpoint_jax"), SMALL, "float32")["operations"]
    whole = found["whole"].call()
    np.testing.assert_allclose(found["refinement"].call(), whole.keypoints, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found["descriptors at them"].call(), whole.descriptors, rtol=0, atol=1e-4)


def test_features_agree_with_themselves_and_not_with_others():
    rng = np.random.default_rng(0)
    a = {"keypoints": rng.uniform(0, 99, (20, 2)), "descriptors": np.eye(20)}
    moved = {"keypoints": a["keypoints"] + [[0.5, 0]], "descriptors": np.eye(20)}
    common, cosines = agreement(a, moved)
    assert common == 1
    assert np.sum(cosines == 1) >= 18  # where no other is nearer
    assert agreement(a, {**a, "keypoints": a["keypoints"] + 1000})[0] == 0


def test_results_are_drawn_by_what_varies(tmp_path, monkeypatch):
    row = {"median_s": 0.5, "min_s": 0.4, "max_s": 0.7}
    suites = [
        {"suite": "network", "setting": asdict(replace(SMALL, batch=batch)), "results": {"a": row, "b": row}}
        for batch in (1, 4)
    ]
    assert draw.varying(suites) == "batch"
    assert draw.varying(suites[:1]) is None
    (axes,) = draw.draw_sweep(suites, "batch", "").axes
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [(1, 2), (4, 8)])
    (panel,) = draw.draw_suites(suites[:1], "").axes
    assert [bar.get_width() for bar in panel.patches] == [500, 500]
    for number, part in enumerate((suites, suites[:1])):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps({"suites": part, "machine": "m", "date": "d"}))
        draw.main((path,), output=tmp_path)
        with Image.open(tmp_path / f"{number}.png") as image:
            assert min(image.size) > 100
    plt.close("all")


PROGRAM = """
%body (arg: (s32[], f32[8,64])) -> (s32[], f32[8,64]) {
  %step = f32[8,64]{1,0} fusion(%x), kind=kLoop, calls=%f, metadata={op_name="jit(f)/top_k/while/body/add"}, backend_config={"estimated_cycles":"10"}
}

%condition (arg: (s32[], f32[8,64])) -> pred[] {
  %limit = s32[]{:T(128)} constant(8)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (x: f32[8,64]) -> f32[8,64] {
  %conv = f32[8,64]{1,0} fusion(%x), kind=kOutput, calls=%g, metadata={op_name="jit(f)/block_1/conv"}, backend_config={"estimated_cycles":"1000"}
  %loop = (s32[], f32[8,64]) while(%init), condition=%condition, body=%body, metadata={op_name="jit(f)/top_k/while"}
  %sorted = (f32[8,1024]{1,0}, s32[8,1024]{1,0}) sort(%a, %b), dimensions={1}, metadata={op_name="jit(f)/top_k/sort"}
  %rest = f32[8,64]{1,0} copy(%conv), backend_config={"estimated_cycles":"5"}
  %sum = f32[3,4]{1,0} all-reduce(%rest), replica_groups={{0,1}}
  ROOT %out = f32[8,64]{1,0} add(%rest, %rest)
}
"""  # noqa: E501


def test_a_compiled_program_is_read_by_hand():
    found = compiled.read(PROGRAM)
    assert found["cycles"] == {"block_1": 1000, "top_k": 8 * 10, "other": 5}
    assert found["kernels"] == {"block_1": 1, "top_k": 8 + 1, "other": 1}
    assert found["sorts"] == [1024]
    assert found["without_estimate"] == 1
    assert found["collectives"] == [{"kind": "all-reduce", "values": 12}]


def test_a_chip_without_its_compiler_is_told(tmp_path, capsys):
    with pytest.raises(SystemExit, match="libtpu"):
        ahead.main(output=tmp_path / "ahead.json")
    with pytest.raises(SystemExit, match="chips v4 are not known; choose from TPU v5e"):
        ahead.main(output=tmp_path / "ahead.json", tpu=Path(sys.executable), chips=("v4",))
    ahead.main(output=tmp_path / "ahead.json", tpu=Path("/bin/false"), chips=("TPU v5e", "H100"), programs=("match",))
    printed = capsys.readouterr().out
    assert "estimated by the compiler, not run" in printed
    assert "not compiled: the compiler ended with code 1" in printed
    assert "H100: left out" in printed


def test_what_a_compiler_said_is_printed_and_drawn():
    row = {"chip": "TPU v5e", "program": "extract", "dtype": "bfloat16", "devices": 1, "temporaries": 5e8}
    row |= {"compile_s": 3.0, "compile_cpu_s": 2.0, **compiled.read(PROGRAM)}
    assert "0.00 M cycles (floor" in ahead.line(row)
    # Eight photos of 52 GFLOP at 197 TFLOP/s.
    assert ahead.floor_seconds("TPU v5e", "bfloat16")["operations"] == pytest.approx(2.1e-3, rel=0.03)
    assert "all-reduce of 12 values" in ahead.line(row)
    figure = ahead.draw([row, row | {"chip": "H100"}], "title")
    tpu, gpu = figure.axes
    assert sum(bar.get_width() for bar in tpu.patches) == pytest.approx(1085e-6)
    assert sum(bar.get_width() for bar in gpu.patches) == 11
    assert ahead.NOTE in figure._suptitle.get_text()
    plt.close("all")
