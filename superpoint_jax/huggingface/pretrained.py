"""The methods that the models have in common."""

from __future__ import annotations

from typing import Any, Self

import jax
import numpy as np
from flax import nnx

from superpoint_jax.huggingface.pushing import Pushable

IGNORED = ("attn_implementation", "low_cpu_mem_usage", "trust_remote_code", "use_safetensors", "weights_only")
"""Options of transformers' from_pretrained that have no effect here; they would change no result."""


class Pretrained(Pushable):
    """Base class of the models, which don't train."""

    main_input_name = "pixel_values"
    training = False

    def _networks(self) -> Any:
        """The networks whose parameters are those of the model, as a pytree."""
        raise NotImplementedError

    @property
    def device(self) -> Any:
        """The `jax.Device` of the parameters."""
        return next(iter(jax.tree.leaves(self._networks())[0].devices()))

    @property
    def dtype(self) -> np.dtype:
        """Type of the parameters: always float32. An option sets the type that the network computes in."""
        return np.dtype(np.float32)

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Number of values in the parameters. All can be trained, and there are no embeddings."""
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(self._networks(), nnx.Param)))

    def eval(self) -> Self:
        """Itself: nothing here behaves differently in training."""
        return self

    def train(self, mode: bool = True) -> Self:
        """Itself for `train(False)`.

        Raises:
            ValueError: `train()` or `train(True)`; the message says what trains instead.
        """
        if mode:
            raise ValueError("this class does not train; superpoint_jax.training does, on the network in `model`")
        return self
