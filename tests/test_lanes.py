"""The form of the first blocks for a TPU is held against the plain one, and is what a TPU gets."""

from functools import partial

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
from superpoint_jax.model import ConvBlock, _in_lanes
from tests.three_passes import in_three_passes

plain = jax.jit(ConvBlock.plain)
in_lanes = jax.jit(ConvBlock.in_lanes)


def block(channels: int, *, features: int = 64, batch_norm: bool = False) -> ConvBlock:
    """A block with random weights, and random statistics if it has batch norm."""
    made = ConvBlock(channels, features, pool=True, config=SuperPointConfig(batch_norm=batch_norm), rngs=nnx.Rngs(0))
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


@pytest.mark.parametrize("form", [in_lanes, jax.jit(_in_lanes)])
@pytest.mark.parametrize("shape", [(36, 16), (13, 15)], ids=["strips", "padded"])
def test_its_derivatives_equal_those_of_the_plain_block(shape, form, monkeypatch):
    monkeypatch.setattr(lanes, "BAND_BYTES", 2**10)
    model, x = block(64), images(64, shape)
    weights = jax.random.normal(jax.random.key(3), (2, shape[0] // 2, shape[1] // 2, 64))
    ours, expected = (
        jax.grad(lambda model, x, form=form: jnp.sum(form(model, x, None) * weights), argnums=(0, 1))(model, x)
        for form in (form, plain)
    )
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * float(jnp.abs(other).max()))
    (_, ours), (_, expected) = (
        jax.jvp(lambda x, form=form: form(model, x, None), (x,), (x,)) for form in (form, plain)
    )
    np.testing.assert_allclose(ours, expected, atol=1e-5 * float(jnp.abs(expected).max()))


def test_a_gradient_is_computed_without_bands(monkeypatch):
    """It would keep what each band computes, and write it more than once."""
    monkeypatch.setattr(lanes, "BAND_BYTES", 2**10)
    model, x = block(1), images(1, (36, 16)).astype(jnp.bfloat16)
    assert "scan" in str(jax.make_jaxpr(lambda x: _in_lanes(model, x, None))(x))
    assert "scan" not in str(jax.make_jaxpr(jax.grad(lambda x: _in_lanes(model, x, None).sum().astype(float)))(x))


@pytest.mark.parametrize(("count", "shape"), [(1, (51, 83)), (3, (100, 70)), (9, (37, 18)), (2, (7, 9))])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("channels", [1, 64, 128])
def test_strips_bands_and_odd_sizes_change_nothing(channels, dtype, count, shape, monkeypatch):
    """Few images are cut into strips; and in bfloat16, large ones into bands, here of 16 rows."""
    monkeypatch.setattr(lanes, "BAND_BYTES", 2**10)
    loops = spied(monkeypatch, lanes.lax, "map")
    model = block(channels, features=max(channels, 64))
    x = jax.random.normal(jax.random.key(2), (count, *shape, channels)).astype(dtype)
    sizes = jax.random.randint(jax.random.key(3), (count, 2), 1, jnp.array([shape]) + 1)
    for valid in (None, sizes):
        found, expected = (jax.jit(form)(model, x, valid) for form in (_in_lanes, ConvBlock.plain))
        assert found.dtype == expected.dtype
        found, expected = found.astype(jnp.float32), expected.astype(jnp.float32)
        assert found.shape == (count, shape[0] // 2, shape[1] // 2, max(channels, 64))
        bound = 2e-6 if dtype == "float32" else 2**-7
        np.testing.assert_allclose(found, expected, atol=bound * float(jnp.abs(expected).max()))
    assert bool(loops) is (dtype == "bfloat16" and shape[0] > lanes.FEWEST_ROWS)


def spied(monkeypatch, module, name: str) -> list:
    """The list to which each call of a function of the module is added."""
    function, calls = getattr(module, name), []
    monkeypatch.setattr(module, name, lambda *given: (calls.append(name), function(*given))[1])
    return calls


@pytest.mark.parametrize(
    ("batch", "height", "dtype", "expected"),
    [
        (8, 480, "bfloat16", (1, 120)),  # 315 MB in bands of 79 MB.
        (8, 480, "float32", (1, 480)),
        (64, 480, "bfloat16", (1, 120)),  # As of several chips.
        (1, 480, "bfloat16", (8, 60)),
        (3, 480, "float32", (2, 240)),
        (1, 40, "float32", (2, 20)),
        (1, 9, "float32", (1, 16)),
    ],
)
def test_strips_and_bands_by_hand(batch, height, dtype, expected):
    """The number of strips of each image in a band, and the rows of each."""
    assert lanes._parts(jnp.zeros((batch, height, 80, 8), dtype), height * 640 * 64, differentiable=False) == expected


def test_the_kernel_over_groups_by_hand():
    kernel = jnp.arange(1.0, 10).reshape(3, 3, 1, 1)
    pairs = lanes._grouped(kernel, range(2), start=-2, size=6)
    assert pairs.shape == (3, 3, 2, 2)
    # The left output sees columns -1, 0, 1 of -2 to 3; the right one sees 0, 1, 2.
    np.testing.assert_array_equal(pairs[0, :, :, 0].reshape(-1), [0, 1, 2, 3, 0, 0])
    np.testing.assert_array_equal(pairs[0, :, :, 1].reshape(-1), [0, 0, 1, 2, 3, 0])


@pytest.mark.parametrize(("features", "expected"), [(64, True), (128, True), (32, True), (48, False), (256, False)])
def test_where_it_is_used(features, expected):
    assert lanes.fits(features) is expected


@pytest.mark.parametrize(("platform", "kernel"), [("tpu", "3x3x128x128"), ("cpu", "3x3x64x64"), ("cuda", "3x3x64x64")])
def test_only_a_tpu_gets_it(platform, kernel):
    text = (
        jax.jit(lambda model, x: model(x)).trace(block(64), images(64)).lower(lowering_platforms=(platform,)).as_text()
    )
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert convolutions
    assert all(f"tensor<{kernel}xf32>" in line for line in convolutions), convolutions


def test_three_passes_of_bfloat16_are_exact_enough_for_scores_and_descriptors(monkeypatch):
    network = sp.from_pretrained()
    photo = jnp.asarray(example_photos()[0])[None, :480, :512]
    expected = jax.jit(network)(photo)
    convolve, calls = lanes._convolve, []

    def rounded(x, kernel, **options):
        if options.get("precision"):
            return convolve(x, kernel, **options)  # The first one, which has six passes.
        calls.append(kernel.shape)
        return in_three_passes(partial(convolve, **options), x, kernel)

    monkeypatch.setattr(lanes, "_convolve", rounded)
    monkeypatch.setattr("superpoint_jax.model._for_the_platform", _in_lanes)
    found = jax.jit(lambda network, photo: network(photo))(network, photo)
    # Both halves of the second convolution of block 1, and three of blocks 2 and 3.
    assert calls == [(3, 3, 128, 128)] * 5 + [(3, 3, 64, 128)] + [(3, 3, 128, 128)] * 2
    scores, exact = score_map(found.logits), score_map(expected.logits)
    assert 1e-7 < float(jnp.max(jnp.abs(scores - exact))) < 1.5e-5
    assert float(jnp.max(jnp.abs(found.descriptors - expected.descriptors))) < 1e-5
