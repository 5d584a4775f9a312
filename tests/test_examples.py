"""Every file of examples/ runs."""

import runpy
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

import superpoint_jax

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
ARGUMENTS = {"huggingface_plot.py": ["output_image.png"]}
BUNDLED = Path(superpoint_jax.__file__).parent / "weights" / "data" / "superpoint_jax.safetensors"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BUNDLED.exists(), reason="the weights of the package are not trained yet"),
]


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
