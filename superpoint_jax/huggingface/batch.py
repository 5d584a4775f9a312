"""The dictionary of arrays that the processors return."""

from __future__ import annotations

from typing import Any, Self

import jax
import jax.numpy as jnp

from superpoint_jax.huggingface.arrays import is_torch, jax_device, to_numpy, type_name
from superpoint_jax.processing import BatchFeature as Entries


@jax.tree_util.register_pytree_with_keys_class
class BatchFeature(Entries):
    """A dictionary of torch tensors or jax arrays, whose entries are attributes too."""

    @property
    def data(self) -> dict[str, Any]:
        """The entries, as a plain dictionary."""
        return dict(self)

    def to(self, *args: Any, device: Any = None, dtype: Any = None, non_blocking: bool = False) -> Self:
        """Itself, on another device or with floats of another type: `to(device)`, `to(dtype)`, `to(device, dtype)`.

        It changes its entries in place, as transformers' does. A `jax.Device` moves only jax arrays: torch tensors stay
        where they are, since the model takes them from any device.

        Raises:
            TypeError: There is more than a device and a type, or they come in the wrong order.
            ValueError: An argument is neither, or jax does not have the device.
        """
        if len(args) > 2 or (len(args) == 2 and _is_type(args[0])):
            raise TypeError("to() takes a device, a type, or a device and then a type")
        for value in args:
            if _is_type(value):
                dtype = value
            elif device is None:
                device = value
            else:
                raise TypeError(f"to() has {value!r} where a type is needed, such as jnp.bfloat16")
        for name, value in self.items():
            self[name] = _moved(value, device, dtype, non_blocking)
        return self


def _is_type(value: Any) -> bool:
    if isinstance(value, str | int) or value is None:
        return False
    return hasattr(value, "is_floating_point") or hasattr(value, "dtype") or hasattr(value, "itemsize")


def _moved(value: Any, device: Any, dtype: Any, non_blocking: bool) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_moved(item, device, dtype, non_blocking) for item in value)
    if is_torch(value):
        if dtype is not None and value.is_floating_point():
            import torch

            value = value.to(getattr(torch, type_name(dtype)))
        if device is None or isinstance(device, jax.Device | jax.sharding.Sharding):
            return value
        return value.to(device=device, non_blocking=non_blocking)
    if dtype is not None and jnp.issubdtype(value.dtype, jnp.floating):
        value = value.astype(type_name(dtype))
    if device is None:
        return value
    target = device if isinstance(device, jax.sharding.Sharding) else jax_device(device)
    return value if target is None else jax.device_put(to_numpy(value) if is_torch(value) else value, target)
