"""The network: shapes, stages, types of input, and errors at its door."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from superpoint_jax import SuperPoint, SuperPointConfig
from superpoint_jax.config import CELL_PX
from superpoint_jax.model import check_images, normalize, to_gray
from tests.conftest import SMALL
from tests.parity import references
from tests.random_weights import random_state, state_of


@jax.jit
def dense(model: SuperPoint, images: jax.Array):
    return model(images, output_hidden_states=True)


def test_sizes_floor_to_whole_cells(model):
    out = dense(model, jnp.zeros((1, 23, 38, 1)))
    assert out.logits.shape == (1, 2, 4, 65)
    assert out.descriptors.shape == (1, 2, 4, 16)
    assert [state.shape for state in out.hidden_states] == [(1, 11, 19, 8), (1, 5, 9, 8), (1, 2, 4, 16), (1, 2, 4, 16)]


def test_hidden_states_come_only_when_asked_for(model):
    assert jax.jit(lambda m, x: m(x))(model, jnp.zeros((1, 23, 38, 1))).hidden_states is None


@pytest.mark.parametrize("batch_norm", [False, True])
def test_stages_equal_the_reference(random_model, images, batch_norm):
    model = random_model(3, batch_norm=batch_norm)
    out = dense(model, images)
    stages = [references.network(state_of(model), np.asarray(image[..., 0])) for image in images]
    ours = dict(zip(("block_0", "block_1", "block_2", "block_3"), out.hidden_states, strict=True))
    for name, values in (ours | dict(logits=out.logits, descriptors=out.descriptors)).items():
        for i, stage in enumerate(stages):
            # Sums of up to 144 products in another order; 1e-5 of the range is what the parity tests hold.
            np.testing.assert_allclose(values[i], stage[name], rtol=0, atol=1e-5 * np.ptp(stage[name]), err_msg=name)


def test_cells_see_as_far_as_they_say(model):
    """What is not finite is marked in the cells that see it: no fewer, and hardly more."""
    cell = 12
    image = jax.random.uniform(jax.random.key(0), (1, 25 * CELL_PX, 8 * CELL_PX, 1))
    seen = np.abs(jax.grad(lambda x: model(x).logits[0, cell].sum())(image))[0].max(axis=(1, 2))
    rows = np.flatnonzero(seen)
    assert rows[0] == cell * CELL_PX - 38
    assert rows[-1] == cell * CELL_PX + CELL_PX - 1 + 38
    for row in (rows[0], rows[-1]):
        logits = np.asarray(model(image.at[0, row].set(jnp.inf)).logits)[0, :, 0, 0]
        assert np.isnan(logits[cell])
        marked = np.flatnonzero(np.isnan(logits))
        np.testing.assert_array_equal(marked, np.arange(row // CELL_PX - 5, row // CELL_PX + 6))


def test_batch_norm_follows_relu(random_model, images):
    """Folded into the convolution before ReLU it would give non-negative blocks; after it, some are negative."""
    assert np.min(dense(random_model(3, batch_norm=True), images).hidden_states[0]) < 0
    assert np.min(dense(random_model(3), images).hidden_states[0]) >= 0


def test_descriptors_have_unit_length(model, images):
    np.testing.assert_allclose(np.linalg.norm(dense(model, images).descriptors, axis=-1), 1, atol=1e-6)


def test_number_of_parameters_is_the_published_one():
    config = SuperPointConfig()
    assert sum(values.size for values in random_state(0, config).values()) == 1_300_865
    model = nnx.eval_shape(lambda: SuperPoint(config, rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == 1_300_865


def test_initial_weights_differ_by_seed_and_repeat():
    kernels = [
        SuperPoint(SuperPointConfig(**SMALL), rngs=nnx.Rngs(seed)).encoder.conv_blocks[1].conv_a.kernel[...]
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.any(np.asarray(kernels[0] != kernels[2]))
    # He: two over the number of inputs.
    np.testing.assert_allclose(np.var(kernels[0]), 2 / (9 * 8), rtol=0.2)


def test_to_gray_by_hand():
    pixel = jnp.array([0.1, 0.5, 0.9]).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(to_gray(pixel, "luma"), [[[[0.299 * 0.1 + 0.587 * 0.5 + 0.114 * 0.9]]]], rtol=1e-6)
    np.testing.assert_array_equal(to_gray(pixel, "first"), pixel[..., :1])


@pytest.mark.parametrize("rule", ["luma", "first"])
def test_to_gray_of_bytes_divides_by_255(rule):
    pixels = jnp.array([0, 51, 255], jnp.uint8).reshape(1, 1, 3, 1)
    np.testing.assert_allclose(to_gray(pixels, rule).ravel(), [0, 0.2, 1], rtol=1e-6)
    gray = jnp.repeat(pixels, 3, axis=-1)
    np.testing.assert_allclose(to_gray(gray, rule).ravel(), [0, 0.2, 1], rtol=1e-6)
    assert to_gray(pixels, rule).dtype == jnp.float32


def test_normalize_of_zero_is_zero_with_a_finite_gradient():
    vectors = jnp.zeros((2, 3)).at[0].set(jnp.array([3.0, 0, 4]))
    np.testing.assert_allclose(normalize(vectors), [[0.6, 0, 0.8], [0, 0, 0]], rtol=1e-6)
    assert np.all(np.isfinite(jax.grad(lambda v: normalize(v)[:, 0].sum())(vectors)))


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((1, 5, 64, 1), jnp.float32, "images have height 5; SuperPoint needs at least 8 px"),
        ((1, 64, 7, 3), jnp.float32, "images have width 7; SuperPoint needs at least 8 px"),
        ((64, 64), jnp.float32, r"shape \(64, 64\); \[B,H,W,1 or 3\] is needed"),
        ((64, 64, 3), jnp.uint8, r"shape \(64, 64, 3\); .* \(images\[None\] for a single one\)"),
        ((1, 3, 64, 64), jnp.float32, r"shape \(1, 3, 64, 64\); .*; move the channels last"),
        ((1, 64, 64, 4), jnp.float32, r"shape \(1, 64, 64, 4\); \[B,H,W,1 or 3\] is needed"),
        ((1, 64, 64, 1), jnp.int32, "images have type int32; float in .0, 1. or uint8 is needed"),
    ],
)
def test_wrong_images_say_what_is_needed(shape, dtype, message):
    with pytest.raises(ValueError, match=message):
        check_images(jnp.zeros(shape, dtype))


def test_wrong_image_sizes_say_what_is_needed():
    with pytest.raises(ValueError, match=r"image_sizes have shape \(2,\); \(1, 2\) is needed: \(height, width\)"):
        check_images(jnp.zeros((1, 64, 64, 1)), jnp.array([64, 64]))


def test_a_list_of_images_says_what_is_needed():
    with pytest.raises(ValueError, match="images are a list; an array"):
        check_images([np.zeros((64, 64, 1))])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([[16, 24]], "image_sizes are a list; an array of integers"),
        (np.array([[16.0, 24.0]]), "image_sizes have type float64; integers are needed"),
        (np.array([[17, 24]]), r"reach from \[17 24\] to \[17 24\]; 8 to \(16, 24\) is needed"),
        (np.array([[7, 24]]), r"reach from \[ 7 24\]"),
    ],
)
def test_sizes_that_cannot_be_say_what_is_needed(sizes, message):
    with pytest.raises(ValueError, match=message):
        check_images(np.zeros((1, 16, 24, 1), np.float32), sizes)


def test_an_empty_batch_says_what_is_needed():
    with pytest.raises(ValueError, match="the batch is empty"):
        check_images(np.zeros((0, 16, 24, 1), np.float32))


def test_a_compute_type_that_is_none_says_what_is_needed(model):
    with pytest.raises(ValueError, match="dtype='int8' is not known"):
        model(jnp.zeros((1, 16, 24, 1)), dtype="int8")


# A model as a pytree


def test_a_models_tree_is_its_arrays_and_its_architecture(random_model):
    """Two models that differ in weights, threshold and origin are one to `jax.jit` and `jax.tree.map`."""
    one, other = random_model(0, keypoint_threshold=0.01), random_model(1, keypoint_threshold=0.2)
    other.magic_leap.set_value(jnp.float32(1))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(one))
    mean = jax.tree.map(lambda a, b: (a + b) / 2, one, other)
    assert mean.config.keypoint_threshold == pytest.approx(0.105)
    assert (one.origin, other.origin, mean.origin) == (None, "magicleap", "magicleap")


def test_the_threshold_reads_as_it_was_given(random_model):
    for threshold in (0.005, 0.015, 0.0005, 0.0, 1.0):
        assert random_model(0, keypoint_threshold=threshold).config.keypoint_threshold == threshold


def test_the_origin_goes_through_jit(model):
    marked = jax.tree.map(lambda leaf: leaf, model)
    marked.magic_leap.set_value(jnp.float32(1))
    trained = jax.jit(lambda model: jax.tree.map(lambda leaf: leaf * 0.9, model))
    assert trained(model).origin is None
    assert trained(marked).origin == "magicleap"


def test_running_statistics_are_no_parameters_for_grad(random_model, images):
    """Whoever takes the gradient to the whole model, which is not the way, moves parameters alone."""
    model = random_model(3, batch_norm=True)

    @jax.jit
    @jax.grad
    def gradient(model):
        dense = model(images)
        return jnp.mean(dense.logits**2) + jnp.mean(dense.descriptors**3)

    _, params, rest = nnx.split(gradient(model), nnx.Param, ...)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(params))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(rest))
    assert len(jax.tree.leaves(rest)) == 12 * 2 + 2
