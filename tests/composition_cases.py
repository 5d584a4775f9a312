"""Tests that everything composes under every transformation and any sharding, at realistic sizes.

test_composition.py runs this file in a separate process, with JAX's defaults and four simulated devices. Each function
whose name begins with `check_` is a test.
"""

import functools
import math
import re
import sys
import traceback
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from PIL import Image
from skimage import data

import superpoint_jax as sp
from benchmarks import compiled
from superpoint_jax import geometry
from superpoint_jax.model import normalize
from superpoint_jax.training.labelled import Photos
from superpoint_jax.training.layers import for_training_on_cpu
from superpoint_jax.training.loop import TrainConfig, create_state, mean_gradient, train_step
from superpoint_jax.training.pairs import PairConfig, sample_pairs
from superpoint_jax.training.repeats.losses import expected_repeats, matching
from superpoint_jax.training.repeats.views import STEPS_PER_PX, SharedViews
from superpoint_jax.training.runs import data_mesh
from superpoint_jax.training.synthetic import render_shapes

SIZES = ((480, 640), (240, 320))
K = 512
BATCH = 4
P = PartitionSpec


@functools.cache
def network() -> sp.SuperPoint:
    return sp.from_pretrained()


@functools.cache
def batch(size: tuple[int, int]) -> jax.Array:
    """Four photos [4,H,W,1]."""
    photos = (data.camera(), data.coffee(), data.astronaut(), data.chelsea())
    gray = [Image.fromarray(photo).convert("L").resize(size[::-1]) for photo in photos]
    return jnp.asarray(np.stack([np.asarray(image, np.float32) for image in gray])[..., None] / 255)


def image_sizes(size: tuple[int, int]) -> jax.Array:
    """Four sizes of images within arrays of `size`; most of them are not multiples of 8."""
    return jnp.array([[size[0], size[1]], [size[0] - 37, size[1] - 50], [205, 301], [171, 99]], jnp.int32)


@functools.cache
def features(size: tuple[int, int] = (240, 320)) -> sp.Keypoints:
    return extract(network(), batch(size))


def extract(model: sp.SuperPoint, images: jax.Array, sizes: jax.Array | None = None, **options) -> sp.Keypoints:
    return sp.extract(model, images, image_sizes=sizes, max_keypoints=K, **options)


