"""Conversions between arrays of numpy, jax and torch; torch is imported only when the caller asks for its tensors."""

from __future__ import annotations

import sys
from typing import Any, Literal, get_args

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

Kind = Literal["np", "jax", "pt"]
KINDS: tuple[str, ...] = get_args(Kind)


def is_torch(value: Any) -> bool:
    """Whether the value is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_traced(*values: Any) -> bool:
    """Whether one of the values is not known yet, because `jax.jit` or another transformation is tracing."""
    return any(isinstance(value, jax.core.Tracer) for value in values)


def to_numpy(value: Any) -> np.ndarray:
    """The values as a numpy array on the host."""
    if is_torch(value):
        value = value.detach().cpu()
        # numpy has no bfloat16 of its own.
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
        return value.numpy()
    return np.asarray(value)


def to_jax(value: Any) -> Any:
    """A jax array from a torch tensor, by DLPack (without a copy where both use the same memory).

    Arrays of jax and numpy are returned as they are.
    """
    if not is_torch(value):
        return value
    value = value.detach().contiguous()
    if value.numel() == 0 or value.device.type == "meta":
        raise ValueError(f"a tensor of shape {tuple(value.shape)} on {value.device} holds no values; give images")
    try:
        return jnp.from_dlpack(value)
    except Exception:  # jax can't share this memory: another device, an unusual stride or type.
        return jnp.asarray(to_numpy(value))


def to_kind(value: Any, kind: str) -> Any:
    """The same values as an array of that kind; torch gets them by DLPack.

    Raises:
        ImportError: The kind is "pt", and PyTorch is not installed.
    """
    if kind == "np":
        return to_numpy(value)
    if kind == "jax":
        return jnp.asarray(to_jax(value))
    torch = import_torch()
    if is_torch(value):
        return value
    if isinstance(value, np.ndarray) or value.size == 0:  # An empty array has no memory to share.
        array = np.asarray(value)
        # A read-only array is copied, because torch would warn about it.
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    try:
        return torch.from_dlpack(value)
    except Exception:  # torch can't share this memory: this torch does not support the device.
        return torch.from_numpy(np.array(value))


def to_like(value: Any, like: Any) -> Any:
    """The same values in the form of `like`: a torch tensor on its device, or a jax array with its sharding."""
    if is_torch(like):
        return to_kind(value, "pt").to(like.device)
    if is_traced(value):
        return value
    return jax.device_put(value, like.sharding) if isinstance(value, np.ndarray) else value


def import_torch() -> Any:
    """The module `torch`.

    Raises:
        ImportError: PyTorch is not installed; the message says what to ask for instead.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "return_tensors='pt' needs PyTorch, which is not installed; 'jax' and 'np' need nothing else"
        ) from error
    return torch


def type_name(dtype: Any) -> str:
    """The name of a type of numpy, jax or torch: "float32" for torch.float32."""
    name = dtype if isinstance(dtype, str) else getattr(dtype, "name", None) or getattr(dtype, "__name__", str(dtype))
    return str(name).removeprefix("torch.")


def jax_device(device: Any) -> Any:
    """The jax device for "cpu", "cuda:0", a `torch.device` or a jax device; None for "auto" and None.

    Raises:
        ValueError: jax has no such device; the message says what to do.
    """
    if device is None or isinstance(device, jax.Device):
        return device
    name, _, index = str(device).partition(":")
    if name == "auto":
        return None
    number = int(index) if index.isdigit() else 0
    try:
        return jax.devices({"cuda": "gpu", "xla": "tpu"}.get(name, name))[number]
    except (RuntimeError, IndexError):
        have = ", ".join(str(one) for one in jax.devices())
        raise ValueError(
            f"jax has no device {device!r} here; it has {have}. Leave it out for the first of them, or install the jax "
            f"of your accelerator (jax[cuda12])"
        ) from None
