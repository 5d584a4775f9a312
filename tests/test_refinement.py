"""The refinement head: what it computes, where a keypoint may go, and that it belongs to the weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import superpoint_jax as sp
from superpoint_jax import refinement
from superpoint_jax.detection import score_map
from superpoint_jax.example import example_photos
from superpoint_jax.model import to_gray
from superpoint_jax.refinement import NOISE, PATCH_PX, PATCH_RADIUS_PX, RefinementHead, head_inputs, refine
from superpoint_jax.training.refinement.head import with_head
from superpoint_jax.weights import save_weights
from tests.random_weights import model_of, random_state
from tests.three_passes import in_three_passes

PIXELS = PATCH_PX**2


def brightest() -> RefinementHead:
    """A head that moves a keypoint to the brightest pixel within its reach: a window's logit is its middle pixel."""
    head = RefinementHead(rngs=nnx.Rngs(0))
    for conv, middle, weight in ((head.conv_a, 4, 1.0), (head.conv_b, 0, 1.0), (head.conv_c, 0, 30.0)):
        kernel = jnp.zeros(conv.kernel.shape).at[middle, middle, 0, 0].set(weight)
        conv.kernel.set_value(kernel)
        assert conv.bias is not None
        conv.bias.set_value(jnp.zeros(conv.bias.shape))
    return head


@pytest.fixture(scope="module")
def model():
    config = sp.SuperPointConfig(keypoint_threshold=0.001, border_removal_distance=1, sampling_rule="centered")
    return with_head(model_of(random_state(0, config), config), RefinementHead(rngs=nnx.Rngs(1)))


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    coarse = jnp.asarray(rng.uniform(size=(2, 18, 24, 1)), jnp.float32)
    return np.asarray(jnp.clip(jax.image.resize(coarse, (2, 72, 96, 1), "cubic"), 0, 1))


@pytest.mark.parametrize(("x", "y"), [(10, 7), (0, 0), (23, 15)])
def test_a_keypoint_moves_to_what_the_head_finds(x, y):
    gray, scores = np.zeros((1, 16, 24, 1), np.float32), np.zeros((1, 16, 24), np.float32)
    to = np.clip([x + 1, y - 2], 0, [23, 15])
    gray[0, to[1], to[0]] = 1
    places, mask = jnp.array([[[x, y], [3, 3]]], jnp.float32), jnp.array([[True, False]])
    refined = refine(brightest(), jnp.asarray(gray), jnp.asarray(scores), places, mask, jnp.array([[16, 24]]))
    # Beyond the border, the patch repeats the border's pixels, which are then as bright; the keypoint stays inside.
    np.testing.assert_allclose(refined, [[to, [0, 0]]], atol=1e-2)


def test_patches_repeat_the_border_of_each_image():
    gray = jnp.arange(16 * 24, dtype=jnp.float32).reshape(1, 16, 24, 1)
    grays, logs = head_inputs(gray, gray[..., 0] + 1, jnp.array([[[22.0, 1.0]]]), jnp.array([[13, 23]]))
    rows = np.clip(np.arange(1 - PATCH_RADIUS_PX, 2 + PATCH_RADIUS_PX), 0, 12)
    columns = np.arange(22 - PATCH_RADIUS_PX, 23 + PATCH_RADIUS_PX)
    values = np.asarray(gray)[0, ..., 0]
    np.testing.assert_array_equal(grays[0, 0], values[rows][:, np.clip(columns, 0, 22)].ravel())
    # The score map ends with the last whole cell: 8 rows and 16 columns.
    expected = np.log(values[np.clip(rows, 0, 7)][:, np.clip(columns, 0, 15)] + 1)
    np.testing.assert_allclose(logs[0, 0], expected.ravel(), rtol=1e-6)


def test_light_does_not_move_a_keypoint():
    rng = np.random.default_rng(1)
    grays, logs = rng.uniform(size=(5, PIXELS)), rng.normal(size=(5, PIXELS))
    head = RefinementHead(rngs=nnx.Rngs(0))
    as_it_is, darker = (head(jnp.asarray(g, jnp.float32), jnp.asarray(logs, jnp.float32)) for g in (grays, grays / 2))
    # Not 0, because of what is added to the contrast.
    np.testing.assert_allclose(as_it_is, darker, atol=2e-3)
    assert np.abs(as_it_is).max() > 0.05


@pytest.fixture(scope="module")
def seen():
    """What a head sees of 7 keypoints: grays and logs."""
    return tuple(jax.random.normal(jax.random.key(5), (2, 7, PIXELS)))