def assert_same(a, b, atol: float = 2e-5) -> None:
    """Assert that the values are equal except for rounding, because another program may sum in another order."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        if one.dtype == bool or np.issubdtype(one.dtype, np.integer):
            np.testing.assert_array_equal(one, other)
        else:
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=atol * max(1, np.abs(other).max(initial=0)))


def assert_same_keypoints(a: sp.Keypoints, b: sp.Keypoints) -> None:
    """Assert that the keypoints are the same; two whose scores are equal up to rounding may have swapped rows."""
    assert np.asarray(a.mask).any()
    np.testing.assert_array_equal(a.mask, b.mask)
    np.testing.assert_array_equal(a.num_detected, b.num_detected)
    np.testing.assert_allclose(a.scores, b.scores, atol=2e-5)
    close = np.abs(np.asarray(a.keypoints) - np.asarray(b.keypoints)).max(axis=-1) < 1e-2
    assert close.mean() > 0.99
    same = np.where(close[..., None], np.asarray(a.descriptors) - np.asarray(b.descriptors), 0)
    np.testing.assert_allclose(same, 0, atol=1e-4)


# Meshes


def mesh_of(kind: AxisType) -> Mesh:
    return jax.make_mesh((BATCH,), ("images",), axis_types=(kind,))


def convolution_batches(hlo: str) -> set[int]:
    """The numbers of images per convolution in a compiled program."""
    shapes = re.findall(r"= \w+\[(\d+),\d+,\d+,\d+\]\S* (?:convolution|custom-call)\(", hlo)
    # A convolution that a fusion calls is found too, in the body of the fusion.
    return {int(shape) for shape in shapes}


def largest_collective(hlo: str) -> int:
    """The number of values that the largest collective of a compiled program returns; 0 if it has none."""
    shapes = re.findall(r"\w+\[([\d,]+)\]\S* (?:all-gather|all-to-all|collective-permute|all-reduce)[\w-]*\(", hlo)
    return max((math.prod(map(int, shape.split(","))) for shape in shapes), default=0)


def assert_equal(out, expected) -> None:
    assert_same_keypoints(out, expected) if isinstance(out, sp.Keypoints) else assert_same(out, expected)


def assert_automatic(function: Callable, expected, *arguments, replicated=()) -> str:
    """Assert equal results on an automatic mesh, with arguments and results sharded over the batch; return the HLO."""
    mesh = mesh_of(AxisType.Auto)
    split, whole = NamedSharding(mesh, P("images")), NamedSharding(mesh, P())
    given = *jax.device_put(replicated, whole), *jax.device_put(arguments, split)
    compiled = jax.jit(function).lower(*given).compile()
    out = compiled(*given)
    assert_equal(out, expected)
    for path, leaf in jax.tree.leaves_with_path(out):
        if jax.tree_util.keystr(path) != ".image_sizes":  # A constant if the images fill their arrays.
            assert leaf.sharding.is_equivalent_to(split, leaf.ndim), (path, leaf.sharding)
    return compiled.as_text()


def assert_explicit(function: Callable, expected, *arguments, replicated=()) -> None:
    """Assert equal results, sharded over the batch, on a mesh with explicit axes, the default of `jax.make_mesh`."""
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh):
        given = (
            *jax.device_put(replicated, NamedSharding(mesh, P())),
            *jax.device_put(arguments, NamedSharding(mesh, P("images"))),
        )
        for call in (function, jax.jit(function)):
            out = call(*given)
            assert_equal(out, expected)
            for leaf in jax.tree.leaves(out):
                assert leaf.sharding.spec[0] == "images", leaf.sharding


def assert_manual(function: Callable, expected, *arguments, replicated=()) -> None:
    """Assert equal results under `shard_map`, with its check of which values vary over the mesh."""
    mesh = mesh_of(AxisType.Auto)
    specs = (*(P() for _ in replicated), *(P("images") for _ in arguments))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=P("images"))
    assert_equal(jax.jit(mapped)(*replicated, *arguments), expected)


# extract


def check_extract_under_jit_and_vmap_and_scan():
    for size in SIZES:
        images, expected = batch(size), features(size)
        assert_same_keypoints(jax.jit(extract)(network(), images), expected)
        assert_same_keypoints(jax.vmap(lambda x: extract(network(), x[None])[0])(images), expected)
        _, out = jax.lax.scan(lambda count, x: (count + 1, extract(network(), x[None])[0]), 0, images)
        assert_same_keypoints(out, expected)
        assert_same_keypoints(jax.checkpoint(extract)(network(), images), expected)
        shapes = jax.eval_shape(extract, network(), images)
        assert [leaf.shape for leaf in jax.tree.leaves(shapes)] == [leaf.shape for leaf in jax.tree.leaves(expected)]


def check_extract_under_vmap_over_models():
    size = (240, 320)
    darker = jax.tree.map(lambda leaf: leaf * 0.999, network())
    models = jax.tree.map(lambda *leaves: jnp.stack(leaves), network(), darker)
    out = jax.vmap(extract, in_axes=(0, None))(models, batch(size))
    assert_same_keypoints(out[0], features(size))
    assert_same_keypoints(out[1], extract(darker, batch(size)))


def score_sum(images: jax.Array) -> jax.Array:
    """A sum that is smooth in the images as long as the keypoints stay the same."""
    found = extract(network(), images)
    return jnp.sum(found.scores) + jnp.sum(found.keypoints * 1e-3) + jnp.sum(found.descriptors[..., :4])


def check_derivatives_of_extract():
    for size in SIZES:
        images = batch(size)[:1]
        direction = jax.random.normal(jax.random.key(0), images.shape)
        gradient = jax.jit(jax.grad(score_sum))(images)
        along = jnp.vdot(gradient, direction)
        value, tangent = jax.jit(lambda x, v: jax.jvp(score_sum, (x,), (v,)))(images, direction)
        np.testing.assert_allclose(value, score_sum(images), rtol=1e-4)
        np.testing.assert_allclose(tangent, along, rtol=1e-2)
        # The images depend on one number here, so the Jacobian is a directional derivative.
        jacobian = jax.jit(jax.jacfwd(lambda t, x=images, v=direction: score_sum(x + t * v)))(0.0)
        np.testing.assert_allclose(jacobian, tangent, rtol=1e-3)
        rematerialised = jax.jit(jax.grad(jax.checkpoint(score_sum)))(images)
        assert_same(rematerialised, gradient, atol=1e-4)


def check_second_derivatives_of_extract():
    for size in SIZES:
        images = batch(size)[:1]
        direction = jax.random.normal(jax.random.key(0), images.shape)

        def slope(t, images=images, direction=direction):
            return jax.grad(lambda s: score_sum(images + s * direction))(t)

        forward_over_reverse = jax.jit(lambda t: jax.jvp(slope, (t,), (1.0,))[1])(0.0)
        product = jax.jit(lambda x, v: jax.jvp(jax.grad(score_sum), (x,), (v,))[1])(images, direction)
        assert np.isfinite(product).all()
        np.testing.assert_allclose(forward_over_reverse, jnp.vdot(product, direction), rtol=1e-2)


def check_gradient_to_the_parameters():
    size = (240, 320)

    def loss(model):
        return jnp.sum(extract(model, batch(size)).scores)

    gradient = jax.grad(loss)(network())
    assert jax.tree.structure(gradient) == jax.tree.structure(network())
    values = [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(gradient, nnx.Param))]
    assert all(np.isfinite(value).all() for value in values)
    assert any(value.any() for value in values)
    assert float(gradient.keypoint_threshold[...]) == float(gradient.magic_leap[...]) == 0


def check_extract_over_meshes():
    for size in SIZES:
        images, sizes = batch(size), image_sizes(size)
        for arguments in ((images,), (images, sizes)):
            expected = extract(network(), *arguments)
            hlo = assert_automatic(extract, expected, *arguments, replicated=(network(),))
            assert convolution_batches(hlo) <= {1, K}, "each device computes its own image, and its own keypoints"
            # XLA gathers only the candidates of `top_k`, a small part of a score map.
            assert largest_collective(hlo) <= images.size // 8
            assert_explicit(extract, expected, *arguments, replicated=(network(),))
            assert_manual(extract, expected, *arguments, replicated=(network(),))


def check_enlarged_extract():
    """Enlarged from the larger size: over meshes, under `vmap`, and with a derivative."""
    images = batch((480, 640))

    def enlarged(model, images):
        # Two pixels side by side have the same score, 0.0053. Both are kept, unless rounding makes one of them larger.
        return extract(model, images, enlarge=1.5, keypoint_threshold=0.006)

    expected = enlarged(network(), images)
    hlo = assert_automatic(enlarged, expected, images, replicated=(network(),))
    assert convolution_batches(hlo) <= {1, K}, "each device computes its own image, and its own keypoints"
    assert_explicit(enlarged, expected, images, replicated=(network(),))
    assert_manual(enlarged, expected, images, replicated=(network(),))
    assert_same_keypoints(jax.vmap(lambda image: enlarged(network(), image[None])[0])(images), expected)

    def total(image):
        return jnp.sum(enlarged(network(), image).scores)

    direction = jax.random.normal(jax.random.key(0), images[:1].shape)
    _, tangent = jax.jit(lambda x, v: jax.jvp(total, (x,), (v,)))(images[:1], direction)
    np.testing.assert_allclose(tangent, jnp.vdot(jax.jit(jax.grad(total))(images[:1]), direction), rtol=1e-2)


def check_extract_in_a_region():
    """Under transformations, over meshes, and enlarged."""
    size = (240, 320)
    images, sizes = batch(size), image_sizes(size)
    rows, columns = np.mgrid[: size[0], : size[1]]
    region = jnp.asarray(np.stack([columns < 150, rows < 120, (rows + columns) % 90 < 60, rows > 30]))
    for options in ({}, {"enlarge": 1.5}, {"spread": "grid"}):

        def within(model, images, region, sizes, options=options):
            return extract(model, images, sizes, region=region, **options)

        expected = within(network(), images, region, sizes)
        hlo = assert_automatic(within, expected, images, region, sizes, replicated=(network(),))
        assert convolution_batches(hlo) <= {1, K}, "each device computes its own image, and its own keypoints"
        assert_explicit(within, expected, images, region, sizes, replicated=(network(),))
        assert_manual(within, expected, images, region, sizes, replicated=(network(),))
        one_by_one = jax.vmap(lambda *each, call=within: call(network(), *(leaf[None] for leaf in each))[0])
        assert_same_keypoints(one_by_one(images, region, sizes), expected)
    _, out = jax.lax.scan(lambda n, mask: (n + 1, extract(network(), images, region=mask).scores), 0, region[None])
    np.testing.assert_allclose(out[0], extract(network(), images, region=region).scores, atol=2e-5)
    gradient = jax.grad(lambda x: jnp.sum(extract(network(), x, region=region).scores))(images)
    assert np.isfinite(gradient).all()
    assert np.asarray(gradient).any()


def check_describe():
    """At places of the caller's, under transformations and over meshes."""
    size = (240, 320)
    images, sizes = batch(size), image_sizes(size)
    places = jax.random.uniform(jax.random.key(0), (BATCH, 50, 2)) * 320
    mask = jnp.arange(50)[None] < jnp.array([[50], [40], [30], [20]])
    for options in ({}, {"enlarge": 1.5}, {"spread": "grid"}):

        def described(model, images, places, mask, sizes, options=options):
            return sp.describe(model, images, places, mask, image_sizes=sizes, **options)

        expected = described(network(), images, places, mask, sizes)
        arguments = images, places, mask, sizes
        hlo = assert_automatic(described, expected, *arguments, replicated=(network(),))
        assert convolution_batches(hlo) <= {1}, "each device computes its own images"
        assert_explicit(described, expected, *arguments, replicated=(network(),))
        assert_manual(described, expected, *arguments, replicated=(network(),))
        one_by_one = jax.vmap(lambda *each, call=described: call(network(), *(leaf[None] for leaf in each))[0])
        assert_same_keypoints(one_by_one(*arguments), expected)


