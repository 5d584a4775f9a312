"""Detection: by hand, against the plain references, and properties of each rule."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax import lax

from superpoint_jax import SuperPointConfig, detection
from superpoint_jax.detection import border_mask, capacity
from superpoint_jax.top_k import top_k_by_counting, top_k_by_segments
from tests.parity import references

# Compiled: hundreds of examples run op by op would take minutes. That jit changes nothing is a test of its own.
detect = jax.jit(detection.detect, static_argnames="config")
keypoint_mask = jax.jit(detection.keypoint_mask, static_argnames="config")
refine_soft_argmax = jax.jit(detection.refine_soft_argmax, static_argnames="radius")
score_map = jax.jit(detection.score_map, static_argnames="rule")
suppress_greedy = jax.jit(detection.suppress_greedy, static_argnums=1)
suppress_three_pass = jax.jit(detection.suppress_three_pass, static_argnums=1)
TOP_K = {
    "segments by top_k": jax.jit(partial(top_k_by_segments, by_sort=False), static_argnums=1),
    "segments by sort": jax.jit(partial(top_k_by_segments, by_sort=True), static_argnums=1),
    "counting": jax.jit(top_k_by_counting, static_argnums=1),
}
window_max = jax.jit(detection.window_max, static_argnums=1)

SHAPE = (16, 24)
"""One shape for all properties: another would compile again."""


def score_maps(steps: int = 6) -> st.SearchStrategy[np.ndarray]:
    """Score maps of few levels, so that ties are everywhere."""
    return hnp.arrays(np.int8, SHAPE, elements=st.integers(0, steps)).map(lambda a: a.astype(np.float32) / steps)


def logits_of(scores: np.ndarray) -> jax.Array:
    """Logits [1,h,w,65] whose softmax gives a map [8h,8w] of scores above 0 that sum to less than 1 in a cell."""
    h, w = scores.shape[0] // 8, scores.shape[1] // 8
    cells = scores.reshape(h, 8, w, 8).transpose(0, 2, 1, 3).reshape(h, w, 64)
    rest = 1 - cells.sum(axis=-1, keepdims=True)
    return jnp.log(jnp.asarray(np.concatenate([cells, rest], axis=-1)))[None]


def peaks(shape: tuple[int, int], values: dict[tuple[int, int], float]) -> np.ndarray:
    """A map that is 1e-6 but at some (x, y)."""
    scores = np.full(shape, 1e-6, np.float32)
    for (x, y), value in values.items():
        scores[y, x] = value
    return scores


def sizes(height: int, width: int) -> jax.Array:
    return jnp.array([[height, width]])


def test_channel_8_dy_dx_is_the_pixel():
    logits = np.full((1, 2, 3, 65), -50, np.float32)
    logits[0, 1, 2, 8 * 3 + 5] = 50
    scores = score_map(jnp.asarray(logits))
    assert scores.shape == (1, 16, 24)
    assert scores[0, 8 + 3, 16 + 5] == 1
    assert np.sum(scores > 0.5) == 1


def test_zero_logits_score_one_65th_everywhere():
    np.testing.assert_allclose(score_map(jnp.zeros((1, 2, 3, 65))), 1 / 65, rtol=1e-6)


def test_the_last_channel_takes_probability_and_gives_no_pixel():
    logits = jnp.zeros((1, 1, 1, 65)).at[..., 64].set(30)
    assert np.max(score_map(logits)) < 1e-12


def test_unshifted_softmax_by_hand():
    # 65 exponentials of -12 sum to 3.99e-4: the demo's 1e-5 weighs 2.4 % there.
    logits = jnp.full((1, 1, 1, 65), -12.0)
    expected = np.exp(-12) / (65 * np.exp(-12) + 1e-5)
    np.testing.assert_allclose(score_map(logits, rule="unshifted_softmax"), expected, rtol=1e-6)
    assert expected < 0.98 / 65


@pytest.mark.parametrize("rule", ["softmax", "unshifted_softmax"])
def test_score_map_equals_the_loops(rule):
    logits = np.random.default_rng(0).normal(0, 3, (3, 5, 65)).astype(np.float32)
    ours = score_map(jnp.asarray(logits[None]), rule=rule)[0]
    # Sums of 65 float32 in another order: a few units in the last place of numbers below 1.
    np.testing.assert_allclose(ours, references.score_map(logits, shifted=rule == "softmax"), rtol=0, atol=5e-7)


def test_unshifted_softmax_does_not_overflow():
    logits = jnp.zeros((1, 1, 1, 65)).at[..., 9].set(200.0).at[..., 8].set(199.0)
    scores = score_map(logits, rule="unshifted_softmax")
    np.testing.assert_allclose(scores, score_map(logits), rtol=1e-5)
    np.testing.assert_allclose(score_map(jnp.full((1, 1, 1, 65), 100.0), rule="unshifted_softmax"), 1 / 65, rtol=1e-5)


def test_half_precision_logits_give_float32_scores():
    assert score_map(jnp.zeros((1, 1, 1, 65), jnp.bfloat16)).dtype == jnp.float32


@given(score_maps(), st.sampled_from([0, 1, 4]))
def test_window_max_is_the_maximum_of_the_window(scores, radius):
    expected = [[references._window(scores, y, x, radius).max() for x in range(SHAPE[1])] for y in range(SHAPE[0])]
    np.testing.assert_array_equal(window_max(jnp.asarray(scores[None]), radius)[0], expected)


@given(score_maps(), st.sampled_from([0, 1, 4]))
def test_three_pass_suppression_equals_the_loops(scores, radius):
    ours = suppress_three_pass(jnp.asarray(scores[None]), radius)[0]
    np.testing.assert_array_equal(ours, np.where(references.three_passes(scores, radius)[-1], scores, 0))


@given(score_maps(), st.sampled_from([0, 1, 4]))
def test_greedy_suppression_equals_the_loops(scores, radius):
    ours = suppress_greedy(jnp.asarray(scores[None]), radius)[0]
    np.testing.assert_array_equal(ours, np.where(references.greedy(scores, scores > 0, radius), scores, 0))


@pytest.mark.parametrize("suppress", [suppress_three_pass, suppress_greedy])
def test_suppression_of_distinct_scores_leaves_no_two_within_the_radius(suppress):
    order = np.random.default_rng(0).permutation(48 * 72).astype(np.float32) + 1
    kept = np.argwhere(np.asarray(suppress(jnp.asarray(order.reshape(1, 48, 72)), 4)[0]))
    distances = np.abs(kept[:, None] - kept[None]).max(axis=-1) + 100 * np.eye(len(kept))
    assert len(kept) > 30
    assert distances.min() > 4


def test_three_passes_find_what_a_peak_s_shadow_hid():
    # 1 > 0.9 > 0.8, three apart: 0.9 is in the shadow of 1, and 0.8 in that of 0.9 alone.
    scores = peaks((16, 24), {(6, 8): 1, (9, 8): 0.9, (12, 8): 0.8})
    kept = suppress_three_pass(jnp.asarray(scores[None]), 4)[0]
    assert (kept[8, 6], kept[8, 9]) == (1, 0)
    np.testing.assert_allclose(kept[8, 12], 0.8)


def test_radius_0_suppresses_nothing():
    scores = jnp.asarray(np.random.default_rng(0).uniform(0.1, 1, (1, 16, 24)).astype(np.float32))
    np.testing.assert_array_equal(suppress_three_pass(scores, 0), scores)
    np.testing.assert_array_equal(suppress_greedy(scores, 0), scores)


def test_equal_neighbours_are_all_kept_by_three_passes_and_one_by_greedy():
    scores = jnp.asarray(peaks((16, 24), {(6, 8): 0.5, (7, 8): 0.5})[None])
    three_pass, greedy = (np.asarray(s(scores, 4)[0]) > 0.1 for s in (suppress_three_pass, suppress_greedy))
    assert three_pass.sum() == 2
    np.testing.assert_array_equal(np.argwhere(greedy), [[8, 6]])


@given(hnp.arrays(np.int8, (12, 18), elements=st.integers(0, 4)), st.sampled_from([1, 2, 4]))
def test_pixels_of_score_0_have_no_influence(scores, radius):
    """So an image in a larger array, with scores of 0 around it, keeps the pixels that it keeps by itself."""
    alone = suppress_three_pass(jnp.asarray(scores[None], jnp.float32), radius)[0]
    larger = suppress_three_pass(jnp.pad(jnp.asarray(scores[None], jnp.float32), ((0, 0), (0, 9), (0, 7))), radius)[0]
    np.testing.assert_array_equal(larger, np.pad(alone, ((0, 9), (0, 7))))


def test_scores_outside_an_image_are_0():
    logits = jax.random.normal(jax.random.key(0), (2, 2, 3, 65))
    scores = np.asarray(score_map(logits, jnp.array([[16, 24], [15, 23]])))
    whole = np.asarray(score_map(logits))
    np.testing.assert_array_equal(scores[0], whole[0])
    np.testing.assert_array_equal(scores[1, :8, :16], whole[1, :8, :16])
    assert not scores[1, 8:].any()
    assert not scores[1, :, 16:].any()


@pytest.mark.parametrize("rule", ["image", "cells", "top_left"])
def test_border_by_hand(rule):
    # An image of 21 x 30 has cells on 16 x 24 of it.
    mask = np.asarray(border_mask((16, 24), sizes(21, 30), 4, rule=rule)[0])
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    last = {"image": (15, 23), "cells": (11, 19), "top_left": (15, 23)}[rule]
    assert (rows[0], columns[0], rows[-1], columns[-1]) == (4, 4, *last)
    np.testing.assert_array_equal(mask, references.inside((16, 24), (21, 30), 4, rule))


def test_huggingfaces_border_spares_bottom_and_right():
    image, top_left = (np.asarray(border_mask((16, 24), sizes(16, 24), 4, rule=r)[0]) for r in ("image", "top_left"))
    assert image.sum() == 8 * 16
    assert top_left.sum() == 12 * 20


def test_border_follows_each_image_of_the_batch():
    mask = np.asarray(border_mask((16, 24), jnp.array([[16, 24], [8, 16]]), 1, rule="image"))
    assert (mask[0].sum(), mask[1].sum()) == (14 * 22, 6 * 14)


@given(hnp.arrays(np.int8, (2, 50), elements=st.integers(-1, 5)), st.sampled_from([1, 2, 3, 7, 50]))
def test_top_k_equals_lax_top_k(values, k):
    values = jnp.asarray(values.astype(np.float32))
    for top_k in TOP_K.values():
        for ours, theirs in zip(top_k(values, k), lax.top_k(values, k), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("top_k", TOP_K.values(), ids=TOP_K)
def test_top_k_has_the_types_of_lax_top_k_also_with_64_bits(top_k):
    with jax.enable_x64(True):
        for n, k in ((500, 20), (640 * 480, 1024)):
            found = jax.eval_shape(lambda values, k=k: top_k(values, k), jax.ShapeDtypeStruct((2, n), jnp.float32))
            assert [one.dtype for one in found] == [jnp.float32, jnp.int32]


@pytest.mark.parametrize("top_k", TOP_K.values(), ids=TOP_K)
@pytest.mark.parametrize(("n", "k"), [(6400, 1), (6401, 100), (5000, 1024), (5000, 5000), (640 * 480, 1024)])
def test_top_k_of_many_equals_lax_top_k(n, k, top_k):
    rng = np.random.default_rng(n + k)
    for values in (rng.integers(-1, 20, (2, n)), rng.normal(size=(2, n)), np.zeros((2, n))):
        values = jnp.asarray(values.astype(np.float32))
        for ours, theirs in zip(top_k(values, k), lax.top_k(values, k), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("by_sort", [False, True])
@pytest.mark.parametrize(("n", "k"), [(480 * 640, 1024), (1080 * 1920, 512), (240 * 320, 2048), (2160 * 3840, 1024)])
def test_no_sort_is_large(n, k, by_sort):
    traced = jax.make_jaxpr(lambda values: top_k_by_segments(values, k, by_sort=by_sort))(jnp.zeros((1, n)))
    name = "sort" if by_sort else "top_k"
    searches = [equation.invars[0].aval.shape[-1] for equation in traced.eqns if equation.primitive.name == name]
    assert len(searches) >= 2
    assert max(searches) <= 2**14


@pytest.mark.parametrize(
    ("platform", "expected"), [("cpu", "top_k"), ("cuda", "sort"), ("rocm", "sort"), ("tpu", "while")]
)
def test_each_platform_has_its_form_of_top_k(platform, expected):
    lowered = (
        jax.jit(lambda values: detection.top_k(values, 100))
        .trace(jnp.zeros((1, 6400)))
        .lower(lowering_platforms=(platform,))
    )
    operations = {name: name in lowered.as_text() for name in ("top_k", "stablehlo.while")}
    assert operations == {"top_k": expected == "top_k", "stablehlo.while": expected == "while"}


def test_capacity_is_what_fits_more_than_the_radius_apart():
    assert capacity((480, 640), SuperPointConfig()) == 96 * 128
    assert capacity((8, 8), SuperPointConfig()) == 4
    assert capacity((8, 8), SuperPointConfig(nms_radius=0)) == 64
    assert capacity((480, 640), SuperPointConfig(max_keypoints=7)) == 7


def test_capacity_holds_the_densest_grid():
    scores = np.full((16, 24), 1e-6, np.float32)
    grid = np.linspace(0.005, 0.006, 4 * 5).reshape(4, 5)  # distinct, and 3 x 3 of them in a cell sum to less than 1
    scores[::5, ::5] = grid
    config = SuperPointConfig(keypoint_threshold=0.001, border_removal_distance=0)
    _, _, mask, num_detected = detect(logits_of(scores), sizes(16, 24), config=config)
    assert mask.shape == (1, 20)
    assert num_detected[0] == 20
    assert mask.all()


THRESHOLD = 0.25
"""Exact in float32; scores made from it by a softmax aren't, so the rule is tested on score maps."""


