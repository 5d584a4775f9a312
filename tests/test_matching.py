"""Matching against loops in numpy that are slow and obviously right; and its edges."""

import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superpoint_jax.features import Keypoints
from superpoint_jax.matching import Matches, all_pairs, match, match_pairs, nearest

RATIO, MAX_DISTANCE, TEMPERATURE = 0.9, 0.8, 0.1


def assert_same(result: Matches, expected: Matches):
    """The same partners. The same sums in another order (a batched product) differ in the last bit of a float32."""
    np.testing.assert_array_equal(result.indices, expected.indices)
    np.testing.assert_array_equal(result.mask, expected.mask)
    np.testing.assert_allclose(result.scores, expected.scores, rtol=0, atol=5e-7)


def features_of(descriptors, mask=None, keypoints=None) -> Keypoints:
    """Keypoints [B,K] with these descriptors, of images of 64x48 pixels."""
    descriptors = np.asarray(descriptors, np.float32)
    mask = np.ones(descriptors.shape[:2], bool) if mask is None else np.asarray(mask, bool)
    batch, k, _ = descriptors.shape
    return Keypoints(
        keypoints=jnp.zeros((batch, k, 2)) if keypoints is None else jnp.asarray(keypoints, jnp.float32),
        scores=jnp.zeros((batch, k)),
        descriptors=jnp.asarray(np.where(mask[..., None], descriptors, 0)),
        mask=jnp.asarray(mask),
        num_detected=jnp.asarray(mask.sum(-1), jnp.int32),
        image_sizes=jnp.broadcast_to(jnp.array([48, 64], jnp.int32), (batch, 2)),
    )