def with_biases(seed: int) -> RefinementHead:
    head = RefinementHead(rngs=nnx.Rngs(seed))
    for i, conv in enumerate((head.conv_a, head.conv_b, head.conv_c)):
        assert conv.bias is not None
        conv.bias.set_value(0.3 * jax.random.normal(jax.random.key(i), conv.bias.shape))
    return head


def test_the_form_for_a_tpu_equals_the_convolutions(seen):
    head = with_biases(3)
    expected = jax.jit(RefinementHead._by_convolutions)(head, *seen)
    found = jax.jit(RefinementHead._by_product)(head, *seen)
    assert found.shape == expected.shape == (7, 25)
    np.testing.assert_allclose(found, expected, atol=3e-6 * float(jnp.abs(expected).max()))


def test_three_passes_of_bfloat16_move_keypoints_by_less_than_a_ten_thousandth_of_a_pixel(monkeypatch):
    model, photo = sp.from_pretrained(), to_gray(example_photos()[0][None, :480, :512], "luma")
    peaks = sp.extract(model, photo, max_keypoints=500, refinement="none")
    heat = score_map(model(photo).logits)
    seen = model.refinement_head, photo, heat, peaks.keypoints, peaks.mask, peaks.image_sizes
    expected, shapes = refine(*seen), []
    product = refinement._product

    def rounded(matrix, x):
        shapes.append(matrix.shape)
        return in_three_passes(product, matrix, x)

    monkeypatch.setattr(refinement, "_product", rounded)
    monkeypatch.setattr(RefinementHead, "_by_convolutions", RefinementHead._by_product)
    moved = jnp.abs(refine(*seen) - expected).max()
    assert set(shapes) == {(25 * 64, 2 * PIXELS), (32, 64), (1, 32)}
    assert 1e-6 < float(moved) < 1e-4


@pytest.mark.parametrize("middle", [0.5, 1.0, 0.0])
def test_contrast_is_exact_also_where_only_the_middle_differs(middle):
    patches = 0.5 + 0.002 * np.random.default_rng(0).normal(size=(3, PIXELS))
    patches[:, PIXELS // 2] = middle
    patches = patches.astype(np.float32)
    wide = patches.astype(np.float64)
    expected = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + NOISE**2)
    np.testing.assert_allclose(refinement._normalized(jnp.asarray(patches)), expected, rtol=2e-5, atol=2e-5)


def test_its_gradient_equals_that_of_the_convolutions(seen):
    weights = jax.random.normal(jax.random.key(6), (7, 25))
    ours, expected = (
        jax.grad(lambda head, seen, form=form: jnp.sum(form(head, *seen) * weights), argnums=(0, 1))(
            with_biases(3), seen
        )
        for form in (RefinementHead._by_product, RefinementHead._by_convolutions)
    )
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * float(jnp.abs(other).max()))


@pytest.mark.parametrize(("platform", "convolutions"), [("tpu", 0), ("cpu", 3), ("cuda", 3)])
def test_only_a_tpu_gets_the_product(platform, convolutions):
    head, patches = RefinementHead(rngs=nnx.Rngs(0)), jnp.zeros((7, PIXELS))
    traced = jax.jit(lambda head, grays, logs: head(grays, logs)).trace(head, patches, patches)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == convolutions
    assert text.count("stablehlo.dot_general") == 3 - convolutions


def test_the_head_changes_positions_by_less_than_its_reach_and_nothing_else_but_descriptors(model, images):
    refined, peaks = sp.extract(model, images), sp.extract(model, images, refinement="none")
    for name in ("scores", "mask", "num_detected"):
        np.testing.assert_array_equal(getattr(refined, name), getattr(peaks, name))
    offsets = np.abs(np.asarray(refined.keypoints - peaks.keypoints))[np.asarray(peaks.mask)]
    assert 0.1 < offsets.max() <= 2
    assert (np.asarray(refined.keypoints) <= [95, 71]).all()
    assert (np.asarray(refined.keypoints) >= 0).all()


def test_mixed_sizes_equal_each_image_alone(model, images):
    padded = images.copy()
    padded[0, 61:], padded[0, :, 83:] = 1, 0.5
    options: Any = dict(max_keypoints=60, border_removal_distance=0)
    within = sp.extract(model, padded, image_sizes=np.array([[61, 83], [72, 96]]), **options)
    alone = sp.extract(model, images[:1, :61, :83], **options)
    for name in ("keypoints", "descriptors"):
        np.testing.assert_allclose(getattr(within, name)[0], getattr(alone, name)[0], atol=1e-4)


