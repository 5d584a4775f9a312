"""Compiles a program for a chip that is not there, and reads what the compiler made of it.

`python -m benchmarks.ahead` runs this in an environment that has the compiler of the chip:

    python -m benchmarks.compiled CHIP PROGRAM DTYPE [DEVICES]

prints the result as JSON. The program is compiled, but never run.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

BATCH, HEIGHT, WIDTH, KEYPOINTS = 8, 480, 640, 1024
TRAINING_SHAPE = (240, 320)


@dataclass(frozen=True)
class Chip:
    """A chip, its highest rates by the data sheet of its vendor, and how its compiler is asked for it.

    Attributes:
        topology: libtpu's name of a board of four and of eight chips; empty for a GPU.
        target: XLA's description of a GPU; empty for a TPU.
        clock_hz: Cycles per second. For a TPU it is the rate of operations divided by the size of the matrix units.
    """

    operations_per_s: float
    bytes_per_s: float
    clock_hz: float = 0
    topology: tuple[str, str] = ("", "")
    target: str = ""


def gpu(*, capability: tuple[int, int], cores: int, clock_ghz: float, memory: float, rate: float, name: str) -> str:
    """XLA's description of a GPU of 64 warps per core, as `topologies.get_topology_desc` takes it."""
    return f"""
gpu_device_info {{ threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: {cores} fpus_per_core: 128
block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
memory_bandwidth: {rate:.0f} l2_cache_size: 52428800 clock_rate_ghz: {clock_ghz} device_memory_size: {memory:.0f}
shared_memory_per_block_optin: 232448 cuda_compute_capability {{ major: {capability[0]} minor: {capability[1]} }}
registers_per_core_limit: 65536 registers_per_block_limit: 65536 }}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{name}"
"""


CHIPS = {
    "TPU v5e": Chip(197e12, 819e9, 1.5e9, ("v5e:2x2", "v5e:2x4")),
    "TPU v6e": Chip(918e12, 1640e9, 1.75e9, ("v6e:2x2", "v6e:2x4")),
    "H100": Chip(
        989e12,
        3.35e12,
        target=gpu(capability=(9, 0), cores=132, clock_ghz=1.98, memory=80e9, rate=3.35e12, name="NVIDIA H100 80GB"),
    ),
    "B200": Chip(
        2250e12,
        8e12,
        target=gpu(capability=(10, 0), cores=148, clock_ghz=1.965, memory=180e9, rate=8e12, name="NVIDIA B200"),
    ),
}

PROGRAMS = ("extract", "extract with constant weights", "extract mixed sizes", "match", "training step")

STAGES = (
    "block_1",
    "block_2",
    "block_3",
    "block_4",
    "detector_head",
    "descriptor_head",
    "score_map",
    "suppression",
    "top_k",
    "refinement",
    "descriptors",
)
"""The scopes that the library names, in the order in which data flows. What lies in none of them is "other"."""

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


def devices_of(chip: Chip, count: int) -> list[Any]:
    """That many devices that can be compiled for."""
    from jax.experimental import topologies

    if chip.target:
        if count != 1:
            raise ValueError("several devices are compiled for on TPUs only")
        found = topologies.get_topology_desc("", "cuda", target_config=chip.target, topology="1x1x1")
    else:
        found = topologies.get_topology_desc(chip.topology[count > 4], "tpu")
    return list(found.devices)[:count]


def program(name: str, dtype: Any, devices: list[Any]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A function of this library, and the shapes of its arguments, placed on the devices: a batch is divided."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    import superpoint_jax as sp
    from superpoint_jax.training.labelled import Photos
    from superpoint_jax.training.loop import create_state, train_step
    from superpoint_jax.training.pairs import PairConfig
    from superpoint_jax.training.run_config import TrainConfig

    mesh = Mesh(devices, ("data",))

    def place(tree: Any, *axes: str) -> Any:
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)

    def shape(*sizes: int, kind: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, kind)

    model = sp.from_pretrained()
    batch = BATCH * len(devices)
    images = place(shape(batch, HEIGHT, WIDTH, 1), "data")
    sizes = place(shape(batch, 2, kind=jnp.int32), "data")

    def extract(model: Any, images: Any, sizes: Any = None) -> Any:
        return sp.extract(model, images, image_sizes=sizes, max_keypoints=KEYPOINTS, dtype=dtype)

    if name == "extract":
        return extract, (place(model), images)
    if name == "extract with constant weights":
        return lambda images: extract(model, images), (images,)
    if name == "extract mixed sizes":
        return extract, (place(model), images, sizes)
    if name == "match":
        found = place(jax.eval_shape(extract, model, images), "data")
        return lambda a, b: sp.match(a, b), (found, found)
    photos = jax.eval_shape(
        lambda: Photos(
            images=jnp.zeros((64, HEIGHT, WIDTH), jnp.uint8),
            sizes=jnp.zeros((64, 2), jnp.int32),
            corners_xy=jnp.zeros((64, 500, 2)),
            corners_mask=jnp.zeros((64, 500), bool),
        )
    )
    accumulate = len(devices)
    config = TrainConfig(
        steps=10, photos=BATCH, shapes=1, pairs=PairConfig(shape=TRAINING_SHAPE), dtype=dtype, accumulate=accumulate
    )
    given = place((jax.eval_shape(lambda: create_state(model, config)), model, photos))
    several = mesh if accumulate > 1 else None
    return lambda state, model, photos: train_step(state, model, photos, config=config, mesh=several), given


