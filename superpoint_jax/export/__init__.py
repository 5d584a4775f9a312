"""`extract` as a file for other runtimes: StableHLO for every program with JAX, ONNX for others."""

from superpoint_jax.export.onnx_graph import export_onnx as export_onnx
from superpoint_jax.export.stablehlo import export_stablehlo as export_stablehlo
