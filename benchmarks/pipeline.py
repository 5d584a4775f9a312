"""Images per second that training draws on the device: synthetic shapes, photometric changes, views of photos.

python -m benchmarks.pipeline --json OUT
"""

from __future__ import annotations

import datetime
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.__main__ import machine
from superpoint_jax.training.augmentation import photometric
from superpoint_jax.training.labelled import Photos
from superpoint_jax.training.pairs import PairConfig, sample_pairs
from superpoint_jax.training.synthetic import render_shapes

ROUNDS, CALLS = 5, 5
SHAPES = ((120, 160), (240, 320))


def stages(shape: tuple[int, int], batch: int) -> dict[str, Callable[[jax.Array], Any]]:
    """For each stage, a jitted function of a key that draws `batch` images of (height, width)."""
    rng = np.random.default_rng(0)
    photos = Photos(
        images=jnp.asarray(rng.integers(0, 256, (32, 480, 480), np.uint8)),
        sizes=jnp.full((32, 2), 480, jnp.int32),
        corners_xy=jnp.asarray(rng.uniform(0, 479, (32, 300, 2)), jnp.float32),
        corners_mask=jnp.ones((32, 300), bool),
    )
    images = jnp.asarray(rng.uniform(size=(batch, *shape, 1)), jnp.float32)
    config = PairConfig(shape=shape)
    return {
        "synthetic shapes": lambda key: render_shapes(key, batch=batch, shape=shape).images,
        "photometric changes": jax.jit(lambda key: photometric(key, images)),
        "views of photos, with labels": jax.jit(lambda key: sample_pairs(key, photos, batch // 2, config=config)),
    }


def rate(function: Callable[[jax.Array], Any], batch: int) -> dict[str, float]:
    """Images per second of the median, the slowest and the fastest round."""
    keys = jax.random.split(jax.random.key(0), CALLS)
    jax.block_until_ready(function(keys[0]))
    rates = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for key in keys:
            jax.block_until_ready(function(key))
        rates.append(CALLS * batch / (time.perf_counter() - started))
    return {"images_per_s": statistics.median(rates), "lowest": min(rates), "highest": max(rates)}


def main(*, batch: int = 32, json_path: Annotated[Path | None, tyro.conf.arg(name="json")] = None) -> None:
    """Measure, print and write the results.

    Args:
        batch: Images per call.
        json_path: File to write the results to.
    """
    result: dict[str, Any] = {"date": datetime.date.today().isoformat(), "machine": machine(), "jax": jax.__version__}
    result |= {"batch": batch, "rates": []}
    for shape in SHAPES:
        for name, function in stages(shape, batch).items():
            result["rates"].append({"stage": name, "shape": shape, **rate(function, batch)})
            print(f"{name}, {shape[0]}x{shape[1]}: {result['rates'][-1]['images_per_s']:.0f} images/s", flush=True)
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    tyro.cli(main)