def compile_for(chip: Chip, name: str, dtype: str, devices: int = 1) -> dict[str, Any]:
    """What the compiler says of a program on so many chips."""
    import jax

    function, shapes = program(name, dtype, devices_of(chip, devices))
    platform = "cuda" if chip.target else "tpu"
    lowered = jax.jit(function).trace(*shapes).lower(lowering_platforms=(platform,))
    started, cpu = time.perf_counter(), time.process_time()
    compiled = lowered.compile()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    costs = compiled.cost_analysis()
    costs = costs[0] if isinstance(costs, list) else costs or {}
    memory = compiled.memory_analysis()
    return {
        "versions": {"jax": jax.__version__, "libtpu": _version("libtpu"), "cuda": _version("jax-cuda13-plugin")},
        "compile_s": seconds,
        "compile_cpu_s": cpu_seconds,
        "operations": costs.get("flops"),
        "bytes": costs.get("bytes accessed"),
        "temporaries": getattr(memory, "temp_size_in_bytes", None),
        **read(compiled.as_text() or ""),
    }


@dataclass(frozen=True)
class Instruction:
    """An instruction of a compiled program: its line, the computation that contains it, and how often it runs."""

    line: str
    times: int


def instructions(text: str) -> list[Instruction]:
    """What runs in a compiled program: the entry and the bodies of loops, times the trips that are known."""
    computations: dict[str, list[str]] = {}
    entry, current = "", []
    for line in text.splitlines():
        if match := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            current = computations.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        elif " = " in line:
            current.append(line.strip())

    def trips(line: str) -> int:
        """How often a loop runs, by the compiler's note or else by the constant in its condition; 1 if unknown."""
        condition = re.search(r"condition=%?([\w.\-]+)", line)
        lines = computations.get(condition[1], []) if condition else []
        limits = [constant[1] for line in lines if (constant := re.search(r"s32\S* constant\((\d+)\)", line))]
        known = re.search(r"known_trip_count\W+n\W+(\d+)", line)
        return int(known[1] if known else limits[0] if len(limits) == 1 else 1)

    def walk(name: str, times: int) -> list[Instruction]:
        found = []
        for line in computations.get(name, []):
            found.append(Instruction(line, times))
            if " while(" in line and (body := re.search(r"body=%?([\w.\-]+)", line)):
                found += walk(body[1], times * trips(line))
        return found

    return walk(entry, 1)


def read(text: str) -> dict[str, Any]:
    """Estimated cycles or kernels by stage, sorts, and collectives of a compiled program, from its text."""
    cycles: dict[str, int] = {}
    kernels: dict[str, int] = {}
    sorts, collectives, unknown = [], [], 0
    for instruction in instructions(text):
        line, times = instruction.line, instruction.times
        operation = re.search(r"(?<= )([a-z][\w\-]*)\(", line.split(" = ", 1)[1])
        kind = operation[1] if operation else ""
        scope = re.search(r'op_name="([^"]*)"', line)
        stage = next((stage for stage in STAGES if scope and stage in scope[1]), "other")
        if estimate := re.search(r'"estimated_cycles":"(\d+)"', line):
            cycles[stage] = cycles.get(stage, 0) + times * int(estimate[1])
        elif kind in ("sort", "gather", "scatter", "custom-call"):
            unknown += 1
        if kind in ("fusion", "custom-call", "sort", "copy", "reduce", "convolution", "dot"):
            kernels[stage] = kernels.get(stage, 0) + times
        if kind == "sort" or (scope and scope[1].endswith(("/sort", "/top_k")) and kind == "fusion"):
            sizes = re.findall(r"\[([\d,]+)\]", line.split(" = ", 1)[1].split(f" {kind}(")[0])
            sorts.append(max(int(size.split(",")[-1]) for size in sizes))
        for collective in COLLECTIVES:
            if kind in (collective, f"{collective}-start"):
                sizes = re.findall(r"\[([\d,]*)\]", line.split(" = ", 1)[1].split(f" {kind}(")[0])
                values = sum(math.prod(int(size) for size in shape.split(",") if size) for shape in sizes)
                collectives.append({"kind": collective, "values": values})
    return {
        "cycles": cycles,
        "kernels": kernels,
        "sorts": sorts,
        "without_estimate": unknown,
        "collectives": collectives,
    }


def _version(package: str) -> str | None:
    from benchmarks.__main__ import version

    return version(package)


def main() -> None:
    """Print what the compiler says as JSON."""
    chip, name, dtype = sys.argv[1:4]
    devices = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    os.environ["JAX_PLATFORMS"] = "cpu"
    if CHIPS[chip].target:
        # Choosing the fastest kernels needs the device.
        os.environ["XLA_FLAGS"] = "--xla_gpu_autotune_level=0"
    else:
        kind = CHIPS[chip].topology[0].split(":")[0]
        os.environ |= {
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_ACCELERATOR_TYPE": {"v5e": "v5litepod-4"}.get(kind, f"{kind}-4"),
        }
    print(json.dumps(compile_for(CHIPS[chip], name, dtype, devices)))


if __name__ == "__main__":
    main()
