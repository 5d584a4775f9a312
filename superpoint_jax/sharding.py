"""What a function has to say so that it works under every kind of mesh.

Under a mesh of automatic axes nothing. Where axes are explicit, which is what `jax.make_mesh` gives by default, every
operation must know where its result lies: `placed_like` says it once for a whole function. Under `shard_map`, what a
loop starts from and what the branches of a `switch` give must vary over the mesh as the data does: `vary_like`.
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
    """The function for a mesh of explicit axes, its results sharded over their first axis as `batch` is over its own.

    Without a batch they are replicated. (What `jax.vmap` adds an axis to is sharded over that one as `vmap` says.)
    """
    if not jax.sharding.get_abstract_mesh().explicit_axes:
        return function
    axis = None if batch is None else jax.typeof(batch).sharding.spec[0]
    return cast(Function, jax.sharding.auto_axes(function, out_sharding=PartitionSpec(axis)))


def vary_like(tree: Any, reference: Array) -> Any:
    """The same arrays; under `shard_map` they vary over the mesh as the reference does."""
    always = jnp.ones_like(reference, jnp.bool_, shape=())
    return jax.tree.map(lambda leaf: jnp.where(always, leaf, leaf), tree)
