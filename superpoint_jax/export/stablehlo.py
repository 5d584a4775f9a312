"""StableHLO files, which `jax.export` opens without this package, on CPU, CUDA and TPU, for any number of images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx
from jax import Array

from superpoint_jax.export.signature import ExportedMatcher, check_input, function_of, input_shapes, networks_of
from superpoint_jax.model import SuperPoint

PLATFORMS = ("cpu", "cuda", "tpu")


def export_stablehlo(
    model: SuperPoint,
    path: str | os.PathLike[str],
    *,
    matcher: ExportedMatcher = None,
    shape: tuple[int, int] = (480, 640),
    channels: int = 1,
    platforms: Sequence[str] = PLATFORMS,
    weights: Literal["inside", "beside"] = "inside",
    **options: Any,
) -> list[Path]:
    """The paths of the files written, which contain `extract` as a serialised `jax.export.Exported`.

    In any process with this or a later version of JAX (JAX keeps such files readable for at least six months)::

        function = jax.export.deserialize(pathlib.Path(path).read_bytes())
        keypoints, scores, descriptors, mask = function.call(images, image_sizes)

    With a `matcher`, the file contains `extract` and `match` for pairs of images, and the call returns two more arrays:
    see `superpoint_jax.export.signature`.

    The number of images or pairs is free. The size of the arrays is fixed, but `image_sizes` allows smaller images: an
    image in the top-left corner of its array gives the same result as without padding.

    Args:
        model: Any SuperPoint.
        path: File to write.
        matcher: What matches the two images of each pair: a network, for example `superpoint_jax.LightGlue`, or
            "nearest" for mutual nearest neighbours. By default nothing is matched.
        shape: (height, width) of the arrays.
        channels: 1 for gray, 3 for RGB.
        platforms: Any of "cpu", "cuda", "rocm", "tpu"; one file serves all of them.
        weights: "inside" the file, or "beside" it in PATH.safetensors, whose arrays are then the first argument:
            `function.call(safetensors.numpy.load_file(path + ".safetensors"), images, image_sizes)`.
        **options: Options of `extract`.

    Raises:
        ValueError: An option is out of range, or a platform is unknown.
        ImportError: flatbuffers is not installed.
    """
    if find_spec("flatbuffers") is None:
        raise ImportError("StableHLO files need flatbuffers: pip install 'superpoint-jax[export]'")
    if unknown := sorted(set(platforms) - {*PLATFORMS, "rocm"}):
        raise ValueError(f"platforms {unknown} are not known; choose from {', '.join(PLATFORMS)}")
    check_input(shape, channels, weights)
    path = Path(path)
    (batch,) = jax.export.symbolic_shape("batch")
    images, sizes = input_shapes(batch, shape, channels, pairs=matcher is not None)
    function = function_of(matcher, **options)
    networks = networks_of(model, matcher)
    graph, state = nnx.split(networks)

    def with_weights_inside(images: Array, sizes: Array) -> Any:
        return function(networks, images, sizes)

    def with_weights_beside(arrays: dict[str, Array], images: Array, sizes: Array) -> Any:
        named = {tuple(name.split(".")): value for name, value in arrays.items()}
        flat = [(key, variable.replace(named[_text(key)])) for key, variable in nnx.to_flat_state(state)]
        return function(nnx.merge(graph, nnx.from_flat_state(flat)), images, sizes)

    export = jax.export.export
    if weights == "inside":
        exported = export(jax.jit(with_weights_inside), platforms=tuple(platforms))(images, sizes)
        path.write_bytes(exported.serialize())
        return [path]
    from safetensors.numpy import save

    arrays = {".".join(_text(key)): np.array(variable.get_value()) for key, variable in nnx.to_flat_state(state)}
    shapes = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in arrays.items()}
    exported = export(jax.jit(with_weights_beside), platforms=tuple(platforms))(shapes, images, sizes)
    path.write_bytes(exported.serialize())
    beside = path.with_name(path.name + ".safetensors")
    beside.write_bytes(save(arrays))
    return [path, beside]


def _text(key: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(str(part) for part in key)
