"""The training path through oneDNN computes what the network computes, forwards and backwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from superpoint_jax.training import onednn


@pytest.fixture
def images(gray_photos):
    return jnp.asarray(gray_photos["camera"])[None, :64, :96, None]


def relative(a: jax.Array, b: jax.Array) -> float:
    return float(jnp.linalg.norm((a - b).ravel()) / jnp.linalg.norm(b.ravel()))


# Another order of summation in float32; bfloat16 keeps 8 bits, and a dozen layers add their roundings.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 5e-2)])
def test_dense_features_equal_the_network(model, images, dtype, tolerance):
    ours = onednn.dense_features(model, images, dtype=dtype)
    plain = model(images)
    assert relative(ours.logits, plain.logits) < tolerance
    assert relative(ours.descriptors, plain.descriptors) < tolerance


def gradient(model, network) -> jax.Array:
    weights = jax.random.normal(jax.random.key(0), (1, 8, 12, 65))

    def loss(model):
        dense = network(model)
        return jnp.sum(weights * dense.logits) + jnp.sum(dense.descriptors[..., 0])

    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(model))])


def test_gradients_equal_those_of_the_network(model, images):
    exact = gradient(model, lambda model: model(images))
    # Another order of summation, nothing more; 9e-7 was seen.
    assert relative(gradient(model, lambda model: onednn.dense_features(model, images, dtype="float32")), exact) < 1e-5


def test_bfloat16_gradients_are_no_worse_than_those_of_xla(model, images):
    """A random loss makes sums cancel and bfloat16 poor; what counts is that both paths are equally poor."""
    exact = gradient(model, lambda model: model(images))
    xla = gradient(model, lambda model: model(images, dtype="bfloat16"))
    ours = gradient(model, lambda model: onednn.dense_features(model, images, dtype="bfloat16"))
    assert relative(ours, exact) < 1.25 * relative(xla, exact)


def test_backward_without_the_stored_graph_is_the_same(model, images):
    layers = [(np.asarray(kernel), np.asarray(bias)) for kernel, bias in onednn._layers(model)]
    logits, descriptors, ticket = onednn._forward(layers, images, dtype="float32")
    stored = onednn._backward(layers, images, ticket, (logits, descriptors), dtype="float32")
    again = onednn._backward(layers, images, ticket, (logits, descriptors), dtype="float32")
    for a, b in zip(jax.tree.leaves(stored), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_batch_norm_is_refused(random_model, images):
    with pytest.raises(ValueError, match="batch normalisation"):
        onednn.dense_features(random_model(0, batch_norm=True), images, dtype="float32")
