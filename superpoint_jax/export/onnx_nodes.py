"""Builds an ONNX graph, node by node."""

from __future__ import annotations

from typing import Any

import numpy as np

OPSET = 18
"""The operator set of ONNX 1.13 (2022), which common runtimes can read."""

Value = str | np.ndarray | np.generic
"""What a node takes: the name of another node's output, or a constant."""

Ends = dict[str, tuple[Any, tuple[int | str, ...]]]
"""Inputs or outputs of a graph: their types and shapes by name."""


class Nodes:
    """The nodes and constants of a graph that grows. Values are the names of outputs.

    `nodes("Relu", x)` adds a node and returns the name of its output. numpy arrays become constants.
    """

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: dict[tuple[Any, ...], Any] = {}

    def __call__(self, operator: str, *values: Value, outputs: int = 1, **attributes: Any) -> Any:
        """The output of a new node; a tuple of them where it has several."""
        from onnx import helper

        names = [f"{operator}_{len(self._nodes)}" + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        inputs = [value if isinstance(value, str) else self._constant(np.asarray(value)) for value in values]
        self._nodes.append(helper.make_node(operator, inputs, names, name=names[0], **attributes))
        return names[0] if outputs == 1 else tuple(names)

    def named(self, value: str, name: str) -> None:
        """Give an output of the graph its name."""
        from onnx import helper

        self._nodes.append(helper.make_node("Identity", [value], [name], name=name))

    def length(self, x: str, axis: int) -> str:
        """The length of an axis, int64 []."""
        return self("Gather", self("Shape", x), np.int64(axis))

    def lengths(self, x: str, *axes: int) -> str:
        """The lengths of several axes, int64 [n]."""
        return self("Gather", self("Shape", x), np.array(axes))

    def places(self, count: str) -> str:
        """The numbers from 0 to before `count`, int64 [count]."""
        return self("Range", np.int64(0), count, np.int64(1))

    def joined(self, *parts: Value) -> str:
        """Vectors int64 as one vector, for example a shape."""
        return self("Concat", *parts, axis=0)

    def cast(self, x: Value, dtype: Any) -> str:
        """The values in another type."""
        from onnx import helper

        return self("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def model(self, inputs: Ends, outputs: Ends) -> Any:
        """The graph as an ONNX model, in which each axis with a name instead of a number has a free length."""
        from onnx import helper

        def described(entries: Ends) -> list[Any]:
            return [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
                for name, (dtype, shape) in entries.items()
            ]

        graph = helper.make_graph(
            self._nodes, "superpoint", described(inputs), described(outputs), list(self._constants.values())
        )
        # The file format of the year of the operator set, so that runtimes of that year read it.
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)

    def _constant(self, array: np.ndarray) -> str:
        from onnx import numpy_helper

        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = numpy_helper.from_array(np.array(array, order="C"), name)
        return self._constants[key].name
