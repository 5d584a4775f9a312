"""Arrays of numpy, jax and torch, and the ways between them; torch is never imported unless it is there already."""

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
    """Whether it is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_traced(*values: Any) -> bool:
    """Whether one of them has no value yet, because `jax.jit` or another transformation is tracing."""
    return any(isinstance(value, jax.core.Tracer) for value in values)


def to_numpy(value: Any) -> np.ndarray:
    """The values on the host."""
    if is_torch(value):
        value = value.detach().cpu()
        # numpy has no bfloat16 of its own.
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
        return value.numpy()
    return np.asarray(value)


def to_jax(value: Any) -> Any:
    """A jax array, by DLPack from torch (without a copy where both use the same memory); jax and numpy as they are."""
    if not is_torch(value):
        return value
    value = value.detach().contiguous()
    if value.numel() == 0 or value.device.type == "meta":
        raise ValueError(f"a tensor of shape {tuple(value.shape)} on {value.device} holds no values; give images")
    try:
        return jnp.from_dlpack(value)
    except Exception:  # What jax can't take as it lies there: another device, an odd stride, a type.
        return jnp.asarray(to_numpy(value))


def to_kind(value: Any, kind: str) -> Any:
    """The same values as an array of that kind, by DLPack to torch.

    Raises:
        ImportError: "pt", and PyTorch is not installed.
    """
    if kind == "np":
        return to_numpy(value)
    if kind == "jax":
        return jnp.asarray(to_jax(value))
    torch = import_torch()
    if is_torch(value):
        return value
    if isinstance(value, np.ndarray) or value.size == 0:  # Where there is nothing, nothing can be shared.
        array = np.asarray(value)
        # A copy where numpy may not write: torch would warn of it.
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    try:
        return torch.from_dlpack(value)
    except Exception:  # What torch can't take as it lies there: a device that this torch knows nothing of.
        return torch.from_numpy(np.array(value))


def to_like(value: Any, like: Any) -> Any:
    """The same values as `like` has its own: a torch tensor on its device, or a jax array laid out as it is."""
    if is_torch(like):
        return to_kind(value, "pt").to(like.device)
    if is_traced(value):
        return value
    return jax.device_put(value, like.sharding) if isinstance(value, np.ndarray) else value


def import_torch() -> Any:
    """The module `torch`.

    Raises:
        ImportError: It is not installed; the message says what to ask for instead.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "return_tensors='pt' needs PyTorch, which is not installed; 'jax' and 'np' need nothing else"
        ) from error
    return torch


def type_name(dtype: Any) -> str:
    """The name of a type of numpy, jax or torch: "float32" of torch.float32."""
    name = dtype if isinstance(dtype, str) else getattr(dtype, "name", None) or getattr(dtype, "__name__", str(dtype))
    return str(name).removeprefix("torch.")


def jax_device(device: Any) -> Any:
    """The jax device that is meant by "cpu", "cuda:0", a `torch.device` or itself; None for "auto" and None.

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
