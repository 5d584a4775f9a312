"""SuperPoint in JAX as one would write it first, to show the gain from this library's optimisations.

It uses XLA's NHWC convolutions, 2-D windows in the suppression, top-k over all pixels, and separate gathers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.contenders.setting import NotAvailable, Setting, photo


def naive(suite: str, setting: Setting, dtype: str) -> Callable[[], Any]:
    """A call of the suite: network, decoding or end-to-end."""
    if suite not in ("network", "decoding", "end-to-end"):
        raise NotAvailable("only the network and its decoding are written naively")
    import jax
    import jax.numpy as jnp
    from jax import lax

    import superpoint_jax as sp
    from superpoint_jax.weights import state_dict

    config = sp.from_pretrained().config
    state = {name: jnp.asarray(value) for name, value in state_dict(sp.from_pretrained()).items()}

    def convolve(state: dict[str, Any], x: Any, name: str) -> Any:
        kernel = state[f"{name}.weight"].transpose(2, 3, 1, 0).astype(x.dtype)
        numbers = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
        return y + state[f"{name}.bias"].astype(x.dtype)[None, None, None]

    def network(state: dict[str, Any], x: Any) -> tuple[Any, Any]:
        x = x.astype(dtype)
        for block in range(4):
            for half in "ab":
                x = jax.nn.relu(convolve(state, x, f"encoder.conv_blocks.{block}.conv_{half}"))
            if block < 3:
                x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        heads = []
        for head, name in (("keypoint_decoder", "score"), ("descriptor_decoder", "descriptor")):
            hidden = jax.nn.relu(convolve(state, x, f"{head}.conv_{name}_a"))
            heads.append(convolve(state, hidden, f"{head}.conv_{name}_b").astype(jnp.float32))
        return heads[0], heads[1] / jnp.linalg.norm(heads[1], axis=-1, keepdims=True)

    def decode(logits: Any, descriptors: Any) -> tuple[Any, Any, Any]:
        batch, rows, columns, _ = logits.shape
        cells = jax.nn.softmax(logits, axis=-1)[..., :64].reshape(batch, rows, columns, 8, 8)
        scores = cells.transpose(0, 1, 3, 2, 4).reshape(batch, rows * 8, columns * 8)

        def largest(values: Any) -> Any:
            size = 2 * config.nms_radius + 1
            return lax.reduce_window(values, -jnp.inf, lax.max, (1, size, size), (1, 1, 1), "SAME")

        kept = scores == largest(scores)
        for _ in range(2):
            suppressed = largest(kept.astype(jnp.float32)) > 0
            others = jnp.where(suppressed, 0.0, scores)
            kept = kept | ((others == largest(others)) & ~suppressed)
        kept = kept & (scores > config.keypoint_threshold)
        best, index = lax.top_k(jnp.where(kept, scores, 0).reshape(batch, -1), setting.max_keypoints)
        xy = jnp.stack([index % (columns * 8), index // (columns * 8)], axis=-1).astype(jnp.float32)
        place = (xy + 0.5) / 8 - 0.5

        def at(channel: Any, place: Any) -> Any:
            return jax.scipy.ndimage.map_coordinates(channel, [place[:, 1], place[:, 0]], order=1)

        sampled = jax.vmap(jax.vmap(at, in_axes=(2, None), out_axes=1))(descriptors, place)
        return xy, best, sampled / jnp.maximum(jnp.linalg.norm(sampled, axis=-1, keepdims=True), 1e-12)

    images = jnp.asarray(photo(setting))
    if suite == "network":
        program = jax.jit(network)
        return lambda: jax.block_until_ready(program(state, images))
    if suite == "decoding":
        dense = jax.jit(network)(state, images)
        program = jax.jit(decode)
        return lambda: jax.block_until_ready(program(*dense))
    program = jax.jit(lambda state, images: decode(*network(state, images)))
    return lambda: jax.block_until_ready(program(state, images))