def check_gradient_over_meshes():
    images, _ = batch((240, 320)), network()

    def gradient(images):
        return jax.grad(lambda x: jnp.sum(extract(network(), x).scores))(images)

    expected = jax.jit(gradient)(images)
    assert_automatic(gradient, expected, images)
    assert_explicit(gradient, expected, images)
    assert_manual(gradient, expected, images)


# Matching, geometry and tracking


def pairs_of(size=(240, 320)) -> tuple[sp.Keypoints, sp.Keypoints]:
    """The keypoints of the photos, and of slightly shifted copies of them."""
    turned = jnp.roll(batch(size), (3, 5), axis=(1, 2))
    return features(size), extract(network(), turned)


MATCHERS = (
    dict(),
    dict(ratio=0.9, ratio_apart=0.01),
    dict(temperature=0.1, min_score=0.05),
    dict(max_distance=0.7, mutual=False),
)


def check_match():
    a, b = pairs_of()
    for options in MATCHERS:
        call = functools.partial(sp.match, **options)
        expected = call(a, b)
        assert np.asarray(expected.mask).any()
        assert_same(jax.jit(call)(a, b), expected)
        assert_same(jax.vmap(call)(a, b), expected)
        _, out = jax.lax.scan(lambda none, pair, call=call: (none, call(*pair)), None, (a, b))
        assert_same(out, expected)
        assert_automatic(call, expected, a, b)
        assert_explicit(call, expected, a, b)
        assert_manual(call, expected, a, b)
        one_against_many = call(a[:1], b)
        assert_manual(lambda first, others, call=call: call(first, others), one_against_many, b, replicated=(a[:1],))
        assert_explicit(lambda first, others, call=call: call(first, others), one_against_many, b, replicated=(a[:1],))

        def total(descriptors, call=call):
            return jnp.sum(call(a, sp.Keypoints(**{**vars(b), "descriptors": descriptors})).scores)

        direction = jax.random.normal(jax.random.key(0), b.descriptors.shape)
        gradient = jax.jit(jax.grad(total))(b.descriptors)
        _, tangent = jax.jit(lambda d, v, total=total: jax.jvp(total, (d,), (v,)))(b.descriptors, direction)
        np.testing.assert_allclose(jnp.vdot(gradient, direction), tangent, rtol=1e-3)