@pytest.mark.parametrize("suppression", ["three_pass", "greedy"])
@pytest.mark.parametrize("rule", ["greater", "greater_equal"])
def test_a_score_at_the_threshold(rule, suppression):
    at, above = np.float32(THRESHOLD), np.nextafter(np.float32(THRESHOLD), np.float32(1))
    scores = jnp.asarray(peaks((16, 24), {(5, 5): at, (15, 8): above})[None])
    config = SuperPointConfig(threshold_rule=rule, keypoint_threshold=THRESHOLD, suppression_rule=suppression)
    kept = np.asarray(keypoint_mask(scores, sizes(16, 24), config=config)[0])
    assert kept[8, 15]
    assert kept[5, 5] == (rule == "greater_equal")
    assert kept.sum() == (2 if rule == "greater_equal" else 1)


def test_a_peak_at_the_border_still_suppresses():
    scores = peaks((16, 24), {(3, 8): 0.5, (6, 8): 0.4, (15, 8): 0.3})
    for suppression in ("three_pass", "greedy"):
        config = SuperPointConfig(suppression_rule=suppression)
        keypoints, _, mask, _ = detect(logits_of(scores), sizes(16, 24), config=config)
        np.testing.assert_array_equal(keypoints[mask], [[15, 8]])


def test_keypoints_come_by_score_and_padding_is_zero():
    scores = peaks((16, 24), {(5, 5): 0.1, (15, 8): 0.3, (10, 11): 0.2})
    keypoints, values, mask, num_detected = detect(logits_of(scores), sizes(16, 24), config=SuperPointConfig())
    np.testing.assert_array_equal(keypoints[0, :3], [[15, 8], [10, 11], [5, 5]])
    np.testing.assert_allclose(values[0, :3], [0.3, 0.2, 0.1], rtol=1e-5)
    assert num_detected[0] == mask.sum() == 3
    assert not keypoints[0, 3:].any()
    assert not values[0, 3:].any()


