"""Reads weight files into numpy arrays. safetensors need no torch; pickles are opened only with `weights_only=True`."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from superpoint_jax.files import require_regular
from superpoint_jax.weights.errors import WeightsError

_LFS_POINTER = b"version https://git-lfs"

TRAINING_KEYS = ("model", "model_state_dict", "state_dict")
"""Keys of the weights in training checkpoints, which also hold the optimizer and metrics."""

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of all names in weights of a model that was wrapped, by DataParallel or by torch.compile."""


def read_file(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of a file as it stores them, and its metadata. The content decides the format, not the suffix.

    Raises:
        WeightsError: The file is empty, truncated, or not a weight file.
        ImportError: The file is a pickle, and torch is not installed.
        OSError: The file cannot be read, or is a pipe or a device.
    """
    require_regular(path)
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise WeightsError(f"{path} is empty; download it again")
    if head[8:9] == b"{":
        tensors, metadata = _read_safetensors(path)
        return _unwrapped(tensors), metadata
    if head.startswith((b"PK\x03\x04", b"\x80")):
        _check_archive(path)
        return _unwrapped(_read_pickle(path)), {}
    if head.startswith(_LFS_POINTER):
        raise WeightsError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull`, or download the file")
    raise WeightsError(
        f"{path} is damaged or not a weight file: it starts with {head[:12]!r}, which is neither safetensors nor a "
        f"PyTorch checkpoint; download it again"
    )


def _unwrapped(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors under the names that they have without a wrapper."""
    for prefix in WRAPPERS * 2:  # One wrapper may be inside the other.
        if tensors and all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsError(f"{path} is truncated or damaged ({error}); download it again") from error
    except (AttributeError, TypeError) as error:  # Types that numpy lacks, like float8.
        raise WeightsError(f"{path} holds a type of tensor that numpy lacks ({error}); save it as float32") from error


def _check_archive(path: Path) -> None:
    """Raise a WeightsError where a zip archive is of another kind, or holds more than the file has bytes."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.filename.endswith(".npy") for member in members):
        raise WeightsError(f"{path} is an archive of NumPy (.npz); save its arrays as safetensors")
    if any(member.filename.endswith("/constants.pkl") for member in members):
        raise WeightsError(
            f"{path} is a TorchScript program, which is not opened; save its state dict "
            f"(torch.save(model.state_dict(), ...))"
        )
    _check_size(path, sum(member.file_size for member in members))


def _check_size(path: Path, needed: int) -> None:
    """Raise a WeightsError if the contents need much more memory than the file has bytes."""
    # A tensor may be in a checkpoint twice, under two names.
    size = path.stat().st_size
    if needed > 2 * size + 2**20:
        raise WeightsError(
            f"{path} has {size / 1e6:.3g} MB and its contents {needed / 1e6:.3g} MB; no weights are stored so, and the "
            f"file is not opened"
        )


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} is a PyTorch pickle, which only torch opens: pip install 'superpoint-jax[pickle]'. Or convert it "
            f"on a machine that has torch (superpoint-jax convert): safetensors need no torch"
        ) from error
    try:
        with warnings.catch_warnings():
            # torch reads other pickle protocols, or raises an error; its warning does not help the caller.
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            with torch.serialization.safe_globals(_number_globals()):
                contents = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is damaged, or holds objects other than tensors, which could run code and are not opened; save "
            f"only the state dict (torch.save(model.state_dict(), ...))"
        ) from error
    except Exception as error:  # A damaged pickle or archive can raise nearly anything.
        reason = str(error).strip().split("\n")[0]
        raise WeightsError(f"{path} is truncated or damaged ({reason}); download it again") from error
    return _to_numpy(contents, path)


def _number_globals() -> list[Any]:
    """The globals of a numpy number in a pickle, which run no code. The metrics in training checkpoints need them."""
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    kinds = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")]
    return [*((scalar, name) for name in names), np.dtype, *kinds]


def _to_numpy(contents: Any, path: Path) -> dict[str, np.ndarray]:
    import torch

    for name in TRAINING_KEYS:
        if isinstance(contents, Mapping) and isinstance(contents.get(name), Mapping):
            contents = contents[name]
            break
    if not isinstance(contents, Mapping):
        raise WeightsError(f"{path} holds a {type(contents).__name__}; a state dict (name: tensor) is needed")
    other = [str(key) for key, value in contents.items() if not isinstance(value, torch.Tensor)]
    if other:
        raise WeightsError(
            f"{path} holds {', '.join(other[:5])}{', ...' if len(other) > 5 else ''}, which are not tensors; a flat "
            f"state dict is needed (torch.save(checkpoint[...], ...) of the part that holds the weights)"
        )
    _check_size(path, sum(value.numel() * value.element_size() for value in contents.values()))
    # numpy has no bfloat16, and float32 holds every value of the shorter types.
    return {
        str(key): (value.float() if value.is_floating_point() else value).detach().numpy()
        for key, value in contents.items()
    }
