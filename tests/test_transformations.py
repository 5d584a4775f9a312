"""extract() under the user's own jit, vmap, grad, scan and sharding: the same results; and when it compiles again."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from superpoint_jax import Keypoints, SuperPoint, extract

K = 32


def assert_same(a: Keypoints, b: Keypoints) -> None:
    """Equal keypoints; another program may sum in another order, which moves scores and descriptors by rounding."""
    assert np.any(a.mask)
    np.testing.assert_array_equal(a.mask, b.mask)
    np.testing.assert_array_equal(a.num_detected, b.num_detected)
    np.testing.assert_array_equal(a.keypoints, b.keypoints)
    np.testing.assert_allclose(a.scores, b.scores, rtol=0, atol=1e-6)
    np.testing.assert_allclose(a.descriptors, b.descriptors, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def eight(gray_photos) -> jax.Array:
    """A batch of eight crops, [8,40,56,1]."""
    crops = [photo[30:70, 60:116] for photo in gray_photos.values()]
    return jnp.asarray(np.stack(crops)[..., None])


@pytest.fixture(scope="module")
def expected(model, eight) -> Keypoints:
    return extract(model, eight, max_keypoints=K)


def test_under_jit(model, eight, expected):
    assert_same(jax.jit(lambda m, x: extract(m, x, max_keypoints=K))(model, eight), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_with_the_model_as_a_constant(model, eight, dtype):
    """As docs/performance.md recommends for serving: the compiler then converts the weights once."""
    constant = jax.jit(lambda x: extract(model, x, max_keypoints=K, dtype=dtype))
    assert_same(constant(eight), extract(model, eight, max_keypoints=K, dtype=dtype))


def test_under_vmap_over_images(model, eight, expected):
    out = jax.vmap(lambda x: extract(model, x[None], max_keypoints=K)[0])(eight)
    assert_same(out, expected)


def test_under_vmap_over_models(random_model, eight):
    models = [random_model(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    out = jax.vmap(lambda m: extract(m, eight[:1], max_keypoints=K)[0])(stacked)
    for i, model in enumerate(models):
        assert_same(out[i], extract(model, eight[:1], max_keypoints=K)[0])


def test_under_scan(model, eight, expected):
    def step(count, image):
        out = extract(model, image[None], max_keypoints=K)[0]
        return count + out.num_detected, out

    count, out = jax.lax.scan(step, jnp.int32(0), eight)
    assert_same(out, expected)
    assert count == np.sum(expected.num_detected)


@pytest.mark.parametrize("with_sizes", [False, True])
def test_over_a_mesh_with_the_batch_sharded(model, eight, expected, with_sizes):
    assert len(jax.devices()) == 8
    mesh = Mesh(np.array(jax.devices()), ("data",))
    split, everywhere = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    sizes = jnp.full((8, 2), jnp.array([[40, 56]])) if with_sizes else None
    out = extract(
        jax.device_put(model, everywhere),
        jax.device_put(eight, split),
        image_sizes=None if sizes is None else jax.device_put(sizes, split),
        max_keypoints=K,
    )
    assert_same(out, expected)
    for leaf in (out.keypoints, out.scores, out.descriptors, out.mask):
        assert leaf.sharding.is_equivalent_to(split, leaf.ndim), "the batch stays where it is"


# A sum over keypoints of a smooth function, each entry weighted by the place of the keypoint and not by its row: the
# order of two equal scores is a matter of rounding. With room for every keypoint nothing drops out at the end either.


def weighted(values: jax.Array, keypoints: jax.Array) -> jax.Array:
    """[1,K,D] values times fixed random weights that depend on the nearest pixel of their keypoint [1,K,2]."""
    table = jax.random.normal(jax.random.key(7), (40, 56, values.shape[-1]))
    place = jnp.round(jax.lax.stop_gradient(keypoints)).astype(jnp.int32)
    return values * table[place[..., 1], place[..., 0]]


def scores_of(model: SuperPoint, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    out = extract(model, images, max_keypoints=-1)
    return weighted(out.scores[..., None], out.keypoints), out.keypoints


def descriptors_of(model: SuperPoint, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    out = extract(model, images, max_keypoints=-1)
    return weighted(out.descriptors, out.keypoints), out.keypoints


def coordinates_of(model: SuperPoint, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    out = extract(model, images, max_keypoints=-1, refinement="soft_argmax")
    return weighted(out.keypoints, out.keypoints), out.keypoints


def check_directional_derivative(terms: Callable, tree) -> None:
    """The gradient of the sum of the terms, along itself, equals the central difference along it.

    Along the gradient the sum changes most, so rounding weighs least; the difference is summed in float64. It must not
    cross a jump, where a keypoint comes, goes or moves to the next pixel: the largest of a few steps that has the same
    keypoints at both ends counts. A ReLU or a maximum may change sides within the step, hence a few percent.
    """
    gradient = jax.jit(jax.grad(lambda t: jnp.sum(terms(t)[0])))(tree)
    squared = float(sum(np.sum(np.square(np.asarray(leaf, np.float64))) for leaf in jax.tree.leaves(gradient)))
    assert np.isfinite(squared)
    assert squared > 0
    value = jax.jit(terms)

    def at(distance: float) -> tuple[float, list[tuple[float, float]]]:
        out, keypoints = value(jax.tree.map(lambda leaf, slope: leaf + distance * slope, tree, gradient))
        return float(np.sum(np.asarray(out, np.float64))), sorted(map(tuple, np.round(keypoints[0]).tolist()))

    for change in (1e-2, 3e-3, 1e-3, 3e-4):
        step = change / squared
        (ahead, there), (behind, here) = at(step), at(-step)
        if there == here:
            np.testing.assert_allclose((ahead - behind) / (2 * step), squared, rtol=0.05)
            return
    pytest.fail("every step crosses a jump")


TERMS = [scores_of, descriptors_of, coordinates_of]


@pytest.mark.parametrize("terms", TERMS)
def test_gradient_to_the_image(model, eight, terms):
    check_directional_derivative(lambda images: terms(model, images), eight[:1])


@pytest.mark.parametrize("terms", TERMS)
def test_gradient_to_the_parameters(model, eight, terms):
    check_directional_derivative(lambda parameters: terms(parameters, eight[:1]), model)


def test_gradient_without_keypoints_is_zero_and_not_nan(model, eight):
    def loss(images):
        out = extract(model, images, max_keypoints=K, keypoint_threshold=1.0, refinement="soft_argmax")
        return out.scores.sum() + out.descriptors.sum() + out.keypoints.sum()

    np.testing.assert_array_equal(jax.grad(loss)(eight[:1]), 0)


@pytest.fixture
def compilations():
    """A function that says how many programs a call had XLA compile, whatever they are."""
    events: list[str] = []

    def listen(event: str, duration: float, **_) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)

    def count(call: Callable) -> int:
        events.clear()
        jax.block_until_ready(call())
        return len(events)

    yield count
    jax.monitoring.unregister_event_duration_listener(listen)


def test_compiles_again_only_for_a_new_shape_type_or_option(random_model, compilations):
    model, other = random_model(0), random_model(1)
    # Sizes that no other test uses, or the first call would be compiled already.
    images = jnp.zeros((2, 16, 48, 1))
    brighter, wider, pixels = images + 0.5, jnp.zeros((2, 16, 56, 1)), jnp.zeros((2, 16, 48, 1), jnp.uint8)

    assert compilations(lambda: extract(model, images, max_keypoints=5)) > 0
    assert compilations(lambda: extract(model, images, max_keypoints=5)) == 0
    assert compilations(lambda: extract(model, brighter, max_keypoints=5)) == 0, "other values"
    assert compilations(lambda: extract(other, images, max_keypoints=5)) == 0, "other weights"
    assert compilations(lambda: extract(model, wider, max_keypoints=5)) > 0, "a new shape"
    assert compilations(lambda: extract(model, pixels, max_keypoints=5)) > 0, "a new type"
    assert compilations(lambda: extract(model, images, max_keypoints=6)) > 0, "a new option"
    assert compilations(lambda: extract(model, wider, max_keypoints=5)) == 0, "all of them are kept"
    assert compilations(lambda: extract(model, images, max_keypoints=5, nms_radius=4)) == 0, "the model's own option"


def test_new_image_sizes_compile_nothing(model, compilations):
    images = jnp.zeros((2, 24, 48, 1))
    sizes = [jnp.array(pair) for pair in ([[24, 48], [8, 8]], [[16, 40], [9, 31]])]
    assert compilations(lambda: extract(model, images, image_sizes=sizes[0])) > 0
    assert compilations(lambda: extract(model, images, image_sizes=sizes[1])) == 0
