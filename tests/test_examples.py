"""Every file of examples/ runs, and every line of Python in the README."""

import re
import runpy
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = sorted((REPOSITORY / "examples").glob("*.py"))
ARGUMENTS = {"huggingface_plot.py": ["output_image.png"], "tracks.py": ["tracks.png"]}


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(path, tmp_path, monkeypatch, capsys):
    mpl.use("agg")
    arguments = ARGUMENTS.get(path.name, [])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out or arguments
    for name in arguments:
        pixels = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000  # A photo with dots, no empty figure.
    if arguments:
        plt.close("all")


def test_the_python_of_the_readme_runs_in_one_go(tmp_path, monkeypatch, photos):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photos["coffee"]).save("a.jpg")
    Image.fromarray(photos["coffee"][:, ::-1]).save("b.jpg")
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["matches"].indices.shape == (1, 1024)
    assert names["features"].mask.any(axis=1).all()
