"""The matching in ONNX files: jax2onnx writes the graph of a matcher, and it is put behind that of the extraction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun
from jax.extend.core import Literal as ConstantOperand

from superpoint_jax.config import SuperPointConfig
from superpoint_jax.export.onnx_nodes import OPSET
from superpoint_jax.export.signature import OUTPUTS, PAIR_OUTPUTS, ExportedMatcher, matched_pairs

SIZES = "sizes_of_pairs"
"""Output of the extraction that only the matching uses: int32 [B,2,2], (height, width) of each image."""
MATCHED = "matched_"
"""Before the names of what the matching takes, because a name belongs to one value of a graph."""


def with_matching(graph: Any, matcher: ExportedMatcher, pairs: int, config: SuperPointConfig) -> Any:
    """The model of an extraction with outputs for pairs and `SIZES`, and then the matching of its outputs."""
    from onnx import compose

    matching = matching_graph(matcher, pairs, config.max_keypoints, config.descriptor_decoder_dim)
    matching.ir_version = graph.ir_version
    taken = {entry.name for entry in matching.graph.input}
    links = [(name, MATCHED + name) for name in (*OUTPUTS, SIZES) if MATCHED + name in taken]
    matching = compose.add_prefix(matching, "matching_", rename_inputs=False, rename_outputs=False)
    return compose.merge_models(graph, matching, links, outputs=list(PAIR_OUTPUTS))


def matching_graph(matcher: ExportedMatcher, pairs: int, keypoints: int, descriptor_dim: int) -> Any:
    """The model from matched_keypoints [B,2,K,2], matched_scores [B,2,K], ... to the matches of `PAIR_OUTPUTS`."""
    from jax2onnx import to_onnx

    network = None if matcher == "nearest" else matcher
    rows = (pairs, 2, keypoints)
    features = [
        jax.ShapeDtypeStruct((*rows, 2), jnp.float32),
        jax.ShapeDtypeStruct(rows, jnp.float32),
        jax.ShapeDtypeStruct((*rows, descriptor_dim), jnp.float32),
        jax.ShapeDtypeStruct(rows, jnp.bool_),
        jax.ShapeDtypeStruct((pairs, 2, 2), jnp.int32),
    ]
    # Traced here, because the converter replaces some of JAX's functions while it traces, and these give float64.
    traced = jax.make_jaxpr(lambda *arrays: matched_pairs(network, *arrays))(*features)
    graph: Any = to_onnx(
        default_forms(traced),
        features,
        model_name="matching",
        opset=OPSET,
        input_names=[MATCHED + name for name in (*OUTPUTS, SIZES)],
        output_names=list(PAIR_OUTPUTS[-2:]),
    )
    _shrink_constants(graph.graph)
    return graph


def default_forms(traced: ClosedJaxpr) -> Callable[..., list[Any]]:
    """The function that was traced, with the default where `lax.platform_dependent` chooses, because ONNX can't."""

    def call(*arguments: Any) -> list[Any]:
        values = dict(zip(traced.jaxpr.constvars, traced.consts, strict=True))
        values |= zip(traced.jaxpr.invars, arguments, strict=True)

        def read(variable: Any) -> Any:
            return variable.val if isinstance(variable, ConstantOperand) else values[variable]

        for equation in traced.jaxpr.eqns:
            operands = [read(variable) for variable in equation.invars]
            name, parameters = equation.primitive.name, equation.params
            if name == "platform_index":
                found: Any = [parameters["platforms"].index(None)]
            elif name == "cond" and parameters.get("branches_platforms"):
                default, *operands = operands
                found = default_forms(parameters["branches"][default])(*operands)
            elif name in ("jit", "pjit"):
                found = default_forms(parameters["jaxpr"])(*operands)
            else:
                inputs = list({id(v): v for v in equation.invars if not isinstance(v, ConstantOperand)}.values())
                alone = Jaxpr((), inputs, equation.outvars, [equation], equation.effects, traced.jaxpr.debug_info)
                found = jaxpr_as_fun(ClosedJaxpr(alone, ()))(*map(read, inputs))
            values |= zip(equation.outvars, found, strict=True)
        return [read(variable) for variable in traced.jaxpr.outvars]

    return call


_BROADCASTS = {
    "Where",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Max",
    "Min",
    "And",
    "Or",
    "Equal",
    "Less",
    "Greater",
    "GreaterOrEqual",
}
_LARGE = 1024


def _shrink_constants(graph: Any) -> None:
    """Remove constants that no node uses, and replace those that have one value everywhere by a scalar.

    ONNX broadcasts, and JAX's primitives don't.
    """
    from onnx import numpy_helper

    users: dict[str, set[str]] = {entry.name: {"output"} for part in _graphs(graph) for entry in part.output}
    for node in (node for part in _graphs(graph) for node in part.node):
        for name in node.input:
            users.setdefault(name, set()).add(node.op_type)
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if (
            values.size >= _LARGE
            and users.get(tensor.name, set()) <= _BROADCASTS
            and np.array_equal(values, np.full_like(values, values.flat[0]), equal_nan=True)
        ):
            tensor.CopyFrom(numpy_helper.from_array(values[(slice(1),) * values.ndim], tensor.name))
    for part in _graphs(graph):
        unused = [tensor for tensor in part.initializer if tensor.name not in users]
        for tensor in unused:
            part.initializer.remove(tensor)
    # These shapes of values are only notes, which every runtime infers. They are now wrong for the constants, and the
    # converter may note wrong ones for the network that matches.
    del graph.value_info[:]


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and the bodies of its loops, which see its constants."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
