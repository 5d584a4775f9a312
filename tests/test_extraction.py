"""extract(): one call, any size, any type, one answer for an image alone, in a batch or padded."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from superpoint_jax import Keypoints, extract
from superpoint_jax.extraction import decode
from superpoint_jax.model import LUMA
from tests.parity import references
from tests.random_weights import state_of


def assert_defined(out: Keypoints) -> None:
    """Finite, in the image, ordered; padding is zero; descriptors have unit length."""
    mask = np.asarray(out.mask)
    for leaf in jax.tree.leaves(out):
        assert np.all(np.isfinite(leaf))
    for rows in (out.keypoints, out.scores, out.descriptors):
        assert not np.any(np.asarray(rows)[~mask])
    np.testing.assert_array_equal(np.sort(mask, axis=1)[:, ::-1], mask, err_msg="valid rows come first")
    np.testing.assert_array_equal(mask.sum(axis=1), np.minimum(out.num_detected, mask.shape[1]))
    np.testing.assert_allclose(np.linalg.norm(out.descriptors, axis=-1)[mask], 1, atol=1e-5)
    sizes_xy = np.asarray(out.image_sizes)[:, None, ::-1]
    assert np.all((np.asarray(out.keypoints) >= 0) & (np.asarray(out.keypoints) < sizes_xy))
    for keypoints, scores, valid in zip(np.asarray(out.keypoints), np.asarray(out.scores), mask, strict=True):
        x, y = keypoints[valid].T
        order = np.lexsort((x, y, -scores[valid]))
        np.testing.assert_array_equal(order, np.arange(valid.sum()), err_msg="by score, ties in raster order")


def assert_same(a: Keypoints, b: Keypoints, *, scores: float = 1e-6, descriptors: float = 1e-5) -> None:
    """Equal keypoints row by row; scores and descriptors within float32's rounding."""
    assert np.any(a.mask)
    np.testing.assert_array_equal(a.num_detected, b.num_detected)
    np.testing.assert_array_equal(a.mask, b.mask)
    np.testing.assert_array_equal(a.keypoints, b.keypoints)
    np.testing.assert_allclose(a.scores, b.scores, rtol=0, atol=scores)
    np.testing.assert_allclose(a.descriptors, b.descriptors, rtol=0, atol=descriptors)


@pytest.fixture(scope="module")
def features(model, images) -> Keypoints:
    return extract(model, images)


def test_photos_give_keypoints(features):
    assert_defined(features)
    assert np.all(features.num_detected > 50)
    assert features.keypoints.dtype == features.scores.dtype == features.descriptors.dtype == jnp.float32
    assert features.mask.dtype == bool
    np.testing.assert_array_equal(features.image_sizes, [[72, 104]] * 2)


def test_minus_one_keeps_every_keypoint(features):
    assert features.mask.shape == (2, 15 * 21)
    np.testing.assert_array_equal(features.num_detected, np.sum(features.mask, axis=1))


def test_a_smaller_capacity_keeps_the_best_and_reports_the_rest(model, images, features):
    best = extract(model, images, max_keypoints=20)
    assert best.mask.shape == (2, 20)
    assert best.mask.all()
    np.testing.assert_array_equal(best.num_detected, features.num_detected)
    assert_same(
        best, jax.tree.map(lambda leaf: leaf[:, :20] if leaf.ndim > 1 and leaf.shape[1] > 20 else leaf, features)
    )


def test_keypoints_refer_to_the_array_passed_in(model, features, images):
    """The reference's network and rules on our first image give the same first row."""
    stages = references.network(state_of(model), np.asarray(images[0, ..., 0]))
    theirs = references.decode(
        stages["logits"], stages["descriptors"], (72, 104), references.VARIANTS["superglue"], max_keypoints=1
    )
    np.testing.assert_array_equal(features.keypoints[0, 0], theirs.xy[0])


