"""The check of tensors before a model is built: none missing, none unexpected, the right shapes, floats."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from superpoint_jax.weights.errors import WeightsError


def check_tensors(
    tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], *, origin: str, network: str
) -> None:
    """Raise a WeightsError that names every tensor that is missing, unexpected, misshapen or not of finite floats.

    Args:
        tensors: The tensors of the file.
        shapes: The shape of every tensor that is needed, by key.
        origin: Where the tensors come from, for the message.
        network: The network that needs them, in words, for the message.
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
        # jnp's issubdtype, because for numpy's, bfloat16 of ml_dtypes is not a float.
        "not of floats": [
            f"{key} is {tensors[key].dtype}" for key in common if not jnp.issubdtype(tensors[key].dtype, jnp.floating)
        ],
    }
    if not any(problems.values()):
        # Compared as float32, because numpy's isfinite does not know bfloat16 of ml_dtypes.
        with np.errstate(over="ignore"):
            finite = {key: np.isfinite(np.asarray(tensors[key], np.float32)) for key in common}
        problems = {"not finite": [f"{key} in {(~ok).sum()} values" for key, ok in finite.items() if not ok.all()]}
    if any(problems.values()):
        lines = [f"  {problem}: {', '.join(names)}" for problem, names in problems.items() if names]
        raise WeightsError(f"{origin} does not fit {network}:\n" + "\n".join(lines))