def test_it_works_enlarged_and_in_a_region(model, images):
    region = np.zeros((2, 72, 96), bool)
    region[:, :, :40] = True
    cases: list[dict[str, Any]] = [dict(enlarge=1.5), dict(enlarge=1.5, region=region), dict(region=region)]
    for options in cases:
        refined, peaks = (
            sp.extract(model, images, max_keypoints=40, refinement=r, **options) for r in ("learned", "none")
        )
        np.testing.assert_array_equal(refined.mask, peaks.mask)
        assert 0.1 < np.abs(refined.keypoints - peaks.keypoints).max() <= 2


def test_it_composes(model, images):
    def total(images):
        return jnp.sum(sp.extract(model, images, max_keypoints=20).keypoints)

    gradient = jax.jit(jax.grad(total))(images)
    assert np.isfinite(gradient).all()
    assert np.any(gradient)
    _, tangent = jax.jvp(total, (images,), (np.ones_like(images) * 0.01,))
    assert np.isfinite(tangent)
    mapped = jax.vmap(lambda image: sp.extract(model, image[None], max_keypoints=20)[0])(images)
    np.testing.assert_allclose(mapped.keypoints, sp.extract(model, images, max_keypoints=20).keypoints, atol=1e-4)


def test_the_derivative_to_the_parameters_of_the_head_is_finite(model, images):
    gradient = jax.grad(lambda model: jnp.sum(sp.extract(model, images, max_keypoints=20).keypoints))(model)
    leaves = jax.tree.leaves(nnx.state(gradient.refinement_head))
    assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in leaves)


def test_values_that_are_not_finite_have_no_keypoint_and_do_no_harm(model, images):
    broken = images.copy()
    broken[0, 20:30, 20:30] = np.nan
    found = sp.extract(model, broken, max_keypoints=30)
    assert np.isfinite(found.keypoints).all()
    assert np.any(found.mask[1])


def test_an_even_image_gives_finite_places(model):
    found = sp.extract(model, np.full((1, 72, 96, 1), 0.5, np.float32), max_keypoints=30, keypoint_threshold=0.0)
    assert np.isfinite(found.keypoints).all()


def test_it_is_saved_with_the_weights(model, images, tmp_path):
    sp.save_pretrained(model, tmp_path / "folder")
    save_weights(model, tmp_path / "file.safetensors")
    expected = sp.extract(model, images, max_keypoints=40)
    for source in (tmp_path / "folder", tmp_path / "file.safetensors"):
        again = sp.from_pretrained(source)
        assert again.config == model.config
        np.testing.assert_array_equal(sp.extract(again, images, max_keypoints=40).keypoints, expected.keypoints)


def test_a_configuration_without_a_head_leaves_it_out(model, tmp_path):
    path = save_weights(model, tmp_path / "file.safetensors")
    plain = sp.SuperPointConfig()
    assert sp.from_pretrained(path, config=plain).refinement_head is None
    by_name = sp.from_pretrained(path, config="superglue")
    assert by_name.config.refinement == "none"
    assert by_name.refinement_head is not None


def test_without_a_head_the_message_says_what_to_do(images):
    config = sp.SuperPointConfig()
    plain = model_of(random_state(0, config), config)
    with pytest.raises(ValueError, match="needs weights with a refinement head"):
        sp.extract(plain, images, refinement="learned")
    with pytest.raises(ValueError, match="refinement_head=True can't be set here"):
        sp.extract(plain, images, refinement="learned", refinement_head=True)


def test_the_head_of_the_package_places_keypoints_more_exactly(photos):
    """A photo moved by a known fraction of a pixel: matches are nearer to it than with the soft-argmax."""
    model = sp.from_pretrained()
    photo = jnp.asarray(photos["motorcycle"], jnp.float32).mean(-1)[None, ::2, ::2, None] / 255
    shift = jnp.array([0.37, 0.61])  # down and to the right
    moved = jax.image.scale_and_translate(photo[0], (240, 320, 1), (0, 1), jnp.ones(2), shift, "cubic")[None]

    def error_px(rule):
        a, b = (sp.extract(model, image, max_keypoints=300, refinement=rule) for image in (photo, moved))
        (pairs,) = sp.match(a, b, max_distance=0.7).to_list()
        i, j = pairs["indices"].T
        offset = np.asarray(b.keypoints)[0, j] - np.asarray(a.keypoints)[0, i] - np.asarray(shift)[::-1]
        return np.median(np.linalg.norm(offset, axis=1))

    assert error_px("learned") < 0.8 * error_px("soft_argmax")
