"""`superpoint-jax info`: what a bug report needs."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import jax

import superpoint_jax as sp
from superpoint_jax import openvino
from superpoint_jax.cli.arguments import Weights
from superpoint_jax.cli.errors import told

PACKAGES = (
    "superpoint-jax", "jax", "jaxlib", "flax", "numpy", "pillow", "safetensors", "huggingface_hub", "optax", "openvino",
    "torch", "transformers", "opencv-python-headless", "opencv-python", "h5py", "pycolmap", "pyarrow", "ray", "gradio",
)  # fmt: skip
"""Packages whose versions are printed where they are installed."""


def info(*, weights: Weights = None) -> int:
    """Print versions, devices, what computes the network, and the weights, to be copied into a bug report.

    Args:
        weights: Folder, file or Hugging Face id; by default the weights in the package.
    """
    print(f"python: {sys.version.split()[0]} on {platform.platform()}")
    print(f"processor: {platform.machine()}")
    for name in PACKAGES:
        try:
            print(f"{name}: {version(name)}")
        except PackageNotFoundError:
            continue
    print(f"devices: {', '.join(str(device) for device in jax.devices())} ({jax.default_backend()})")
    with told():
        model = sp.from_pretrained(weights)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(model))
    print(f"weights: {weights or 'those in the package'}, {parameters} numbers, origin {model.origin or 'not marked'}")
    print(openvino.describe(openvino.choose(model)))
    return 0
