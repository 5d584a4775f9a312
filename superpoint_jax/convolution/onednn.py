"""Convolution by oneDNN, which JAX's library for x86 carries but does not put to use.

XLA has a custom call for it, `__onednn$convolution`. The releases of jaxlib can run that call; the pass that would put
it in place of convolutions is left out of them. So it is put there here, with these consequences:
- It is called in releases that were tested alone, for it is no public interface: where XLA can't read a call's
  configuration, it ends the process.
- XLA can't serialise a program that contains it. Where JAX keeps compilations on disk, it is not called.
- `jax.export` promises that later versions can read a file. What is exported has XLA's convolution in its place.
- XLA can't divide the call among devices. A program that it is to divide has XLA's convolution, too.

Source: openxla/xla, xla/service/cpu/onednn_contraction_rewriter.cc and onednn_config.proto: what the call takes.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from superpoint_jax.convolution import direct

if TYPE_CHECKING:
    from jax.extend.core import Primitive

TESTED = ((0, 8, 1), (0, 10, 2))
"""First and last release of jaxlib in which tests/test_onednn.py passes; it does in those between."""


def is_available() -> bool:
    """Whether this jaxlib has the call, and no compilation is to be kept on disk."""
    known = sys.platform == "linux" and platform.machine() == "x86_64" and TESTED[0] <= _release() <= TESTED[1]
    config = jax.config.values
    return known and not (config["jax_enable_compilation_cache"] and config["jax_compilation_cache_dir"])


@functools.cache
def _release() -> tuple[int, ...]:
    """Of jaxlib."""
    return tuple(int(number) for number in re.findall(r"\d+", importlib.metadata.version("jaxlib"))[:3])


def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "n n c c2"], *, pad_rows: int, pad_columns: int
) -> Float[Array, "b h2 w2 c2"]:
    """Correlation with the kernel after so many zeros on each side, h2 = h + 2 pad_rows - n + 1.

    Of float32 or bfloat16; sums and results are float32. For CPUs, where `is_available`. Composes under `jit` and
    `vmap`; has no derivative.
    """
    return _primitive().bind(x, kernel, padding=(pad_rows, pad_columns))


def _plain(x: Array, kernel: Array, *, padding: tuple[int, int]) -> Array:
    """XLA's convolution: the same numbers."""
    return direct.convolve(x, kernel, pad_rows=padding[0], pad_columns=padding[1], sums=jnp.float32)


def _configuration(padding: tuple[int, int]) -> str:
    """JSON of XLA's BackendConfig for a convolution with stride 1 of NHWC by HWIO."""
    image = {"data": {"batch_dim": 0, "spatial_dims": [1, 2], "feature_dim": 3}}
    taps = {"filter": {"spatial_dims": [0, 1], "input_feature_dim": 2, "output_feature_dim": 3}}
    window = {"pad_left": padding, "pad_right": padding, "strides": [1, 1], "window_dilations": [1, 1]}
    convolution = {"dims": 4, "feature_groups": 1, "input": image, "kernel": taps, "output": image, "window": window}
    return json.dumps({"onednn_conv_config": convolution})


def _is_partitioned(module: Any) -> bool:
    """Whether XLA divides the program among devices; one that runs on each by itself (`shard_map`) is not."""
    axes = module.axis_context
    if hasattr(axes, "manual_axes"):
        return axes.manual_axes != frozenset(axes.mesh.axis_names)
    return getattr(axes, "num_devices", 1) > 1


@functools.cache
def _primitive() -> Primitive:
    """Made when it is first needed: what it is made of has no promise to be there in releases that were not tested."""
    from jax.core import ShapedArray
    from jax.extend.core import Primitive
    from jax.interpreters import batching, mlir

    primitive = Primitive("onednn_convolution")

    def run(x: Array, kernel: Array, *, padding: tuple[int, int]) -> Array:
        return jax.jit(functools.partial(primitive.bind, padding=padding))(x, kernel)

    def shape(x: Any, kernel: Any, *, padding: tuple[int, int]) -> Any:
        y = jax.eval_shape(functools.partial(_plain, padding=padding), x, kernel)
        return ShapedArray(y.shape, y.dtype)

    def batch(arrays: Sequence[Array], axes: Sequence[int | None], *, padding: tuple[int, int]) -> tuple[Array, int]:
        (x, kernel), (x_axis, kernel_axis) = arrays, axes
        convolve = functools.partial(primitive.bind, padding=padding)
        if kernel_axis is None:
            assert x_axis is not None
            x = jnp.moveaxis(x, x_axis, 0)
            y = convolve(x.reshape(-1, *x.shape[2:]), kernel)
            return y.reshape(*x.shape[:2], *y.shape[1:]), 0
        kernel = jnp.moveaxis(kernel, kernel_axis, 0)
        if x_axis is None:
            return lax.map(lambda one: convolve(x, one), kernel), 0
        return lax.map(lambda pair: convolve(*pair), (jnp.moveaxis(x, x_axis, 0), kernel)), 0

    plain = mlir.lower_fun(_plain, multiple_results=False)

    def lower(context: Any, x: Any, kernel: Any, *, padding: tuple[int, int]) -> Any:
        if context.module_context.lowering_parameters.for_export or _is_partitioned(context.module_context):
            return plain(context, x, kernel, padding=padding)
        configuration = _configuration(padding)
        call = jax.ffi.ffi_lowering("__onednn$convolution", backend_config=configuration, api_version=2)
        return call(context, x, kernel)

    primitive.def_impl(run)
    primitive.def_abstract_eval(shape)
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, plain)
    mlir.register_lowering(primitive, lower, platform="cpu")
    return primitive
