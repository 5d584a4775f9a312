"""Every file of examples/ runs, and every line of Python and of the shell in README and docs."""

import functools
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import tyro
from PIL import Image

import superpoint_jax as sp
from superpoint_jax import cli
from superpoint_jax.cli import evaluate, train
from tests.room import render_views

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = sorted(path for path in (REPOSITORY / "examples").glob("*.py") if path.name != "reconstruct.py")
ARGUMENTS = {"huggingface_plot.py": ["output_image.png"], "tracks.py": ["tracks.png"]}
PICTURES = {
    "huggingface_plot.py": "output_image.png",
    "tracks.py": "tracks.png",
    "detect.py": "keypoints.png",
    "match.py": "matches.png",
}
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
TEXT = re.compile(r"```text\n(.*?)```", re.DOTALL)
SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(path, tmp_path, monkeypatch, capsys):
    mpl.use("agg")
    arguments = ARGUMENTS.get(path.name, [])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed or arguments
    if path.name in PICTURES:
        pixels = np.asarray(Image.open(tmp_path / PICTURES[path.name]).convert("RGB"))
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 250  # A photo with dots, no empty figure.
        plt.close("all")
    if path.name == "gradient.py":
        assert "step 12: loss 0.000, offset (+1.30, -0.80)" in printed


@pytest.mark.slow
def test_a_folder_becomes_a_reconstruction(tmp_path, photos):
    render_views(tmp_path / "photos", photos)
    script = [sys.executable, str(REPOSITORY / "examples" / "reconstruct.py"), "photos", "out"]
    done = subprocess.run(script, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=300)
    assert "8 photos registered, 0 left out" in done.stdout
    assert (tmp_path / "out" / "points3D.bin").exists()


@pytest.mark.slow
def test_fine_tuning_is_one_command(tmp_path, photos):
    (tmp_path / "photos").mkdir()
    for name in ("coffee", "astronaut"):
        Image.fromarray(photos[name]).save(tmp_path / "photos" / f"{name}.png")
    few = [
        "--steps",
        "1",
        "--photos",
        "1",
        "--shapes",
        "1",
        "--shape",
        "48",
        "64",
        "--side",
        "160",
        "--homographies",
        "2",
    ]
    command = ["bash", str(REPOSITORY / "examples" / "fine_tune.sh"), "photos", "run", *few]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "XLA_FLAGS": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "all (2 pairs)" in done.stdout
    # The head belongs to the keypoints of the network before, so it is left out.
    assert sp.from_pretrained(tmp_path / "run" / "weights").config == sp.SuperPointConfig.preset("superpoint_jax")


@pytest.mark.filterwarnings("default")  # transformers' and torch's, where a page shows them
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_python_of_a_page_runs_in_one_go(path, tmp_path, monkeypatch, photos, capsys):
    mpl.use("agg")
    page = path.read_text(encoding="utf-8")
    blocks = PYTHON.findall(page)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photos["coffee"]).save("a.jpg")
    Image.fromarray(photos["coffee"][:, ::-1]).save("b.jpg")
    names: dict = {}
    for block in blocks:
        for package in ("torch", "transformers"):
            if f"import {package}" in block or f"from {package}" in block:
                pytest.importorskip(package)
        exec(compile(block, path.name, "exec"), names)
    plt.close("all")
    if path.name == "README.md":
        # What it says is printed, up to the rounding of this processor.
        shown, printed = (re.findall(r"\d+\.?\d*", text) for text in (TEXT.search(page)[1], capsys.readouterr().out))
        np.testing.assert_allclose(np.float64(printed), np.float64(shown), rtol=0.02)


def commands(text: str) -> list[list[str]]:
    """Arguments of every `superpoint-jax` in the shell blocks of a page."""
    lines = [line for block in SHELL.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    parts = [shlex.split(part, comments=True) for line in lines for part in re.split(r"&&|;", line)]
    return [part[1:] for part in parts if part[:1] == ["superpoint-jax"]]


def test_every_page_shows_commands():
    assert sum(len(commands(path.read_text(encoding="utf-8"))) for path in PAGES) > 15


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_commands_of_a_page_have_these_options(path, monkeypatch):
    """They are understood, not run: what they do is tested where they are."""

    def stub(function):
        return functools.wraps(function)(lambda *_, **__: 0)

    monkeypatch.setattr(cli, "COMMANDS", {name: stub(function) for name, function in cli.COMMANDS.items()})
    for name in ("hpatches", "homographies", "shapes", "stereo"):
        monkeypatch.setattr(evaluate, name, stub(getattr(evaluate, name)))
    for command, *arguments in commands(path.read_text(encoding="utf-8")):
        if command == "train":
            tyro.cli(train.Command, args=arguments)
        elif command == "evaluate":
            evaluate.main(arguments)
        else:
            assert cli.main([command, *arguments]) == 0
