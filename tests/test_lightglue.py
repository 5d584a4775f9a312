"""LightGlue: padding takes no part, layers end early, and it composes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import superpoint_jax as sp
from superpoint_jax import LightGlue, LightGlueConfig
from superpoint_jax.lightglue.assignment import assign, mutual_matches
from superpoint_jax.lightglue.attention import attend
from superpoint_jax.lightglue.layers import rotate
from superpoint_jax.lightglue.pair import normalize_positions
from tests.lightglue_features import SMALL, make_pair, padded, random_matcher, stacked

SIZES = ((72, 104), (90, 64))


@pytest.fixture(scope="module")
def matcher() -> LightGlue:
    return random_matcher()


@pytest.fixture(scope="module")
def pairs():
    """Three pairs of images that have different numbers of keypoints."""
    return [make_pair(seed, counts, 16, SIZES) for seed, counts in enumerate([(20, 30), (27, 9), (13, 16)])]


def assert_same(matches: sp.Matches, expected: sp.Matches) -> None:
    assert expected.mask.any()
    np.testing.assert_array_equal(matches.indices, expected.indices)
    np.testing.assert_array_equal(matches.mask, expected.mask)
    np.testing.assert_allclose(matches.scores, expected.scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("depth_confidence", [None, 0.5])
def test_a_batch_of_pairs_with_different_counts_equals_each_pair_alone(matcher, pairs, depth_confidence):
    a, b = (stacked(*side) for side in zip(*pairs, strict=True))
    together = matcher.match(a, b, depth_confidence=depth_confidence)
    for i, (one, other) in enumerate(pairs):
        alone = matcher.match(one, other, depth_confidence=depth_confidence)
        count = one.mask.shape[1]
        assert_same(jax.tree.map(lambda leaf, i=i, n=count: leaf[i : i + 1, :n], together), alone)
        assert not together.mask[i, count:].any()


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 1e30])
def test_what_stands_in_padding_rows_changes_nothing(matcher, pairs, value):
    a, b = pairs[0]
    assert_same(matcher.match(padded(a, 40, value), padded(b, 40, value))[:, :20], matcher.match(a, b))
    scores, gradient = jax.value_and_grad(lambda d: jnp.sum(matcher.match(_with(a, d), padded(b, 40, value)).scores))(
        a.descriptors
    )
    assert np.isfinite(scores)
    assert np.isfinite(gradient).all()


def _with(keypoints: sp.Keypoints, descriptors) -> sp.Keypoints:
    return dataclasses.replace(keypoints, descriptors=descriptors)


def test_valid_rows_may_stand_anywhere(matcher, pairs):
    a, b = pairs[0]
    order = np.random.default_rng(0).permutation(40)
    scattered = jax.tree.map(lambda leaf: leaf[:, order] if leaf.shape[1:2] == (40,) else leaf, padded(b, 40))
    expected = matcher.match(a, padded(b, 40))
    found = matcher.match(a, scattered)
    np.testing.assert_array_equal(np.where(found.mask, order[np.asarray(found.indices)], -1), expected.indices)


def test_an_image_without_keypoints_has_no_matches(matcher, pairs):
    a, b = pairs[0]
    nothing = dataclasses.replace(b, mask=jnp.zeros_like(b.mask))
    for depth_confidence in (None, 0.9):
        for found in (
            matcher.match(a, nothing, depth_confidence=depth_confidence),
            matcher.match(nothing, a, depth_confidence=depth_confidence),
            matcher.match(a, jax.tree.map(lambda leaf: leaf[:, :0] if leaf.shape[1:2] == (30,) else leaf, b)),
        ):
            assert not found.mask.any()
            assert (found.indices == -1).all()
            assert (found.scores == 0).all()


def test_one_image_stands_against_many(matcher, pairs):
    many = stacked(*(b for _, b in pairs))
    one = pairs[0][0]
    expected = matcher.match(jax.tree.map(lambda leaf: jnp.repeat(leaf, 3, axis=0), one), many)
    assert_same(matcher.match(one, many), expected)
    back = matcher.match(many, one)
    assert back.indices.shape == many.mask.shape
    assert_same(matcher.match(one[0], many[0]), expected[0])


def test_match_takes_a_matcher(matcher, pairs):
    a, b = pairs[0]
    assert_same(sp.match(a, b, matcher=matcher), matcher.match(a, b))
    assert_same(jax.jit(sp.match)(a, b, matcher=matcher), matcher.match(a, b))
    strict = sp.match(a, b, matcher=matcher, min_score=0.2)
    assert (np.asarray(strict.scores)[np.asarray(strict.mask)] > 0.2).all()
    with pytest.raises(ValueError, match="ratio, mutual: for nearest neighbours only"):
        sp.match(a, b, matcher=matcher, ratio=0.8, mutual=False)


def test_matches_are_mutual_and_symmetric(matcher, pairs):
    a, b = pairs[0]
    forward, backward = matcher.match(a, b), matcher.match(b, a)
    for i, j in forward.to_list()[0]["indices"]:
        assert backward.indices[0, j] == i
    assert int(forward.mask.sum()) == int(backward.mask.sum()) > 0


def test_early_layers_end_pair_by_pair(matcher, pairs):
    a, b = (stacked(*side) for side in zip(*pairs, strict=True))
    assert (matcher(a, b).num_layers == 3).all()
    assert (matcher(a, b, depth_confidence=1.0).num_layers == 3).all()
    confident = nnx.merge(*nnx.split(matcher))
    confident.token_confidence.token.bias[...] = jnp.full_like(confident.token_confidence.token.bias[...], 50.0)
    assert (confident(a, b, depth_confidence=0.95).num_layers == 1).all()
    short = random_matcher(num_hidden_layers=1)
    # The first layer of the long one and its head.
    for name in ("transformer_layers", "match_assignment_layers"):
        setattr(short, name, jax.tree.map(lambda leaf: leaf[:1], getattr(confident, name)))
    short.positional_encoder = confident.positional_encoder
    assert_same(confident.match(a, b, depth_confidence=0.95), short.match(a, b))
    assert_same(matcher.match(a, b, depth_confidence=1.0), matcher.match(a, b))


def test_a_single_layer_has_no_confidence_to_ask(pairs):
    short = random_matcher(num_hidden_layers=1)
    assert_same(short.match(*pairs[0], depth_confidence=0.9), short.match(*pairs[0]))


def test_the_model_has_its_own_depth(pairs):
    own, plain = random_matcher(depth_confidence=0.0), random_matcher()
    assert own.config.depth_confidence == 0
    assert plain.config.depth_confidence is None
    assert_same(own.match(*pairs[0]), plain.match(*pairs[0], depth_confidence=0.0))
    assert_same(own.match(*pairs[0], depth_confidence=1.0), plain.match(*pairs[0]))


@pytest.mark.parametrize("depth_confidence", [None, 0.5])
def test_jit_vmap_scan_and_grad_agree_with_the_plain_call(matcher, pairs, depth_confidence):
    a, b = (stacked(*side) for side in zip(*pairs, strict=True))

    def call(a, b):
        return matcher.match(a, b, depth_confidence=depth_confidence)

    expected = call(a, b)
    assert_same(jax.jit(call)(a, b), expected)
    assert_same(jax.vmap(call)(a, b), expected)
    _, out = jax.lax.scan(lambda none, pair: (none, call(*pair)), None, (a, b))
    assert_same(out, expected)

    def total(descriptors):
        return jnp.sum(call(_with(a, descriptors), b).scores)

    direction = jax.random.normal(jax.random.key(0), a.descriptors.shape)
    gradient = jax.jit(jax.grad(total))(a.descriptors)
    _, tangent = jax.jit(lambda d, v: jax.jvp(total, (d,), (v,)))(a.descriptors, direction)
    np.testing.assert_allclose(jnp.vdot(gradient, direction), tangent, rtol=1e-3)
    assert np.abs(gradient).max() > 0


def test_a_new_threshold_is_traced(matcher, pairs):
    a, b = pairs[0]
    counts = jax.vmap(lambda score: jnp.sum(matcher.match(a, b, min_score=score).mask))(jnp.array([0.0, 0.1, 0.9]))
    assert counts[0] > counts[1] >= counts[2]
    layers = jax.vmap(lambda depth: matcher(a, b, depth_confidence=depth).num_layers[0])(jnp.array([0.0, 1.0]))
    assert layers[0] < layers[1] == 3


def test_states_of_every_layer_lead_to_the_assignment(matcher, pairs):
    a, b = pairs[0]
    states_a, states_b = matcher.states(a, b)
    assert states_a.shape == (3, 1, 20, 32)
    head = jax.tree.map(lambda leaf: leaf[-1], matcher.match_assignment_layers)
    last = states_a[-1], states_b[-1]
    logits = (head.matchability_logits(states) for states in last)
    assignment = assign(head.similarity(*last), *logits, a.mask, b.mask, jnp.array([3]))
    np.testing.assert_allclose(assignment.log_scores, matcher(a, b).log_scores, atol=1e-4)


def test_float16_and_bfloat16_are_near_float32_and_give_float32(matcher, pairs):
    a, b = pairs[0]
    exact = matcher(a, b)
    for dtype, atol in (("bfloat16", 0.1), ("float16", 0.01)):
        rough = matcher(a, b, dtype=dtype)
        assert rough.log_scores.dtype == jnp.float32
        np.testing.assert_allclose(jnp.exp(rough.log_scores), jnp.exp(exact.log_scores), atol=atol)
        assert matcher.match(a, b, dtype=dtype).scores.dtype == jnp.float32


def test_parameters_are_float32_whatever_the_compute_type():
    leaves = jax.tree.leaves(random_matcher(dtype="bfloat16"))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_the_paper_s_network_has_the_published_number_of_parameters():
    config = LightGlueConfig(input_dim=128)
    shapes = jax.eval_shape(lambda: nnx.state(LightGlue(config, rngs=nnx.Rngs(0)), nnx.Param))
    # disk_lightglue.pth holds nine numbers more, which nothing computes with.
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 11_884_625


def test_positions_by_hand():
    xy = jnp.array([[[0.0, 0.0], [640.0, 480.0], [320.0, 240.0]]])
    expected = [[[-1, -0.75], [1, 0.75], [0, 0]]]
    np.testing.assert_allclose(normalize_positions(xy, jnp.array([[480, 640]])), expected, atol=1e-6)
    tall = normalize_positions(xy[:, :1], jnp.array([[640, 480]]))
    np.testing.assert_allclose(tall, [[[-0.75, -1]]], atol=1e-6)


def test_a_rotation_by_hand():
    angles = jnp.array([[[[np.pi / 2, np.pi]]]])
    x = jnp.array([[[[1.0, 2.0, 3.0, 4.0]]]])
    turned = rotate(x, (jnp.cos(angles), jnp.sin(angles)))
    np.testing.assert_allclose(turned, [[[[-2, 1, -3, -4]]]], atol=1e-6)


def test_attention_by_hand():
    query, key = jnp.zeros((1, 2, 1, 4)), jnp.ones((1, 3, 1, 4))
    value = jnp.arange(12.0).reshape(1, 3, 1, 4)
    read = attend(query, key, value, jnp.array([[True, True, False]]), kernel="xla")
    np.testing.assert_allclose(read[0, :, 0], [[2, 3, 4, 5]] * 2, atol=1e-6)


def test_an_assignment_by_hand():
    similarity = jnp.array([[[2.0, 0.0, 9.0], [0.0, 1.0, 9.0]]])
    logits_a, logits_b = jnp.array([[0.0, 3.0]]), jnp.array([[1.0, -1.0, 0.0]])
    mask_b = jnp.array([[True, True, False]])
    found = assign(similarity, logits_a, logits_b, jnp.ones((1, 2), bool), mask_b, jnp.array([9]))

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    exponentials = np.exp([[2.0, 0], [0, 1]])
    softmaxes = exponentials / exponentials.sum(0) * exponentials / exponentials.sum(1, keepdims=True)
    certain = sigmoid(np.array([0, 3.0]))[:, None] * sigmoid(np.array([1, -1.0]))
    np.testing.assert_allclose(np.exp(found.log_scores[0, :, :2]), softmaxes * certain, rtol=1e-5)
    assert (found.log_scores[0, :, 2] == -np.inf).all()
    np.testing.assert_allclose(np.exp(found.log_unmatched_a[0]), 1 - sigmoid(np.array([0, 3.0])), rtol=1e-5)
    np.testing.assert_allclose(found.log_unmatched_b[0, 2], 0)
    matches = mutual_matches(found.log_scores, 0.1)
    np.testing.assert_array_equal(matches.indices, [[0, 1]])
    assert not mutual_matches(found.log_scores, 0.9).mask.any()


def test_a_wrong_call_says_what_is_wrong(matcher, pairs):
    a, b = pairs[0]
    other, _ = make_pair(0, (5, 5), 8, SIZES)
    with pytest.raises(ValueError, match="descriptors have length 8; this LightGlue takes 16"):
        matcher.match(other, other)
    with pytest.raises(ValueError, match="descriptors have length 16 in a and 8 in b"):
        matcher.match(a, other)
    with pytest.raises(ValueError, match=r"both must be \[B,K\], or both \[K\]"):
        matcher.match(a[0], b)
    with pytest.raises(ValueError, match="dtype='int8' is not known"):
        matcher.match(a, b, dtype="int8")
    with pytest.raises(ValueError, match=r"a batch \[B,K\] is needed"):
        matcher(a[0], b[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_hidden_layers=0), "num_hidden_layers=0 must be positive"),
        (dict(descriptor_dim=30), "descriptor_dim=30 must be a multiple of 4"),
        (dict(input_projection=False), "descriptors of length 16 need a projection to states of length 32"),
        (dict(attention="flash"), "attention='flash' is not known; choose one of 'xla', 'cudnn'"),
        (dict(filter_threshold=-1), "filter_threshold=-1.0 must be 0 or greater"),
        (dict(depth_confidence="high"), "depth_confidence='high' is a str; a number is needed"),
    ],
)
def test_a_wrong_option_says_what_is_needed(options, message):
    with pytest.raises(ValueError, match=message):
        LightGlueConfig(**{**SMALL, **options})
    with pytest.raises(TypeError, match="unknown option layers"):
        LightGlueConfig().replace(layers=3)


def cuda_program(function, *arguments) -> str:
    """What is lowered for CUDA, on any machine."""
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


def test_on_cuda_half_precision_runs_in_cudnn_where_it_is_asked_for(monkeypatch, pairs):
    fused = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    # JAX asks for the library when it traces; the program below is lowered and not run.
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
    a, b = pairs[0]
    asked, plain = random_matcher(attention="cudnn", descriptor_dim=64), random_matcher(descriptor_dim=64)

    def total(descriptors, model=asked, dtype="bfloat16"):
        return jnp.sum(model.match(_with(a, descriptors), b, dtype=dtype).scores)

    for dtype in ("bfloat16", "float16"):
        assert "__cudnn$fmhaSoftmax" in cuda_program(functools.partial(total, dtype=dtype), a.descriptors)
        assert "cudnn" not in cuda_program(functools.partial(total, model=plain, dtype=dtype), a.descriptors)
    assert "cudnn" not in cuda_program(functools.partial(total, dtype="float32"), a.descriptors)
    assert "__cudnn$fmhaSoftmaxBackward" in cuda_program(jax.grad(total), a.descriptors)
    assert "__cudnn$fmhaSoftmax" in cuda_program(jax.vmap(total), jnp.stack([a.descriptors] * 2))


def test_asking_for_cudnn_changes_nothing_elsewhere(pairs):
    asked, plain = random_matcher(attention="cudnn"), random_matcher()
    for a, b in pairs:
        given = padded(a, 40), padded(b, 40)
        assert_same(asked.match(*given), plain.match(*given))
        np.testing.assert_array_equal(asked.states(*given)[0].shape, plain.states(*given)[0].shape)
        np.testing.assert_allclose(asked.states(*given)[1], plain.states(*given)[1], atol=1e-5)
