"""The layers of training on a CPU compute what the network's own layers compute, and so do their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from superpoint_jax.model import max_pool
from superpoint_jax.training import layers
from superpoint_jax.training.layers import conv, for_training_on_cpu, max_pool_of_slices


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def plain_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )


@pytest.mark.parametrize(("channels", "features"), [(1, 4), (3, 5)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 7, 10), (3, 16, 9)])
@pytest.mark.parametrize("strip_bytes", [1, 3000, 2**21])
def test_convolution_and_its_gradients_are_xlas(monkeypatch, channels, features, shape, strip_bytes):
    """Also where the rows of a strip do not divide the rows of all images."""
    monkeypatch.setattr(layers, "STRIP_BYTES", strip_bytes)
    x, kernel = normal(0, *shape, channels), normal(1, 3, 3, channels, features)
    weights = normal(2, *shape, features)
    for function in (conv, plain_conv):
        np.testing.assert_allclose(function(x, kernel), plain_conv(x, kernel), atol=1e-5)
    ours, theirs = (
        jax.grad(lambda x, kernel, f=function: jnp.sum(weights * f(x, kernel)), argnums=(0, 1))(x, kernel)
        for function in (conv, plain_conv)
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 2, 2, 3), (2, 7, 9, 4)])
def test_pooling_and_its_gradient_are_xlas(shape):
    x = normal(0, *shape)
    np.testing.assert_array_equal(max_pool_of_slices(x), max_pool(x))
    ours, theirs = (jax.grad(lambda x, f=f: jnp.sum(f(x) ** 2))(x) for f in (max_pool_of_slices, max_pool))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_network_and_its_gradient_are_the_same(random_model, images, batch_norm):
    model = random_model(0, batch_norm=batch_norm)

    @jax.jit
    @jax.value_and_grad
    def loss(params, graph, rest):
        dense = nnx.merge(graph, params, rest)(images)
        return jnp.mean(jax.nn.softmax(dense.logits) ** 2) + jnp.mean(dense.descriptors**3)

    results = []
    for network in (model, for_training_on_cpu(model)):
        graph, params, rest = nnx.split(network, nnx.Param, ...)
        results.append(loss(params, graph, rest))
    (value, gradient), (expected, expected_gradient) = results
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for path, ours in nnx.to_flat_state(gradient):
        theirs = dict(nnx.to_flat_state(expected_gradient))[path][...]
        np.testing.assert_allclose(ours[...], theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max(), err_msg=str(path))


def test_the_model_that_was_given_keeps_its_own_layers(model):
    before = jax.tree.structure(model)
    for_training_on_cpu(model)
    assert jax.tree.structure(model) == before
