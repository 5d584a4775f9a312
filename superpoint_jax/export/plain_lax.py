"""A traced function in the primitives that other converters know.

Converters of JAX programs see what was traced: calls of jitted functions, derivatives of our own, and a branch for each
platform. Here the calls are inlined, the branch that is nobody's in particular is taken, and pooling is spelled out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array
from jax.extend.core import ClosedJaxpr, Literal

from superpoint_jax.convolution.pooling import max_pool

_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
"""Primitives that call a function, and the name of the parameter that holds it."""


def plain(function: Callable[..., Any], *shapes: jax.ShapeDtypeStruct) -> Callable[..., tuple[Array, ...]]:
    """The function of arrays of these shapes, as a flat tuple of what it returns; computes the same."""
    traced = jax.make_jaxpr(function)(*shapes)
    return lambda *arguments: tuple(_evaluate(traced, arguments))


def _evaluate(closed: ClosedJaxpr, arguments: Sequence[Any]) -> list[Any]:
    values: dict[Any, Any] = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(closed.jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in closed.jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        values.update(zip(equation.outvars, _apply(equation, inputs), strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars]


def _apply(equation: Any, inputs: list[Any]) -> list[Any]:
    name, parameters = equation.primitive.name, equation.params
    if name in _CALLS:
        # The body of a custom derivative has gone by two names.
        body = parameters.get(_CALLS[name]) or parameters["fun_jaxpr"]
        return _evaluate(body, inputs)
    if name == "platform_index":
        return [_Branch(parameters["platforms"].index(None))]
    if inputs and isinstance(inputs[0], _Branch):
        # On its way to the switch the index is converted and clamped.
        if name == "cond":
            return _evaluate(parameters["branches"][inputs[0]], inputs[1:])
        return [inputs[0]]
    if any(isinstance(value, _Branch) for value in inputs):
        return [next(value for value in inputs if isinstance(value, _Branch))]
    if name == "reduce_window_max" and parameters["window_dimensions"] == (1, 2, 2, 1):
        return [max_pool(inputs[0])]
    outputs = equation.primitive.bind(*inputs, **parameters)
    return list(outputs) if equation.primitive.multiple_results else [outputs]


class _Branch(int):
    """The index of the branch for no platform in particular."""
