"""Helpers with which a function works under every kind of mesh.

Under a mesh of automatic axes nothing is needed. With explicit axes, which `jax.make_mesh` makes by default, the
sharding of every result must be known; `placed_like` states it once for a whole function. Under `shard_map`, the
initial values of a loop and the results of the branches of a `switch` must vary over the mesh as the data does;
`vary_like` ensures that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

Function = TypeVar("Function", bound=Callable)


def placed_like(batch: Array | None, function: Function) -> Function:
    """The function for a mesh of explicit axes; the first axis of its results is sharded like that of `batch`.

    Without a batch, the results are replicated. `jax.vmap` decides the sharding of an axis that it adds.
    """
    if not jax.sharding.get_abstract_mesh().explicit_axes:
        return function
    axis = None if batch is None else jax.typeof(batch).sharding.spec[0]
    return cast(Function, jax.sharding.auto_axes(function, out_sharding=PartitionSpec(axis)))


def vary_like(tree: Any, reference: Array) -> Any:
    """The same arrays; under `shard_map`, they vary over the mesh as the reference does."""
    always = jnp.ones_like(reference, jnp.bool_, shape=())
    return jax.tree.map(lambda leaf: jnp.where(always, leaf, leaf), tree)