def test_batch_of_two_equals_two_singles(model, images, features):
    # A batch of two is another program: its sums may run in another order.
    for i in range(2):
        assert_same(extract(model, images[i : i + 1]), features[i : i + 1])


def test_the_same_call_twice_gives_the_same_bits(model, images, features):
    for a, b in zip(jax.tree.leaves(extract(model, images)), jax.tree.leaves(features), strict=True):
        np.testing.assert_array_equal(a, b)


def test_numpy_images_are_fine(model, images, features):
    assert_same(extract(model, np.asarray(images)), features)


def test_bytes_equal_floats(model, images):
    pixels = jnp.asarray(np.rint(255 * np.asarray(images)).astype(np.uint8))
    assert_same(extract(model, pixels), extract(model, pixels.astype(jnp.float32) / 255))


def test_three_channels_become_luma(model, photos):
    colors = jnp.asarray(photos["coffee"][60:132, 100:204][None].astype(np.float32) / 255)
    gray = sum(weight * colors[..., i : i + 1] for i, weight in enumerate(LUMA))
    # The luma may be rounded in another order: 6e-8 in a pixel are 2e-6 in a score after ten layers.
    assert_same(extract(model, colors), extract(model, gray), scores=1e-5, descriptors=1e-4)


def test_channel_rule_first_reads_the_first_channel(model, photos):
    colors = jnp.asarray(photos["coffee"][60:132, 100:204][None].astype(np.float32) / 255)
    first = extract(model, colors[..., :1])
    assert_same(extract(model, colors, channel_rule="first"), first)
    assert not np.array_equal(extract(model, colors).scores, first.scores)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_float32_results(model, images, features, dtype):
    half = extract(model, images, dtype=dtype)
    assert_defined(half)
    assert half.keypoints.dtype == half.scores.dtype == half.descriptors.dtype == jnp.float32
    assert len(np.unique(half.scores[half.mask])) > 0.9 * np.sum(half.mask)  # bfloat16 scores would tie
    for a, b in zip(half.to_list(), features.to_list(), strict=True):
        ours, theirs = ({tuple(xy) for xy in entry["keypoints"]} for entry in (a, b))
        # 8 bits of mantissa after 10 layers move a logit by about a tenth: near ties and weak keypoints change.
        assert len(ours & theirs) > {"bfloat16": 0.6, "float16": 0.9}[dtype] * len(theirs)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_images_are_fine(model, images, dtype):
    assert_defined(extract(model, images.astype(dtype), max_keypoints=20))


def test_hidden_states_come_along_when_asked_for(model, images, features):
    out = extract(model, images, output_hidden_states=True)
    assert features.hidden_states is None
    assert [state.shape for state in out.hidden_states] == [
        (2, 36, 52, 8),
        (2, 18, 26, 8),
        (2, 9, 13, 16),
        (2, 9, 13, 16),
    ]
    assert_same(out, features)


@pytest.mark.parametrize("size", [(8, 8), (8, 15), (9, 23), (50, 33), (47, 95), (8, 4096)])
def test_any_size_that_holds_a_cell(model, size):
    noise = jnp.asarray(np.random.default_rng(0).uniform(size=(1, *size, 1)).astype(np.float32))
    out = extract(model, noise, border_removal_distance=0)
    assert_defined(out)
    assert out.num_detected[0] > 0
    np.testing.assert_array_equal(out.image_sizes, [size])


@pytest.mark.slow
def test_a_whole_film_frame(model, gray_photos):
    frame = np.tile(gray_photos["motorcycle"], (3, 3))[:1080, :1920]
    out = extract(model, jnp.asarray(frame[None, ..., None]), max_keypoints=4096)
    assert_defined(out)
    assert out.mask.all()
    assert np.max(out.keypoints[..., 0]) > 1900


def test_constant_images_are_defined(model):
    constants = jnp.stack([jnp.full((40, 56, 1), value) for value in (0.0, 0.5, 1.0)])
    assert_defined(extract(model, constants))


