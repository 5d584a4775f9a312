"""The check that every assembler of weights stands on: complete, nothing more, of the right shapes, of floats."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from superpoint_jax.weights.errors import WeightsError


def check_tensors(
    tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], *, origin: str, network: str
) -> None:
    """Raise a WeightsError that names every tensor that is missing, unexpected, misshapen or not of floats.

    Args:
        tensors: What the file holds.
        shapes: Every key that is needed, with its shape.
        origin: Where the tensors come from.
        network: What they have to be, in words.
    """
    common = [key for key in shapes if key in tensors]
    problems = {
        "missing": [key for key in shapes if key not in tensors],
        "unexpected": [key for key in tensors if key not in shapes],
        "misshapen": [
            f"{key} has shape {tensors[key].shape}, needs {shapes[key]}"
            for key in common
            if tensors[key].shape != shapes[key]
        ],
        # jnp, because ml_dtypes' bfloat16 is no subtype of numpy's floats.
        "not of floats": [
            f"{key} is {tensors[key].dtype}" for key in common if not jnp.issubdtype(tensors[key].dtype, jnp.floating)
        ],
    }
    if any(problems.values()):
        lines = [f"  {problem}: {', '.join(names)}" for problem, names in problems.items() if names]
        raise WeightsError(f"{origin} does not fit {network}:\n" + "\n".join(lines))