@functools.cache
def matcher() -> sp.LightGlue:
    """A LightGlue whose random layers change the descriptors only a little, with a head that compares them."""
    config = sp.LightGlueConfig(num_hidden_layers=2, filter_threshold=0.05)
    network = sp.LightGlue(config, rngs=nnx.Rngs(0))
    network.match_assignment_layers.final_projection.kernel[...] = jnp.stack([30 * jnp.eye(256)] * 2)
    network.match_assignment_layers.matchability.bias[...] = jnp.full((2, 1), 2.0)
    for name in ("self_mlp", "cross_mlp"):
        kernel = getattr(network.transformer_layers, name).fc2.kernel
        kernel[...] = 0.02 * kernel[...]
    return network


@functools.cache
def many_keypoints() -> tuple[sp.Keypoints, sp.Keypoints]:
    """1024 rows of keypoints of the photos, and of slightly shifted copies of them."""
    images = batch((480, 640))
    extract = functools.partial(sp.extract, network(), max_keypoints=1024)
    return extract(images), extract(jnp.roll(images, (3, 5), axis=(1, 2)))


def check_lightglue():
    a, b = many_keypoints()
    assert a.mask.shape == (BATCH, 1024)
    expected = sp.match(a, b, matcher=matcher())
    assert int(np.asarray(expected.mask).sum(axis=1).min()) > 100
    call = functools.partial(sp.match, matcher=matcher())
    assert_same(jax.jit(call)(a, b), expected)
    assert_same(jax.vmap(call)(a, b), expected)
    _, out = jax.lax.scan(lambda none, pair: (none, call(*pair)), None, (a, b))
    assert_same(out, expected)

    def total(descriptors):
        return jnp.sum(call(a, sp.Keypoints(**{**vars(b), "descriptors": descriptors})).scores)

    direction = jax.random.normal(jax.random.key(0), b.descriptors.shape)
    gradient = jax.jit(jax.grad(total))(b.descriptors)
    _, tangent = jax.jit(lambda d, v: jax.jvp(total, (d,), (v,)))(b.descriptors, direction)
    np.testing.assert_allclose(jnp.vdot(gradient, direction), tangent, rtol=1e-3)