@pytest.mark.parametrize("max_keypoints", [2, 3, 20])
def test_ties_come_in_raster_order_and_the_cut_is_reported(max_keypoints):
    logits = np.full((1, 2, 3, 65), 0, np.float32)
    logits[..., 64] = 10
    for i, j in ((1, 0), (0, 2), (1, 1)):
        logits[0, i, j, 8 * 4 + 4] = 9  # the same number in three cells: exactly equal scores
    config = SuperPointConfig(max_keypoints=max_keypoints, border_removal_distance=0)
    keypoints, _, mask, num_detected = detect(jnp.asarray(logits), sizes(16, 24), config=config)
    expected = [[20, 4], [4, 12], [12, 12]][:max_keypoints]
    assert keypoints.shape == (1, max_keypoints, 2)
    np.testing.assert_array_equal(keypoints[mask], expected)
    assert num_detected[0] == 3


def test_more_rows_than_pixels_are_padding():
    scores = peaks((8, 8), {(4, 4): 0.5})
    _, _, mask, _ = detect(
        logits_of(scores), sizes(8, 8), config=SuperPointConfig(max_keypoints=100, border_removal_distance=0)
    )
    assert mask.shape == (1, 100)
    assert mask.sum() == 1


@pytest.mark.parametrize("suppression", ["three_pass", "greedy"])
def test_ties_everywhere_are_defined(suppression):
    config = SuperPointConfig(suppression_rule=suppression)
    keypoints, scores, mask, num_detected = detect(jnp.zeros((1, 2, 3, 65)), sizes(16, 24), config=config)
    # Inside the border there are 8 x 16 pixels; greedy keeps 2 x 3 of the grid of every fifth pixel, three passes all.
    assert num_detected[0] == {"three_pass": 8 * 16, "greedy": 2 * 3}[suppression]
    assert mask.sum() == min(num_detected[0], mask.shape[1])
    np.testing.assert_allclose(scores[mask], 1 / 65, rtol=1e-6)
    raster = keypoints[mask][:, 1] * 24 + keypoints[mask][:, 0]
    assert np.all(np.diff(raster) > 0)


