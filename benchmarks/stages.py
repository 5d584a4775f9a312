"""Time of each stage of `extract`, compiled and timed separately, with the number of its operations.

`python -m benchmarks --suite stages` runs this in its own process and prints the result.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.contenders.setting import Setting, photo
from benchmarks.floor import BYTES, Layer, layers


@dataclass(frozen=True)
class Stage:
    """A stage of `extract`: a call that computes it from the result of the stage before, and its work.

    Attributes:
        operations: Multiplications and additions of its convolutions; 0 for stages without convolutions.
    """

    call: Callable[[], Any]
    operations: int = 0


def stages(setting: Setting, dtype: str) -> dict[str, Stage]:
    """The stages in the order in which data flows, and the whole."""
    import jax
    import jax.numpy as jnp

    import superpoint_jax as sp
    from superpoint_jax.description import sample_descriptors
    from superpoint_jax.detection import detect, score_map
    from superpoint_jax.refinement import refine

    model = sp.from_pretrained(max_keypoints=setting.max_keypoints, dtype=dtype)
    config, images = model.config, jnp.asarray(photo(setting))
    sizes = jnp.broadcast_to(jnp.array([setting.height, setting.width], jnp.int32), (setting.batch, 2))
    convolutions = layers(config, setting.height, setting.width)
    found: dict[str, Stage] = {}

    def add(name: str, function: Callable[..., Any], *arguments: Any, work: list[Layer] | None = None) -> Any:
        call = partial(jax.jit(function), *arguments)
        found[name] = Stage(call, setting.batch * sum(layer.operations for layer in work or []))
        return call()

    x = images.astype(dtype)
    for i, block in enumerate(model.encoder.conv_blocks):
        x = add(f"block {i + 1}", lambda block, x: block(x), block, x, work=convolutions[2 * i : 2 * i + 2])
    logits = add("detector head", lambda head, x: head(x), model.keypoint_decoder, x, work=convolutions[-4:-2])
    dense = add("descriptor head", lambda head, x: head(x), model.descriptor_decoder, x, work=convolutions[-2:])
    detected = add("keypoints", partial(detect, config=config), logits, sizes)
    places, mask = detected[0], detected[2]
    if config.refinement == "learned":
        heat = score_map(logits, rule=config.score_rule)
        places = add("refinement", refine, model.refinement_head, images, heat, places, mask, sizes)
    sample = partial(sample_descriptors, rule=config.sampling_rule)
    add("descriptors at them", sample, dense, places, mask, sizes)
    found["whole"] = Stage(partial(sp.extract, model, images), setting.batch * sum(c.operations for c in convolutions))
    return found


def measure_stages(setting: Setting, *, rounds: int) -> dict[str, Any]:
    """Median seconds of each stage in both types with their spread; every round times all stages once."""
    import jax

    calls = {f"{stage}, {dtype}": part for dtype in BYTES for stage, part in stages(setting, dtype).items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for part in calls.values():
        jax.block_until_ready(part.call())
    for _ in range(rounds):
        for name, part in calls.items():
            started = time.perf_counter()
            jax.block_until_ready(part.call())
            seconds[name].append(time.perf_counter() - started)
    return {
        name: {
            "median_s": statistics.median(times),
            "min_s": min(times),
            "max_s": max(times),
            "operations": calls[name].operations,
        }
        for name, times in seconds.items()
    }


if __name__ == "__main__":
    print(json.dumps(measure_stages(Setting(**json.loads(sys.argv[1])), rounds=int(sys.argv[2]))))
