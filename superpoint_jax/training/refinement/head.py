"""A network with a refinement head, and without one."""

from __future__ import annotations

from typing import Any

from flax import nnx

from superpoint_jax.model import SuperPoint
from superpoint_jax.refinement import RefinementHead


def with_head(model: SuperPoint, head: RefinementHead) -> SuperPoint:
    """The model with a refinement head, which its configuration now uses."""
    values = dict(nnx.to_flat_state(nnx.state(model)))
    values |= {("refinement_head", *path): leaf for path, leaf in nnx.to_flat_state(nnx.state(head))}
    return _filled(values, model.config.replace(refinement="learned", refinement_head=True))


def without_head(model: SuperPoint) -> SuperPoint:
    """The model without a refinement head; where its configuration used the head, it now uses the soft-argmax."""
    if model.refinement_head is None:
        return model
    values = {path: leaf for path, leaf in nnx.to_flat_state(nnx.state(model)) if path[0] != "refinement_head"}
    rule = "soft_argmax" if model.rules.refinement == "learned" else model.rules.refinement
    return _filled(values, model.config.replace(refinement=rule, refinement_head=False))


def _filled(values: dict[Any, Any], config: Any) -> SuperPoint:
    graph = nnx.graphdef(nnx.eval_shape(lambda: SuperPoint(config, rngs=nnx.Rngs(0))))
    return nnx.merge(graph, nnx.from_flat_state(list(values.items())))
