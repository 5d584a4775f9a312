"""The form of the first blocks for a TPU is held against the plain one, and is what a TPU gets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import superpoint_jax as sp
from superpoint_jax import lanes
from superpoint_jax.config import SuperPointConfig
from superpoint_jax.detection import score_map
from superpoint_jax.example import example_photos
from superpoint_jax.model import ConvBlock

plain = jax.jit(ConvBlock.plain)
in_lanes = jax.jit(ConvBlock.in_lanes)


def block(channels: int, *, batch_norm: bool = False) -> ConvBlock:
    """A block with random weights, and random statistics if it has batch norm."""
    made = ConvBlock(channels, 64, pool=True, config=SuperPointConfig(batch_norm=batch_norm), rngs=nnx.Rngs(0))
    graph, state = nnx.split(made)
    leaves, tree = jax.tree.flatten(state)
    rng = np.random.default_rng(1)
    # Positive, as variances are; the kernels keep their signs.
    leaves = [leaf if leaf.ndim == 4 else jnp.asarray(rng.uniform(0.1, 1, leaf.shape), leaf.dtype) for leaf in leaves]
    return nnx.merge(graph, jax.tree.unflatten(tree, leaves))


def images(channels: int, shape: tuple[int, int] = (12, 16)) -> jax.Array:
    return jax.random.normal(jax.random.key(2), (2, *shape, channels))


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("sizes", [None, [[12, 16], [7, 9]], [[1, 1], [12, 3]]])
@pytest.mark.parametrize("channels", [1, 64])
def test_it_equals_the_plain_block(channels, sizes, batch_norm):
    given = block(channels, batch_norm=batch_norm), images(channels), None if sizes is None else jnp.array(sizes)
    expected = plain(*given)
    assert expected.shape == (2, 6, 8, 64)
    np.testing.assert_allclose(in_lanes(*given), expected, atol=2e-6 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("form", [plain, in_lanes])
@pytest.mark.parametrize("channels", [1, 64])
def test_bfloat16_is_as_exact_as_in_the_plain_block(channels, form):
    model, x = block(channels), images(channels).astype(jnp.bfloat16)
    exact = plain(model, x.astype(jnp.float32), None)
    found = form(model, x, None)
    assert found.dtype == jnp.bfloat16
    # Two layers, whose results are rounded to eight bits.
    np.testing.assert_allclose(found.astype(jnp.float32), exact, atol=2**-7 * float(exact.max()))


def test_its_gradient_equals_that_of_the_plain_block():
    model, x = block(64), images(64)
    weights = jax.random.normal(jax.random.key(3), (2, 6, 8, 64))
    ours, expected = (
        jax.grad(lambda model, x, form=form: jnp.sum(form(model, x, None) * weights), argnums=(0, 1))(model, x)
        for form in (in_lanes, plain)
    )
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * float(jnp.abs(other).max()))


def test_the_kernel_over_pairs_by_hand():
    kernel = jnp.arange(1.0, 10).reshape(3, 3, 1, 1)
    pairs = lanes._kernel_of_pairs(kernel, (0, 1), first=-2)
    assert pairs.shape == (3, 3, 2, 2)
    # The left output sees columns -1, 0, 1 of -2 to 3; the right one sees 0, 1, 2.
    np.testing.assert_array_equal(pairs[0, :, :, 0].reshape(-1), [0, 1, 2, 3, 0, 0])
    np.testing.assert_array_equal(pairs[0, :, :, 1].reshape(-1), [0, 0, 1, 2, 3, 0])


@pytest.mark.parametrize(
    ("shape", "features", "expected"),
    [((12, 16), 64, True), ((12, 18), 64, False), ((11, 16), 64, False), ((12, 16), 128, False)],
)
def test_where_it_is_used(shape, features, expected):
    assert lanes.fits(jnp.zeros((1, *shape, 64)), features) is expected


@pytest.mark.parametrize("shape", [(12, 18), (11, 16)])
def test_other_sizes_stay_plain(shape):
    x = images(64, shape)
    np.testing.assert_array_equal(jax.jit(block(64))(x), plain(block(64), x, None))


@pytest.mark.parametrize(("platform", "kernel"), [("tpu", "3x3x128x128"), ("cpu", "3x3x64x64"), ("cuda", "3x3x64x64")])
def test_only_a_tpu_gets_it(platform, kernel):
    text = (
        jax.jit(lambda model, x: model(x)).trace(block(64), images(64)).lower(lowering_platforms=(platform,)).as_text()
    )
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert convolutions
    assert all(f"tensor<{kernel}xf32>" in line for line in convolutions), convolutions


def test_three_passes_of_bfloat16_are_exact_enough_for_scores_and_descriptors(monkeypatch):
    """A CPU has no such passes, so this rounds the factors as they do, and adds the three products."""
    network = sp.from_pretrained()
    photo = jnp.asarray(example_photos()[0])[None, :480, :512]
    expected = jax.jit(network)(photo)
    convolve, calls = lanes._convolve, []

    def parts(x):
        high = jax.lax.reduce_precision(x, 8, 7)
        return high, jax.lax.reduce_precision(x - high, 8, 7)

    def in_three_passes(x, kernel, **options):
        calls.append(kernel.shape)
        (x_high, x_low), (kernel_high, kernel_low) = parts(x), parts(kernel)
        low = convolve(x_high, kernel_low, **options) + convolve(x_low, kernel_high, **options)
        return convolve(x_high, kernel_high, **options) + low

    monkeypatch.setattr(lanes, "_convolve", in_three_passes)
    monkeypatch.setattr("superpoint_jax.model._for_the_platform", ConvBlock.in_lanes)
    found = jax.jit(lambda network, photo: network(photo))(network, photo)
    # Both halves of the second convolution of block 1, and three of block 2.
    assert calls == [(3, 3, 128, 128)] * 5
    scores, exact = score_map(found.logits), score_map(expected.logits)
    assert 1e-7 < float(jnp.max(jnp.abs(scores - exact))) < 1.5e-5
    assert float(jnp.max(jnp.abs(found.descriptors - expected.descriptors))) < 1e-5