def check_lightglue_over_meshes():
    a, b = many_keypoints()
    for options in (dict(), dict(depth_confidence=0.5)):

        def call(model, a, b, options=options):
            return model.match(a, b, **options)

        expected = call(matcher(), a, b)
        hlo = assert_automatic(call, expected, a, b, replicated=(matcher(),))
        assert largest_collective(hlo) <= 1, "each device matches its own pairs"
        assert_explicit(call, expected, a, b, replicated=(matcher(),))
        assert_manual(call, expected, a, b, replicated=(matcher(),))
    one_against_many = sp.match(a[:1], b, matcher=matcher())
    for assert_over in (assert_explicit, assert_manual):
        assert_over(
            lambda model, first, others: sp.match(first, others, matcher=model),
            one_against_many,
            b,
            replicated=(matcher(), a[:1]),
        )


def check_gradient_to_the_parameters_of_lightglue():
    a, b = many_keypoints()

    def loss(model):
        assignment = model(a[:1], b[:1])
        return -jnp.sum(jnp.where(jnp.isfinite(assignment.log_scores), assignment.log_scores, 0)) / 1024**2

    gradient = jax.grad(loss)(matcher())
    assert jax.tree.structure(gradient) == jax.tree.structure(matcher())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.asarray(gradient.transformer_layers.self_attention.q_proj.kernel[...]).any(axis=(1, 2)).all()
    assert float(gradient.filter_threshold[...]) == 0


def check_thresholds_of_match_are_traced():
    a, b = pairs_of()
    counts = jax.vmap(lambda d: jnp.sum(sp.match(a, b, max_distance=d).mask))(jnp.array([0.1, 0.5, 0.9]))
    assert counts[0] < counts[1] < counts[2]


def check_match_pairs():
    found = features()
    expected = sp.match_pairs(found)
    assert_same(jax.jit(sp.match_pairs)(found), expected)
    pairs = jnp.array([[0, 1], [1, 2], [2, 3], [3, 0]])
    some = sp.match_pairs(found, pairs)
    assert_same(jax.vmap(lambda pair: sp.match_pairs(found, pair[None])[0])(pairs), some)
    assert_automatic(lambda found, pairs: sp.match_pairs(found, pairs), some, pairs, replicated=(found,))
    assert_explicit(lambda found, pairs: sp.match_pairs(found, pairs), some, pairs, replicated=(found,))
    assert_manual(lambda found, pairs: sp.match_pairs(found, pairs), some, pairs, replicated=(found,))


def check_match_pairs_by_lightglue():
    found, network = features(), matcher()
    pairs = jnp.array([[0, 1], [1, 2], [2, 3], [3, 0]])
    some = sp.match_pairs(found, pairs, matcher=network)
    assert some.mask.any()

    def call(network, found, pairs):
        return sp.match_pairs(found, pairs, matcher=network)

    assert_same(jax.vmap(lambda pair: call(network, found, pair[None])[0])(pairs), some)
    for assert_over_a_mesh in (assert_automatic, assert_explicit, assert_manual):
        assert_over_a_mesh(call, some, pairs, replicated=(network, found))


def check_ransac():
    a, b = pairs_of()
    matches = sp.match(a, b)
    keys = jax.random.split(jax.random.key(0), BATCH)
    call = jax.vmap(functools.partial(sp.ransac_homography, iterations=256))
    expected = call(keys, a, b, matches)
    assert np.asarray(expected.found).all()
    corners = jnp.array([[0.0, 0], [319, 0], [0, 239], [319, 239]])
    moved = geometry.warp_points(expected.matrix, jnp.stack([corners] * BATCH))
    np.testing.assert_allclose(moved, jnp.stack([corners + jnp.array([5.0, 3])] * BATCH), atol=1)
    single = sp.ransac_homography(keys[0], a[0], b[0], matches[0], iterations=256)
    np.testing.assert_allclose(single.matrix, expected.matrix[0], atol=1e-2)
    for assert_over in (assert_automatic, assert_explicit, assert_manual):
        assert_over(lambda *given: call(*given).found, expected.found, keys, a, b, matches)

    def shift(points):
        moved = sp.Keypoints(**{**vars(b[0]), "keypoints": points})
        return sp.ransac_homography(keys[0], a[0], moved, matches[0], iterations=256).matrix[0, 2]

    step = jnp.ones_like(b[0].keypoints)
    _, tangent = jax.jvp(shift, (b[0].keypoints,), (step,))
    np.testing.assert_allclose(tangent, 1, atol=0.05)
    np.testing.assert_allclose(jnp.vdot(jax.grad(shift)(b[0].keypoints), step), 1, atol=0.05)