def test_zero_weights_give_ties_everywhere(random_model, images):
    model = jax.tree.map(jnp.zeros_like, random_model(0))
    out = extract(model, images, max_keypoints=50)
    np.testing.assert_allclose(out.scores, 1 / 65, rtol=1e-6)
    # Inside the border all are kept and the first 50 of the raster win; their descriptors are zero, and not NaN.
    np.testing.assert_array_equal(out.num_detected, [64 * 96] * 2)
    np.testing.assert_array_equal(
        out.keypoints, jnp.stack([jnp.arange(4, 54), jnp.full(50, 4)], axis=-1)[None].repeat(2, 0)
    )
    np.testing.assert_array_equal(out.descriptors, 0)


def test_an_image_without_keypoints_is_all_padding(model, images):
    out = extract(model, images, keypoint_threshold=1.0)
    assert_defined(out)
    np.testing.assert_array_equal(out.num_detected, 0)
    assert [len(entry["keypoints"]) for entry in out.to_list()] == [0, 0]


def test_soft_argmax_moves_keypoints_by_less_than_its_radius(model, images, features):
    out = extract(model, images, refinement="soft_argmax", refinement_radius=2)
    np.testing.assert_array_equal(out.scores, features.scores)
    shift = np.abs(np.asarray(out.keypoints - features.keypoints))
    assert 0.01 < shift.max() <= 2


@pytest.mark.parametrize("filling", [0.7, np.nan, np.inf])
def test_padded_images_equal_the_images_alone(model, images, filling):
    """Whatever lies outside, batched with an image of another size."""
    image_sizes = np.array([[50, 69], [72, 104]])
    padded = np.full((2, 80, 112, 1), filling, np.float32)
    for i, (height, width) in enumerate(image_sizes):
        padded[i, :height, :width] = images[i, :height, :width]
    out = extract(model, jnp.asarray(padded), image_sizes=jnp.asarray(image_sizes))
    assert_defined(out)
    np.testing.assert_array_equal(out.image_sizes, image_sizes)
    for i, (height, width) in enumerate(image_sizes):
        alone = extract(model, images[i : i + 1, :height, :width])
        ours, theirs = out.to_list()[i], alone.to_list()[0]
        assert len(theirs["keypoints"]) > 10
        np.testing.assert_array_equal(ours["keypoints"], theirs["keypoints"])
        np.testing.assert_allclose(ours["scores"], theirs["scores"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(ours["descriptors"], theirs["descriptors"], rtol=0, atol=1e-5)
        assert out.num_detected[i] == alone.num_detected[0]


def test_garbage_outside_never_shows_in_hidden_states(model, images):
    image_sizes = jnp.array([[50, 69], [72, 104]])
    noise = jax.random.uniform(jax.random.key(0), images.shape)
    rows, columns = jnp.arange(72)[None, :, None, None], jnp.arange(104)[None, None, :, None]
    inside = (rows < image_sizes[:, 0, None, None, None]) & (columns < image_sizes[:, 1, None, None, None])
    a, b = (
        extract(model, jnp.where(inside, images, outside), image_sizes=image_sizes, output_hidden_states=True)
        for outside in (0, 1e6 * noise)
    )
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(left, right)


def test_options_override_the_models(model, images, features):
    few = extract(model, images, keypoint_threshold=0.2)
    assert np.all(few.num_detected < features.num_detected)
    assert np.min(few.scores[few.mask]) > 0.2
    assert model.config.keypoint_threshold == 0.005


def test_unknown_option_is_an_error(model, images):
    with pytest.raises(TypeError, match=r"unknown option max_keypoint; the options are .*max_keypoints"):
        extract(model, images, max_keypoint=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(sampling_rule="nearest"), "sampling_rule='nearest' is not known; choose one of"),
        (dict(max_keypoints=0), "max_keypoints=0 must be positive"),
        (dict(dtype="float64"), "dtype='float64' is not known"),
        (dict(descriptor_decoder_dim=128), "descriptor_decoder_dim"),
        (dict(batch_norm=True), "batch_norm"),
    ],
)
def test_wrong_options_are_errors(model, images, options, message):
    with pytest.raises(ValueError, match=message):
        extract(model, images, **options)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_has_no_keypoints_around_it(model, gray_photos, value):
    photo = gray_photos["camera"][:64, :320].copy()
    photo[20, 10] = value
    out = extract(model, photo[None, ..., None], max_keypoints=100)
    assert_defined(out)
    x = np.asarray(out.keypoints)[np.asarray(out.mask)][:, 0]
    assert len(x) > 20
    assert x.min() > 10 + 30  # The field of view reaches about as far.
    everywhere = extract(model, np.full_like(photo, value)[None, ..., None], max_keypoints=100)
    assert_defined(everywhere)
    assert everywhere.num_detected == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("score_rule", ["softmax", "unshifted_softmax"])
