"""What is said and written when a command is stopped, and on terminals that can't show every name."""

import json
import shutil
import sys

import pytest
from PIL import Image

from superpoint_jax.cli import main
from tests.faults.command import run


def test_what_was_found_before_ctrl_c_is_written(folder, tmp_path, monkeypatch, capsys):
    calls = []

    def stopping(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return record(*arguments, **options)

    detect = sys.modules["superpoint_jax.cli.detect"]  # The package has a function of this name.
    record = detect.keypoints_record
    monkeypatch.setattr(detect, "keypoints_record", stopping)
    photos = [str(folder / name) for name in ("1.png", "2.png", "10.png")]
    assert main(["detect", *photos, "--json", str(tmp_path / "found.json")]) == 130
    assert [entry["image"] for entry in json.loads((tmp_path / "found.json").read_text())] == photos[:2]
    assert capsys.readouterr().err.splitlines()[-1] == "superpoint-jax: stopped"


def test_any_name_is_printed_on_an_ascii_terminal(folder, monkeypatch):
    shutil.copy(folder / "1.png", folder / "林檎.png")
    Image.new("L", (1, 1)).save(folder / "ä.png")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    code, printed, errors = run("detect", folder / "林檎.png", folder / "ä.png", "--engine", "xla")
    assert code == 2
    assert "\\u6797\\u6a8e.png: 64x64" in printed[0]
    assert "\\xe4.png: 1x1 pixels; at least 8 are needed" in errors[-1]


@pytest.mark.parametrize("arguments", [["extract"], ["extract", "photos"], ["extract", "--verify", "gone.h5"]])
def test_a_command_without_what_it_needs_says_what_to_give(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--verify OUTPUT" in line or "gone.h5: no such output, nor parts of it" in line