def check_tracker():
    frames = features()
    tracker = sp.Tracker(length=3)
    expected = tracker.track(frames)
    assert_same(jax.jit(tracker.track)(frames), expected)
    sequences = jax.tree.map(lambda leaf: jnp.stack([leaf] * BATCH), frames)
    each = jax.tree.map(lambda leaf: jnp.stack([leaf] * BATCH), expected)
    assert_same(jax.vmap(tracker.track)(sequences), each)
    many = jax.vmap(tracker.track)
    assert_automatic(many, each, sequences)
    assert_explicit(many, each, sequences)
    assert_manual(many, each, sequences)
    distances = jnp.array([0.3, 0.9])
    started = jax.vmap(lambda d: sp.Tracker(max_distance=d).track(frames).next_id[-1])(distances)
    assert started[0] > started[1], "a stricter test breaks more tracks"


# Training


def training(accumulate: int) -> tuple[TrainConfig, Photos]:
    rng = np.random.default_rng(0)
    photos = Photos(
        images=jnp.asarray(np.stack([np.asarray(image[..., 0] * 255, np.uint8) for image in batch((240, 320))])),
        sizes=jnp.full((BATCH, 2), jnp.array([240, 320])),
        corners_xy=jnp.asarray(rng.uniform(20, 220, (BATCH, 50, 2)), jnp.float32),
        corners_mask=jnp.ones((BATCH, 50), bool),
    )
    pairs = PairConfig(shape=(120, 160))
    config = TrainConfig(steps=10, photos=1, shapes=1, pairs=pairs, dtype="float32", accumulate=accumulate)
    return config, photos


def check_training_step():
    model = for_training_on_cpu(network())
    config, photos = training(accumulate=4)
    expected, metrics = train_step(create_state(model, config), model, photos, config=config)
    mesh = data_mesh(config.accumulate)
    assert mesh is not None
    assert mesh.size == 4
    whole = NamedSharding(mesh, P())
    state, there, everywhere = jax.device_put((create_state(model, config), model, photos), whole)
    out, shared = train_step(state, there, everywhere, config=config, mesh=mesh)
    assert_same(shared, metrics, atol=1e-3)
    assert_same(out.params["model"], expected.params["model"], atol=1e-3)
    # The gradient, and a few metrics, are all that the devices exchange.
    hlo = train_step.lower(state, there, everywhere, config=config, mesh=mesh).compile().as_text()
    collectives = compiled.read(hlo)["collectives"]
    assert {collective["kind"] for collective in collectives} == {"all-reduce"}, collectives
    # The network without the refinement head has 1,300,865 parameters.
    assert 1_300_865 <= sum(collective["values"] for collective in collectives) < 1_300_965, collectives


def check_training_step_under_an_explicit_mesh():
    model = for_training_on_cpu(network())
    config, photos = training(accumulate=4)
    _, metrics = train_step(create_state(model, config), model, photos, config=config)
    mesh = jax.make_mesh((4,), ("data",))
    with jax.set_mesh(mesh):
        state, there, everywhere = jax.device_put(
            (create_state(model, config), model, photos), NamedSharding(mesh, P())
        )
        _, shared = train_step(state, there, everywhere, config=config, mesh=mesh)
    assert_same(shared, metrics, atol=1e-3)


