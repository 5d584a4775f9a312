"""ONNX files, written by jax2onnx: the network and the decoding in one graph."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun
from jax.extend.core import Literal as ConstantOperand

from superpoint_jax.export.signature import (
    INPUTS,
    OUTPUTS,
    PAIR_OUTPUTS,
    ExportedMatcher,
    function_of,
    input_shapes,
    networks_of,
)
from superpoint_jax.lightglue import LightGlue
from superpoint_jax.model import SuperPoint

OPSET = 18
"""The operator set of ONNX 1.13 (2022), which common runtimes can read."""


def export_onnx(
    model: SuperPoint,
    path: str | os.PathLike[str],
    *,
    matcher: ExportedMatcher = None,
    shape: tuple[int, int] = (480, 640),
    channels: int = 1,
    batch: int = 1,
    weights: Literal["inside", "beside"] = "inside",
    **options: Any,
) -> list[Path]:
    """The paths of the files written, which contain `extract` as ONNX; with a `matcher`, `extract` and `match`.

    Inputs and outputs are those of `superpoint_jax.export.signature`. The keypoints are those of `extract`, with fixed
    K and mask. The number of images and the size of the arrays are fixed, but `image_sizes` allows smaller images: an
    image in the top-left corner of its array gives the same result as without padding.

    Args:
        model: Any SuperPoint, in float32.
        path: File to write.
        matcher: What matches the two images of each pair: a network, for example `superpoint_jax.LightGlue`, or
            "nearest" for mutual nearest neighbours. By default nothing is matched.
        shape: (height, width) of the arrays.
        channels: 1 for gray, 3 for RGB.
        batch: Number of images, or of pairs with a `matcher`.
        weights: "inside" the file, or "beside" it in PATH.data, as ONNX's external data.
        **options: Options of `extract`.

    Raises:
        ValueError: An option is out of range, or not possible in ONNX: greedy suppression (the preset "magicleap"), a
            compute type other than float32, or a LightGlue that stops early.
        ImportError: jax2onnx is not installed.
    """
    config = model.config.replace(**options)
    if config.dtype != "float32":
        raise ValueError(f"dtype={config.dtype}: ONNX is written in float32; a runtime can lower the precision itself")
    if config.suppression_rule == "greedy":
        raise ValueError(
            "the greedy suppression of this variant is a loop of scatters, which jax2onnx can't convert; export "
            'StableHLO, or choose suppression_rule="three_pass", which gives nearly the same keypoints'
        )
    if isinstance(matcher, LightGlue) and matcher.config.depth_confidence is not None:
        raise ValueError(
            f"depth_confidence={matcher.config.depth_confidence}: in ONNX every layer runs; load the LightGlue without "
            f"depth_confidence, or export StableHLO"
        )
    if isinstance(matcher, LightGlue) and matcher.config.dtype != "float32":
        raise ValueError(f"the dtype of the LightGlue is {matcher.config.dtype}: ONNX is written in float32")
    if batch < 1:
        raise ValueError(f"batch={batch}; a graph takes at least one image")
    if find_spec("jax2onnx") is None:
        raise ImportError("ONNX needs jax2onnx: pip install 'superpoint-jax[export]'")
    import onnx
    from jax2onnx import to_onnx

    shapes = input_shapes(batch, shape, channels, pairs=matcher is not None)
    function = function_of(matcher, **options)
    # Traced here, because the converter replaces some of JAX's functions while it traces, and these give float64. The
    # pooling uses no window, because the converter does not support windows of four dimensions.
    networks = networks_of(model.pooled_by_slices(), matcher)
    traced = jax.make_jaxpr(lambda images, sizes: function(networks, images, sizes))(*shapes)
    graph: Any = to_onnx(
        default_forms(traced),
        list(shapes),
        model_name="superpoint",
        opset=OPSET,
        input_names=list(INPUTS),
        output_names=list(OUTPUTS if matcher is None else PAIR_OUTPUTS),
    )
    _shrink_constants(graph.graph)
    path = Path(path)
    if weights == "inside":
        onnx.save(graph, path)
        return [path]
    beside = path.with_name(path.name + ".data")
    beside.unlink(missing_ok=True)  # onnx would append to the file.
    onnx.save(graph, path, save_as_external_data=True, location=beside.name, size_threshold=1024)
    return [path, beside]


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
    """Replace constants that have one value everywhere by a scalar, because ONNX broadcasts and JAX's primitives don't.

    Otherwise the zeros outside each image would be written at full resolution, many times larger than the weights.
    """
    from onnx import numpy_helper

    users: dict[str, set[str]] = {}
    for node in _nodes(graph):
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
    # These shapes of values are only notes, which every runtime infers. They are now wrong for the constants, and the
    # converter may note wrong ones for the network that matches.
    del graph.value_info[:]


def _nodes(graph: Any) -> Iterator[Any]:
    """The nodes of a graph and of the bodies of its loops, which see the constants of the graph."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)
