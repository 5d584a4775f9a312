"""The floor of the network's time: its operations and bytes, counted from the configuration, at the device's ceilings.

`python -m benchmarks.floor` measures the ceilings of jax's device, its highest rates, and prints them as JSON.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from benchmarks.contenders.setting import Setting
from superpoint_jax.config import CELL_PX, SuperPointConfig

BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Layer:
    """A convolution: (height, width) of its output, channels in and out, and kernel size."""

    height: int
    width: int
    channels: int
    features: int
    size: int

    @property
    def operations(self) -> int:
        """Number of multiplications and additions."""
        return 2 * self.height * self.width * self.size**2 * self.channels * self.features

    @property
    def values(self) -> int:
        """How many numbers a separate kernel for this layer reads and writes: input, weights, output."""
        pixels = self.height * self.width
        return pixels * (self.channels + self.features) + self.size**2 * self.channels * self.features


def layers(config: SuperPointConfig, height: int, width: int) -> list[Layer]:
    """Every convolution of the network on one image."""
    found = []
    for block, (before, after) in enumerate(pairwise((1, *config.encoder_hidden_sizes))):
        shape = (height >> block, width >> block)
        found += [Layer(*shape, before, after, 3), Layer(*shape, after, after, 3)]
    cells = (height // CELL_PX, width // CELL_PX)
    hidden = config.decoder_hidden_size
    for outputs in (config.keypoint_decoder_dim, config.descriptor_decoder_dim):
        found += [Layer(*cells, config.encoder_hidden_sizes[-1], hidden, 3), Layer(*cells, hidden, outputs, 1)]
    return found


def work(config: SuperPointConfig, setting: Setting, dtype: str) -> dict[str, float]:
    """Operations and bytes of the dense network on a batch."""
    found = layers(config, setting.height, setting.width)
    return {
        "operations": float(setting.batch * sum(layer.operations for layer in found)),
        "bytes": float(setting.batch * BYTES[dtype] * sum(layer.values for layer in found)),
    }


def floor_seconds(config: SuperPointConfig, setting: Setting, dtype: str, ceilings: dict[str, Any]) -> float:
    """The shortest possible time: the larger of computing and moving data, each at its ceiling."""
    need = work(config, setting, dtype)
    return max(need["operations"] / ceilings[dtype]["operations_per_s"], need["bytes"] / ceilings["bytes_per_s"])


def measured_ceilings() -> dict[str, Any]:
    """Rates of one device: of a large matrix product and of XLA's convolution, by type, and of copying memory.

    The ceiling of operations is the higher rate of matrix product and convolution.
    """
    import jax
    import jax.numpy as jnp

    on_cpu = jax.devices()[0].platform == "cpu"
    size = 2048 if on_cpu else 8192
    found: dict[str, Any] = {"device": jax.devices()[0].device_kind}
    for dtype in BYTES:
        a, b = (jax.random.normal(jax.random.key(i), (size, size)).astype(dtype) for i in range(2))
        precision = jax.lax.Precision.HIGHEST if dtype == "float32" else None
        product = jax.jit(lambda a, b, p=precision: jnp.matmul(a, b, precision=p, preferred_element_type=jnp.float32))
        rates = {"products_per_s": 2 * size**3 / _seconds(lambda p=product, a=a, b=b: p(a, b))}
        x = jnp.ones((1 if on_cpu else 32, 64, 64, 256), dtype)
        kernel = jnp.ones((3, 3, 256, 256), dtype)
        layout = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=precision)
        convolve = partial(jax.jit(partial(jax.lax.conv_general_dilated, **layout), static_argnums=(2, 3)), x, kernel)
        rates["convolutions_per_s"] = 2 * x.size * kernel.size // 256 / _seconds(partial(convolve, (1, 1), "SAME"))
        found[dtype] = {"operations_per_s": max(rates.values()), **rates}
    numbers = jnp.zeros(2**26 if on_cpu else 2**30, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    found["bytes_per_s"] = 2 * numbers.nbytes / _seconds(lambda: add(numbers))
    return found


def _seconds(call: Callable[[], Any]) -> float:
    import jax

    jax.block_until_ready(call())
    times = []
    for _ in range(9):
        started = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - started)
    return statistics.median(times)


if __name__ == "__main__":
    print(json.dumps(measured_ceilings()))