def random_features(seed: int, batch: int, k: int, *, dim: int = 8, share: float = 0.8) -> Keypoints:
    """Unit vectors, `share` of them valid, the padding anywhere; few dimensions, so that there are near neighbours."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(batch, k, dim))
    mask, places = rng.random((batch, k)) < share, rng.uniform((0, 0), (63, 47), (batch, k, 2))
    return features_of(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), mask, places)


def pair_by_loops(
    a,
    mask_a,
    b,
    mask_b,
    xy_b,
    *,
    mutual=True,
    ratio=None,
    ratio_apart=0.0,
    max_distance=None,
    temperature=None,
    min_score=None,
):
    """The partner and the score of each row of a, one at a time, from the whole matrix."""
    cosine = a.astype(np.float64) @ b.astype(np.float64).T
    distance = np.sqrt(np.maximum(2 - 2 * cosine, 0))
    score = cosine.copy()
    if temperature is not None:
        weight = np.exp(cosine / temperature) * mask_a[:, None] * mask_b[None]
        over_b, over_a = weight.sum(1, keepdims=True), weight.sum(0, keepdims=True)
        score = weight / np.where(over_b > 0, over_b, 1) * (weight / np.where(over_a > 0, over_a, 1))
    indices, scores = np.full(len(a), -1), np.zeros(len(a))
    valid_a, valid_b = np.flatnonzero(mask_a), np.flatnonzero(mask_b)
    for i in valid_a:
        if len(valid_b) == 0:
            continue
        j = valid_b[np.argmax(score[i, valid_b])]
        if mutual and valid_a[np.argmax(score[valid_a, j])] != i:
            continue
        others = valid_b[valid_b != j]
        others = others[np.linalg.norm(xy_b[others] - xy_b[j], axis=-1) >= ratio_apart * 64]
        if ratio is not None and len(others) and not distance[i, j] < ratio * distance[i, others].min():
            continue
        if max_distance is not None and distance[i, j] > max_distance:
            continue
        if min_score is not None and score[i, j] < min_score:
            continue
        indices[i], scores[i] = j, score[i, j]
    return indices, scores


def assert_equals_loops(matches: Matches, a: Keypoints, b: Keypoints, **options):
    for p in range(len(matches)):
        i, j = min(p, len(a) - 1), min(p, len(b) - 1)
        arrays = a.descriptors[i], a.mask[i], b.descriptors[j], b.mask[j], b.keypoints[j]
        sides = [np.asarray(x) for x in arrays]
        indices, scores = pair_by_loops(*sides, **options)
        np.testing.assert_array_equal(matches.indices[p], indices)
        np.testing.assert_array_equal(matches.mask[p], indices >= 0)
        # float32 against float64: a dot product of 8 products is off by a few 1e-7; exp(2 x 10) makes it 1e-5.
        np.testing.assert_allclose(matches.scores[p], scores, rtol=1e-5, atol=1e-6)


OPTIONS = [
    {},
    {"mutual": False},
    {"ratio": RATIO},
    {"ratio": RATIO, "ratio_apart": 0.2},
    {"ratio": RATIO, "ratio_apart": 1.0},
    {"max_distance": MAX_DISTANCE},
    {"min_score": 0.7},
    {"temperature": TEMPERATURE},
    {"temperature": TEMPERATURE, "mutual": False},
    {"temperature": TEMPERATURE, "min_score": 0.05, "max_distance": MAX_DISTANCE},
    {"mutual": False, "ratio": RATIO, "ratio_apart": 0.3, "max_distance": MAX_DISTANCE, "min_score": 0.7},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_matches_equal_plain_loops(options):
    a, b = random_features(0, 2, 37), random_features(1, 2, 53)
    matches = match(a, b, **options)
    assert int(matches.mask.sum()) > 5
    assert_equals_loops(matches, a, b, **options)


@pytest.mark.parametrize("options", [{}, OPTIONS[-2], OPTIONS[-1]], ids=str)
def test_blocks_of_columns_change_nothing(options, monkeypatch):
    a, b = random_features(2, 3, 70), random_features(3, 3, 101)
    # Blocks of at most 32 columns: 101 are four of 26, the last one padded.
    monkeypatch.setitem(nearest.BLOCK_BYTES, "cpu", 4 * 70 * 32)
    nearest._match.clear_cache()
    in_blocks = match(a, b, **options)
    monkeypatch.setitem(nearest.BLOCK_BYTES, "cpu", 2**30)
    nearest._match.clear_cache()
    assert_equals_loops(in_blocks, a, b, **options)
    assert_equals_loops(match(a, b, **options), a, b, **options)
    nearest._match.clear_cache()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), share_a=st.floats(0, 1), share_b=st.floats(0, 1), mutual=st.booleans())
def test_any_mask_equals_plain_loops(seed, share_a, share_b, mutual):
    a, b = random_features(seed, 1, 9, dim=3, share=share_a), random_features(seed + 1, 1, 12, dim=3, share=share_b)
    assert_equals_loops(match(a, b, mutual=mutual), a, b, mutual=mutual)


def test_by_hand():
    """a0 is next to b1, a1 between b0 and b2 and nearer to b2, a2 is padding; b3 has no one."""
    s = np.sqrt(0.5)
    a = features_of([[[1, 0, 0], [0, s, s], [1, 0, 0]]], [[True, True, False]])
    b = features_of([[[0, 1, 0], [1, 0, 0], [0, 0.6, 0.8], [-1, 0, 0]]])
    matches = match(a, b)
    assert matches.indices.tolist() == [[1, 2, -1]]
    np.testing.assert_allclose(matches.scores, [[1, 1.4 * s, 0]], rtol=1e-6)
    assert matches.mask.tolist() == [[True, True, False]]
    (entry,) = matches.to_list()
    assert entry["indices"].tolist() == [[0, 1], [1, 2]]
    # The distances of a1: sqrt(2 - 2 x 0.98995) = 0.1418 to b2 and sqrt(2 - 2 x 0.70711) = 0.7654 to b0; ratio 0.185.
    assert match(a, b, ratio=0.186).mask.tolist() == [[True, True, False]]
    assert match(a, b, ratio=0.184).mask.tolist() == [[True, False, False]]
    assert match(a, b, max_distance=0.142).mask.tolist() == [[True, True, False]]
    assert match(a, b, max_distance=0.141).mask.tolist() == [[True, False, False]]


def test_what_is_near_the_partner_is_no_second_nearest():
    """b1 is 3 px from the partner b0, and b2 is 16 px from it: 0.05 and 0.25 of the longer side, 64 px."""
    a = features_of([[[1, 0, 0]]])
    near, far = (np.array([np.cos(angle), np.sin(angle), 0]) for angle in (0.2, 0.4))
    b = features_of([[np.array([1, 0.1, 0]) / np.sqrt(1.01), near, far]], keypoints=[[[20, 20], [20, 23], [36, 20]]])
    # The distances are 0.0997, 0.1997 and 0.3973.
    for apart, passes in ((None, 0.5), (0.0, 0.5), (3 / 64, 0.5), (0.05, 0.252), (0.25, 0.252)):
        assert match(a, b, ratio=passes, ratio_apart=apart).mask.all()
        assert not match(a, b, ratio=passes - 0.003, ratio_apart=apart).mask.any()
    # None is far enough: the test passes, as where b has no second keypoint.
    assert match(a, b, ratio=0.01, ratio_apart=0.26).mask.all()


def test_ties_go_to_the_lowest_row():
    a = features_of([[[0, 1], [1, 0], [1, 0], [0, 1]]])
    b = features_of([[[1, 0], [0, 1], [1, 0]]])
    assert match(a, b, mutual=False).indices.tolist() == [[1, 0, 0, 1]]
    assert match(a, b).indices.tolist() == [[1, 0, -1, -1]]
    # A second as near as the first is what the ratio test is against.
    assert match(a, b, ratio=0.99).indices.tolist() == [[1, -1, -1, -1]]


def test_identical_images_match_row_by_row():
    a = random_features(5, 2, 40, dim=64, share=0.7)
    for options in ({}, {"ratio": 0.8}, {"temperature": 0.05}):
        matches = match(a, a, **options)
        np.testing.assert_array_equal(matches.indices, np.where(a.mask, np.arange(40), -1))
    np.testing.assert_allclose(match(a, a).scores, a.mask, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"mutual": False, "ratio": 0.8}, {"temperature": 0.1}], ids=str)
@pytest.mark.parametrize("masked", ["a", "b", "both"])
def test_an_image_without_keypoints_has_no_matches(masked, options):
    full, empty = random_features(6, 1, 10, share=1), random_features(7, 1, 10, share=0)
    a, b = (empty if masked != "b" else full), (empty if masked != "a" else full)
    matches = match(a, b, **options)
    assert matches.indices.tolist() == [[-1] * 10]
    assert matches.scores.tolist() == [[0.0] * 10]
    assert not matches.mask.any()


def test_arrays_without_rows_have_no_matches():
    full, none = random_features(6, 1, 10), random_features(7, 1, 0)
    assert match(none, full).indices.shape == (1, 0)
    assert match(full, none).indices.tolist() == [[-1] * 10]
    assert match(full[:0], full[:0]).indices.shape == (0, 10)
    assert match(full[:0], full).indices.shape == (0, 10)
    assert match_pairs(full).indices.shape == (0, 10)


def test_one_keypoint_against_one_passes_the_ratio_test():
    a, b = features_of([[[0.6, 0.8]]]), features_of([[[0.8, 0.6]]])
    matches = match(a, b, ratio=0.5)
    assert matches.indices.tolist() == [[0]]
    np.testing.assert_allclose(matches.scores, [[0.96]], rtol=1e-6)
    np.testing.assert_allclose(match(a, b, temperature=0.1).scores, [[1.0]], rtol=1e-5)


def test_one_image_against_many_equals_each_alone():
    one, many = random_features(8, 1, 20), random_features(9, 5, 30)
    forth, back = match(one, many), match(many, one)
    for i in range(5):
        for together, alone in ((forth, match(one, many[i : i + 1])), (back, match(many[i : i + 1], one))):
            assert_same(together[i : i + 1], alone)


def test_without_a_batch_axis_as_with_one():
    a, b = random_features(10, 1, 20), random_features(11, 1, 30)
    assert_same(match(a[0], b[0]), match(a, b)[0])


def test_match_pairs_equals_match_of_each_pair():
    features = random_features(12, 5, 24)
    matches = match_pairs(features, ratio=0.95)
    assert len(matches) == 10
    for row, (i, j) in zip(matches, all_pairs(5), strict=True):
        assert_same(row, match(features[i], features[j], ratio=0.95))
    chosen = match_pairs(features, np.array([[3, 1], [2, 2]]))
    assert_same(chosen[0], match(features[3], features[1]))
    assert chosen.indices[1].tolist() == np.where(features.mask[2], np.arange(24), -1).tolist()


def test_composes_under_jit_vmap_and_scan():
    a, b = random_features(13, 3, 20), random_features(14, 3, 25)
    expected = match(a, b, ratio=0.95)
    jitted = jax.jit(lambda x, y: match(x, y, ratio=0.95))(a, b)
    mapped = jax.vmap(lambda x, y: match(x, y, ratio=0.95))(a, b)
    _, scanned = jax.lax.scan(lambda carry, pair: (carry, match(*pair, ratio=0.95)), 0, (a, b))
    for other in (jitted, mapped, scanned):
        assert_same(other, expected)


def test_a_batch_sharded_over_devices_gives_the_same():
    a, b = random_features(15, 8, 20), random_features(16, 8, 25)
    expected = match(a, b)
    sharding = jax.sharding.NamedSharding(
        jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)), jax.sharding.PartitionSpec("batch")
    )
    sharded = match(jax.device_put(a, sharding), jax.device_put(b, sharding))
    assert_same(sharded, expected)


@pytest.mark.parametrize("temperature", [None, 0.2])
def test_gradients_of_the_scores_are_those_of_finite_differences(temperature):
    # One side has a padding row and one pair of images no keypoint in b: where a careless mask makes NaN.
    a, b = random_features(17, 2, 6, dim=4), random_features(18, 2, 7, dim=4)
    b = features_of(b.descriptors, np.asarray(b.mask) & np.array([[True], [False]]))

    def total(descriptors):
        return jnp.sum(match(features_of_array(a, descriptors), b, temperature=temperature).scores)

    gradient = jax.grad(total)(a.descriptors)
    assert jnp.isfinite(gradient).all()
    direction = np.random.default_rng(0).normal(size=a.descriptors.shape).astype(np.float32) * a.mask[..., None]
    step = 1e-3
    numeric = (total(a.descriptors + step * direction) - total(a.descriptors - step * direction)) / (2 * step)
    assert abs(float(numeric)) > 0.1
    # Differences of float32 sums near 4 over 2e-3 carry 1e-3 of rounding.
    np.testing.assert_allclose(jnp.sum(gradient * direction), numeric, rtol=5e-3)


def features_of_array(like: Keypoints, descriptors) -> Keypoints:
    return Keypoints(like.keypoints, like.scores, descriptors, like.mask, like.num_detected, like.image_sizes)


def test_new_thresholds_compile_nothing():
    a, b = random_features(19, 1, 20), random_features(20, 1, 20)
    match(a, b, ratio=0.8)
    before = nearest._match._cache_size()
    match(a, b, ratio=0.7)
    assert nearest._match._cache_size() == before
    match(a, b, max_distance=0.7)
    assert nearest._match._cache_size() == before + 1
    match(a, b, ratio=0.8, ratio_apart=0.01)
    match(a, b, ratio=0.8, ratio_apart=0.02)
    assert nearest._match._cache_size() == before + 2


def test_wrong_arguments_are_told():
    a = random_features(21, 3, 5)
    with pytest.raises(ValueError, match="3 images and b has 2"):
        match(a, a[:2])
    with pytest.raises(ValueError, match="both must be"):
        match(a[0], a)
    with pytest.raises(ValueError, match="length 8 in a and 4 in b"):
        match(a, random_features(0, 3, 5, dim=4))
    with pytest.raises(ValueError, match=r"ratio=-0.5 must be positive"):
        match(a, a, ratio=-0.5)
    with pytest.raises(ValueError, match=r"ratio_apart=5\.0; a fraction of the image's longer side, 0 to 1"):
        match(a, a, ratio=0.8, ratio_apart=5.0)
    with pytest.raises(ValueError, match="ratio_apart is a part of the ratio test"):
        match_pairs(a, ratio_apart=0.1)
    with pytest.raises(ValueError, match="exclude each other"):
        match(a, a, ratio=0.8, temperature=0.1)
    with pytest.raises(ValueError, match="images 0 to 3; there are 3"):
        match_pairs(a, np.array([[0, 3]]))
    with pytest.raises(ValueError, match="set of images"):
        match_pairs(a[0])
    with pytest.raises(ValueError, match="to_list"):
        match(a[0], a[0]).to_list()


@pytest.mark.slow
def test_8192_against_8192_takes_under_a_gibibyte():
    a, b = random_features(22, 1, 8192, dim=256), random_features(23, 1, 8192, dim=256)
    compiled = nearest._match.lower(
        *(a.descriptors, a.mask, b.descriptors, b.mask, (b.keypoints, b.image_sizes)),
        nearest.Thresholds(0.9, 0.01, 0.7, None, None),
        mutual=True,
    ).compile()
    memory = compiled.memory_analysis()
    assert memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes < 2**30
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    matches = jax.block_until_ready(match(a, b, ratio=0.9, ratio_apart=0.01, max_distance=0.7))
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 2**30
    # A matrix of 8192 x 8192 float32 alone would be 256 MiB.
    assert memory.temp_size_in_bytes < 64 * 2**20
    assert matches.indices.shape == (1, 8192)


@pytest.mark.slow
def test_2048_against_2048_is_no_slower_than_torch():
    torch = pytest.importorskip("torch")
    a, b = (random_features(seed, 1, 2048, dim=256, share=1) for seed in (24, 25))
    descriptors_a, descriptors_b = (torch.from_numpy(np.array(x.descriptors[0])) for x in (a, b))

    def in_torch():
        similarity = descriptors_a @ descriptors_b.T
        best, index = similarity.max(1)
        mutual = similarity.argmax(0)[index] == torch.arange(2048)
        return torch.where(mutual, index, -1), torch.where(mutual, best, 0)

    def in_jax():
        return jax.block_until_ready(match(a, b))

    np.testing.assert_array_equal(in_jax().indices[0], in_torch()[0].numpy())
    seconds = {in_jax: [], in_torch: []}
    for _ in range(15):  # by turns, so that a busy machine hinders both
        for run, times in seconds.items():
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    assert np.median(seconds[in_jax]) <= np.median(seconds[in_torch])