def test_no_keypoint_at_all():
    logits = jnp.zeros((2, 2, 3, 65)).at[..., 64].set(30)
    keypoints, scores, mask, num_detected = detect(logits, jnp.array([[16, 24]] * 2), config=SuperPointConfig())
    assert not num_detected.any()
    assert not any(np.any(rows) for rows in (mask, keypoints, scores))


def test_jit_equals_eager():
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 2, (2, 4, 5, 65)).astype(np.float32))
    image_sizes = jnp.array([[32, 40], [17, 33]])
    config = SuperPointConfig(refinement="soft_argmax")
    eager = detection.detect(logits, image_sizes, config=config)
    jitted = detect(logits, image_sizes, config=config)
    assert eager[3].min() > 0
    for a, b in zip(eager, jitted, strict=True):
        # Scores may be fused differently; 1e-6 is a few units in the last place of a coordinate's shift.
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_refinement_by_hand():
    scores = np.zeros((1, 16, 24), np.float32)
    scores[0, 8, 10], scores[0, 8, 11], scores[0, 9, 10] = 0.6, 0.3, 0.1
    refined = refine_soft_argmax(jnp.asarray(scores), jnp.array([[[10.0, 8.0]]]), sizes(16, 24))
    np.testing.assert_allclose(refined, [[[10.3, 8.1]]], rtol=1e-6)


@given(score_maps(), st.integers(0, 23), st.integers(0, 15))
def test_refinement_stays_in_the_window_and_in_the_image(scores, x, y):
    keypoint = jnp.array([[[x, y]]], jnp.float32)
    refined = np.asarray(refine_soft_argmax(jnp.asarray(scores[None]), keypoint, sizes(16, 24), radius=2))[0, 0]
    assert np.all(np.abs(refined - (x, y)) <= 2)
    assert np.all((refined >= 0) & (refined <= (23, 15)))