def test_cells_whose_logits_are_not_finite_have_no_keypoint(model, images, value, score_rule):
    dense = model(images[:1])
    sizes = jnp.array([images.shape[1:3]], jnp.int32)
    config = model.rules.replace(max_keypoints=50, refinement="none", score_rule=score_rule)
    found = decode(dense, sizes, config=config)
    x, y = np.asarray(found.keypoints[0, 0], int) // 8
    damaged = dataclasses.replace(dense, logits=dense.logits.at[0, y, x, 7].set(value))
    again = decode(damaged, sizes, config=config)
    cells = np.asarray(again.keypoints[0], int)[np.asarray(again.mask[0])] // 8
    assert len(cells) > 20
    assert not (cells == [x, y]).all(axis=1).any()
    assert_defined(again)


def test_derivatives_are_finite_where_an_image_is_not(model, images):
    image = images[:1].at[0, 20, 30].set(jnp.nan)

    def best(image):
        return extract(model, image, max_keypoints=30, keypoint_threshold=0.0).scores.sum()

    gradient = jax.grad(best)(image)
    assert np.isfinite(gradient).all()
    assert np.any(gradient)
    _, tangent = jax.jvp(best, (image,), (jnp.ones_like(image),))
    assert np.isfinite(tangent)


def test_a_generous_capacity_costs_no_sampling(model, images):
    """Descriptors are sampled for the rows that the image can fill; the others are padding."""
    out = extract(model, images[:1, :16, :24], max_keypoints=5000)
    assert out.descriptors.shape[1] == 5000
    assert_defined(out)
    tight = extract(model, images[:1, :16, :24], max_keypoints=384)
    np.testing.assert_array_equal(out.descriptors[:, :384], tight.descriptors)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_on_an_accelerator_nothing_leaves_the_device_and_bfloat16_is_kept_at_full_resolution(model, images, platform):
    function = jax.jit(lambda model, images: extract(model, images, dtype="bfloat16", max_keypoints=25))
    module = export.export(function, platforms=[platform])(model, images).mlir_module()
    for transfer in ("callback", "infeed", "outfeed", "stablehlo.send", "stablehlo.recv"):
        assert transfer not in module
    convolutions = [line for line in module.splitlines() if "stablehlo.convolution" in line and "tensor<3x3x" in line]
    assert len(convolutions) >= 10
    for line in convolutions:
        assert "bf16>" in line
        assert "f32>" not in line
    batch, height, width, _ = images.shape
    size = f"{batch}x{height}x{width}x{model.config.encoder_hidden_sizes[0]}"
    # A TPU computes four strips of 18 rows of each image, with a row more on both sides, and 16 columns as one pixel.
    activations = f"tensor<{size if platform == 'cuda' else '8x20x8x128'}x"
    assert activations + "bf16>" in module
    assert activations + "f32>" not in module