def check_expected_repeats_and_matches():
    """The second view is the first moved by (5, 2)."""
    own = np.stack(np.meshgrid(np.arange(640), np.arange(480)), axis=-1)
    move = np.array([5, 2])
    places = np.stack([own + move, own - move])
    inside = ((places >= 0) & (places <= [639, 479])).all(-1)
    arrays = dict(
        features=np.zeros((BATCH, 2, 120, 160, 1), np.float16),
        places=np.repeat((places * STEPS_PER_PX).astype(np.int16)[None], BATCH, axis=0),
        shared=np.repeat(inside[None], BATCH, axis=0),
        whole=np.ones((BATCH, 2, 60, 80), bool),
    )
    views = SharedViews(**jax.tree.map(jnp.asarray, arrays))
    logits, counts = jax.random.normal(jax.random.key(0), (BATCH, 2, 60, 80, 65)) * 3, jnp.full(BATCH, 500.0)
    descriptors = normalize(jax.random.normal(jax.random.key(1), (BATCH, 2, 60, 80, 16)))

    def value_of(logits, descriptors, views, counts):
        matched = matching(logits, descriptors, views)
        repeats, cells = expected_repeats(logits, matched.margins, views, counts, distinct=0.5)
        weighted = jnp.where(matched.seen, cells * matched.mismatch, 0)
        return repeats + jnp.mean(weighted, axis=(1, 2, 3))

    def both(logits, descriptors, views, counts):
        def of(x, y):
            return value_of(x, y, views, counts)

        given = logits, descriptors
        value, slope = jax.jvp(of, given, jax.tree.map(jnp.ones_like, given))
        gradients = jax.grad(lambda x, y: jnp.sum(of(x, y)), argnums=(0, 1))(*given)
        return value, slope, [jnp.sum(gradient**2, axis=(1, 2, 3, 4)) for gradient in gradients]

    given = logits, descriptors, views, counts
    expected = jax.jit(both)(*given)
    assert all(float(jnp.min(gradient)) > 0 for gradient in expected[2])
    mesh = Mesh(np.array(jax.devices()), ("data",))
    there = jax.device_put(given, NamedSharding(mesh, P("data")))
    assert_same(jax.jit(both)(*there), expected, atol=1e-5)
    mapped = jax.shard_map(both, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    assert_same(jax.jit(mapped)(*there), expected, atol=1e-5)
    explicit = jax.make_mesh((4,), ("data",))
    with jax.set_mesh(explicit):
        there = jax.device_put(given, NamedSharding(explicit, P("data")))
        assert_same(jax.jit(both)(*there), expected, atol=1e-5)


# JAX's settings, Flax's tools, files


def check_settings_of_jax():
    size = (240, 320)
    images, sizes, expected = batch(size), image_sizes(size), features(size)
    a, b = pairs_of()
    matched = sp.match(a, b)
    settings = (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.debug_nans(True),
        jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64(),
    )
    for setting in settings:
        with setting:
            for dtype in ("float32", "bfloat16"):
                out = extract(network(), images, dtype=dtype)
                assert out.keypoints.dtype == out.scores.dtype == out.descriptors.dtype == jnp.float32
                assert out.num_detected.dtype == out.image_sizes.dtype == jnp.int32
            assert_same_keypoints(extract(network(), images), expected)
            extract(network(), np.asarray(images * 255, np.uint8), sizes)
            extract(network(), np.asarray(images, np.float64), np.asarray(sizes, np.int64), keypoint_threshold=0.01)
            for preset in ("huggingface", "magicleap", "rpautrat", "lightglue"):
                fields = {**sp.SuperPointConfig.preset(preset).__dict__}
                config = network().config.replace(**{name: fields[name] for name in RULES})
                jax.eval_shape(extract, sp.SuperPoint(config, rngs=nnx.Rngs(0)), images)
            assert_same(sp.match(a, b), matched)
            for options in MATCHERS:
                sp.match(a, b, **options)
            for dtype in ("float32", "bfloat16"):
                assert matcher().match(a, b, dtype=dtype).scores.dtype == jnp.float32
                matcher().match(a[:1], b, depth_confidence=0.9, min_score=0.1, dtype=dtype)
            sp.match_pairs(a)
            sp.Tracker(max_move_px=20.0).track(a)
            sp.ransac_homography(jax.random.key(0), a[0], b[0], matched[0], iterations=64)
            config, photos = training(accumulate=2)
            params = create_state(network(), config).params
            # Only the gradient, because optax's own schedule mixes types, which strict promotion refuses.
            gradient = functools.partial(mean_gradient, config=config)
            jax.eval_shape(gradient, params, for_training_on_cpu(network()), photos, jax.random.key(0))


RULES = ("score_rule", "threshold_rule", "suppression_rule", "border_rule", "sampling_rule", "channel_rule")


def check_flax_tools():
    images = batch((240, 320))
    table = nnx.tabulate(network(), images, console_kwargs=dict(width=200))
    assert "conv_descriptor_b" in table
    graph, params, rest = nnx.split(network(), nnx.Param, ...)
    assert_same_keypoints(extract(nnx.merge(graph, params, rest), images), features())
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 1_300_865 + 12_545  # The network, and its head.


def check_export_of_keypoints_and_matches():
    a, b = pairs_of()
    exported = jax.export.export(jax.jit(lambda x: extract(network(), x)))(batch((240, 320)))
    again = jax.export.deserialize(exported.serialize())
    assert_same_keypoints(again.call(batch((240, 320))), features())
    for call in (sp.match, functools.partial(sp.match, matcher=matcher())):
        exported = jax.export.export(jax.jit(call))(a, b)
        again = jax.export.deserialize(exported.serialize())
        assert_same(again.call(a, b), call(a, b))


def check_products_are_exact_on_accelerators():
    """Read from the lowered programs. By default accelerators multiply in TF32 or bfloat16, with errors of pixels."""
    key, size = jax.random.key(0), (240, 320)
    homographies = geometry.sample_homographies(key, BATCH, size)
    points = jnp.ones((BATCH, 50, 2))
    a, b = pairs_of()
    config, photos = training(accumulate=1)
    functions: dict[str, tuple[Callable, tuple]] = {
        "sample_homographies": (lambda key: geometry.sample_homographies(key, BATCH, size), (key,)),
        "warp_points": (geometry.warp_points, (homographies, points)),
        "in_front": (geometry.in_front, (homographies, points)),
        "warp_images": (lambda images, h: geometry.warp_images(images, h), (batch(size), homographies)),
        "ransac": (lambda a, b: sp.ransac_homography(key, a, b, sp.match(a, b)), (a[0], b[0])),
        "match": (functools.partial(sp.match, temperature=0.1), (a, b)),
        "LightGlue": (functools.partial(sp.match, matcher=matcher()), (a, b)),
        "match_pairs": (sp.match_pairs, (a,)),
        "tracks": (lambda a: sp.Tracker().track(a), (a,)),
        "extract": (lambda images: extract(network(), images), (batch(size),)),
        "training pairs": (lambda key: sample_pairs(key, photos, 2, config=config.pairs), (key,)),
        "synthetic shapes": (lambda key: render_shapes(key, batch=2, shape=size), (key,)),
    }
    for name, (function, arguments) in functions.items():
        for platform in ("cuda", "tpu"):
            text = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
            products = [line for line in text.splitlines() if "dot_general" in line or "stablehlo.convolution" in line]
            three_passes = [line for line in products if line.count("HIGH") == 2 and "HIGHEST" not in line]
            inexact = [line for line in products if line not in three_passes and line.count("HIGHEST") != 2]
            # On a TPU, convolutions of blocks 1 to 3 (see `superpoint_jax.lanes`) and the refinement head.
            assert len(three_passes) == (8 + 3 if (name, platform) == ("extract", "tpu") else 0), (name, platform)
            assert not inexact, (name, platform, inexact[0].strip()[:300])
            assert products, (name, platform)


class Compilations:
    """Counts the programs that XLA compiles during a call."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration: float, **_) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"

    def of(self, call: Callable) -> int:
        before = self.count
        jax.block_until_ready(call())
        return self.count - before


def check_nothing_compiles_twice():
    compilations = Compilations()
    images = batch((240, 320))
    other = jax.tree.map(lambda leaf: leaf * 0.5, network())
    calls: dict[str, Callable] = {
        "model(images) outside of jit": lambda: network()(images),
        "extract": lambda: extract(network(), images),
        "greedy suppression": lambda: extract(network(), images, suppression_rule="greedy"),
        "match": lambda: sp.match(features(), features(), temperature=0.1),
        "LightGlue": lambda: sp.match(features(), features(), matcher=matcher()),
        "match_pairs": lambda: sp.match_pairs(features()),
        "tracks": lambda: sp.Tracker().track(features()),
        "ransac": lambda: sp.ransac_homography(
            jax.random.key(0), features()[0], features()[1], sp.match(features()[0], features()[1])
        ),
    }
    for name, call in calls.items():
        call()
        assert compilations.of(call) == 0, name
    variations = {
        "another model": lambda: extract(other, images),
        "another threshold": lambda: extract(network(), images, keypoint_threshold=0.02),
        "LightGlue with another threshold": lambda: sp.match(features(), features(), matcher=matcher(), min_score=0.3),
        "a model with another threshold": lambda: extract(sp.from_pretrained(keypoint_threshold=0.03), images),
    }
    extract(network(), images, keypoint_threshold=0.01)
    sp.from_pretrained(keypoint_threshold=0.04)
    sp.match(features(), features(), matcher=matcher(), min_score=0.2)
    for name, call in variations.items():
        assert compilations.of(call) == 0, name


def main() -> None:
    """Run the checks named on standard input, one per line; print one line for each: "ok", or the traceback."""
    answers, sys.stdout = sys.stdout, sys.stderr
    network()  # Load the model here, not during tracing.
    for line in sys.stdin:
        try:
            globals()[line.strip()]()
            answer = "ok"
        except Exception:
            answer = traceback.format_exc()
        print(answer.encode("unicode_escape").decode(), file=answers, flush=True)


if __name__ == "__main__":
    main()
