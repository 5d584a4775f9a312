"""The dense network in OpenVINO instead of the model: the same numbers, and a clear error where it can't be used."""

import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import superpoint_jax as sp
from superpoint_jax import extract, openvino
from superpoint_jax.config import PRESETS
from tests.agreement import assert_same_keypoints

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'superpoint-jax[cpu]'")

K = 64


@pytest.fixture(scope="module")
def fast(model):
    return openvino.compile(model)


def mixed(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The images with NaN outside of smaller true sizes, and these sizes."""
    sizes = jnp.array([[61, 83], [40, 104]], jnp.int32)
    rows, columns = jnp.arange(72)[None, :, None, None], jnp.arange(104)[None, None, :, None]
    inside = (rows < sizes[:, 0, None, None, None]) & (columns < sizes[:, 1, None, None, None])
    return jnp.where(inside, images, jnp.nan), sizes


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_gives_what_xla_gives(random_model, images, preset):
    model = random_model(3, **PRESETS[preset])
    fast = openvino.compile(model)
    assert_same_keypoints(extract(fast, images, max_keypoints=K), extract(model, images, max_keypoints=K))


def test_mixed_sizes_give_what_xla_gives(model, fast, images):
    padded, sizes = mixed(images)
    out = extract(fast, padded, image_sizes=sizes, max_keypoints=K)
    assert_same_keypoints(out, extract(model, padded, image_sizes=sizes, max_keypoints=K))


def test_dense_maps_are_within_1e_5(model, fast, images):
    ours, theirs = model(images), fast(images)
    assert theirs.logits.shape == ours.logits.shape
    np.testing.assert_allclose(jax.nn.softmax(theirs.logits), jax.nn.softmax(ours.logits), rtol=0, atol=1e-5)
    np.testing.assert_allclose(theirs.descriptors, ours.descriptors, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(theirs.descriptors, axis=-1), 1, atol=1e-6)


def test_bytes_and_colours_are_taken(random_model, photos):
    photo = photos["coffee"][None]
    for rule in ("luma", "first"):
        model = random_model(0, channel_rule=rule)
        out = extract(openvino.compile(model), photo, max_keypoints=K)
        assert_same_keypoints(out, extract(model, photo, max_keypoints=K))


def test_logits_of_bfloat16_are_not_rounded(model, images):
    logits = np.asarray(openvino.compile(model, dtype="bfloat16")(images).logits)
    assert logits.dtype == np.float32
    assert len(np.unique(logits)) > 0.9 * logits.size, "scores rounded to bfloat16 would tie"
    np.testing.assert_allclose(logits, model(images).logits, atol=0.05 * np.ptp(model(images).logits))


def test_composes_under_jit_vmap_and_scan(model, fast, images):
    expected = extract(model, images, max_keypoints=K)
    assert_same_keypoints(jax.jit(lambda x: extract(fast, x, max_keypoints=K))(images), expected)
    assert_same_keypoints(jax.jit(extract, static_argnames="max_keypoints")(fast, images, max_keypoints=K), expected)
    assert_same_keypoints(jax.vmap(lambda x: extract(fast, x[None], max_keypoints=K)[0])(images), expected)
    _, out = jax.lax.scan(lambda count, x: (count, extract(fast, x[None], max_keypoints=K)[0]), 0, images)
    assert_same_keypoints(out, expected)


def test_composes_under_vmap_with_sizes(model, fast, images):
    padded, sizes = mixed(images)
    out = jax.vmap(lambda x, size: extract(fast, x[None], image_sizes=size[None], max_keypoints=K)[0])(padded, sizes)
    assert_same_keypoints(out, extract(model, padded, image_sizes=sizes, max_keypoints=K))


def test_composes_under_shard_map(model, fast, images):
    mesh = jax.make_mesh((2,), ("images",), axis_types=(jax.sharding.AxisType.Auto,))
    split = PartitionSpec("images")
    out = jax.shard_map(
        lambda x: extract(fast, x, max_keypoints=K), mesh=mesh, in_specs=split, out_specs=split, check_vma=False
    )(images)
    assert_same_keypoints(out, extract(model, images, max_keypoints=K))


def test_a_threshold_and_options_are_those_of_extract(model, fast, images):
    options = dict(keypoint_threshold=0.02, max_keypoints=K, nms_radius=3)
    assert_same_keypoints(extract(fast, images, **options), extract(model, images, **options))


def test_derivatives_say_what_to_use_instead(fast, images):
    def loss(x):
        return extract(fast, x, max_keypoints=K).scores.sum()

    for derivative in (jax.grad(loss), lambda x: jax.jvp(loss, (x,), (x,))):
        with pytest.raises(ValueError, match="no derivatives; use the model itself"):
            derivative(images)


def test_a_gradient_that_does_not_pass_through_it_is_fine(fast, images):
    def loss(scale):
        return scale * extract(fast, images, max_keypoints=K).scores.sum()

    assert jax.grad(loss)(2.0) > 0


def test_hidden_states_say_what_to_use_instead(fast, images):
    with pytest.raises(ValueError, match="no hidden states; use the model itself"):
        extract(fast, images, output_hidden_states=True)


def test_another_compute_type_says_what_to_do(model, fast, images):
    with pytest.raises(ValueError, match="compiled for float32: compile the model again"):
        extract(fast, images, dtype="bfloat16")
    with pytest.raises(ValueError, match="dtype='float16'; OpenVINO computes in float32 or bfloat16"):
        openvino.compile(model, dtype="float16")


def test_another_platform_says_what_to_do(monkeypatch, model, fast, images):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for call in (lambda: openvino.compile(model), lambda: fast(images)):
        with pytest.raises(ValueError, match=r"OpenVINO computes on the CPU, .* a gpu; use the model itself"):
            call()
    assert openvino.choose(model) is model


def test_without_openvino_the_model_is_chosen_or_the_extra_named(monkeypatch, model):
    monkeypatch.setattr(openvino, "find_spec", lambda name: None)
    assert openvino.choose(model) is model
    with pytest.raises(ImportError, match=r"pip install 'superpoint-jax\[cpu\]'"):
        openvino.choose(model, "openvino")


def test_choice(model):
    assert openvino.choose(model, "xla") is model
    assert openvino.choose(model, dtype="float16") is model
    assert openvino.choose(model, "auto", dtype="bfloat16").rules.dtype == "bfloat16"
    assert openvino.choose(model, "openvino").rules == model.rules


def test_kept_shapes_are_bounded(monkeypatch, model):
    monkeypatch.setattr(openvino, "MAX_SHAPES", 2)
    fast = openvino.compile(model)
    for width in (16, 24, 32, 16):
        fast(jnp.zeros((1, 16, width, 1)))
        assert len(fast._networks) <= 2
    assert [shape[2] for shape in fast._networks] == [32, 16]


def test_two_engines_live_in_one_process(random_model, images):
    models = [random_model(seed) for seed in range(2)]
    engines = [openvino.compile(model) for model in models]
    for _ in range(2):
        for model, engine in zip(models, engines, strict=True):
            assert_same_keypoints(extract(engine, images, max_keypoints=K), extract(model, images, max_keypoints=K))


def test_threads_may_call_at_once(model, fast, images):
    batches = [images * brightness for brightness in np.linspace(0.5, 1, 8, dtype=np.float32)]
    expected = [model(batch).logits for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for out, logits in zip(pool.map(lambda batch: fast(batch).logits, batches), expected, strict=True):
                np.testing.assert_allclose(out, logits, atol=1e-4)


def test_a_copy_in_another_process_compiles_its_own(model, images):
    again = pickle.loads(pickle.dumps(openvino.compile(model)))
    np.testing.assert_allclose(again(images).logits, model(images).logits, atol=1e-4)


def _run_in_a_fork(engine, queue) -> None:
    try:
        engine.run(np.zeros((1, 16, 24, 1), np.float32), np.array([[16, 24]]))
        queue.put("no error")
    except RuntimeError as error:
        queue.put(str(error))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning", "ignore:.*fork:DeprecationWarning")
def test_a_forked_process_is_told_to_compile_its_own(fast):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_run_in_a_fork, args=(fast, queue))
    process.start()
    assert "compile the model in each forked process" in queue.get(timeout=60)
    process.join(60)


def test_nothing_is_forked_when_it_is_first_used(tmp_path):
    """OpenVINO's telemetry would send a message from a forked process, which is not safe with JAX's threads."""
    import subprocess
    import sys

    program = """
import os
import jax.numpy as jnp
import superpoint_jax as sp
os.register_at_fork(before=lambda: print("forked"))
sp.openvino.compile(sp.from_pretrained())(jnp.zeros((1, 16, 24, 1)))
print("computed")
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["computed"]


def test_later_changes_of_the_model_do_not_reach_it(random_model, images):
    model = random_model(0)
    fast = openvino.compile(model)
    before = model(images).logits
    model.encoder.conv_blocks[0].conv_a.kernel[...] = model.encoder.conv_blocks[0].conv_a.kernel[...] * 0
    np.testing.assert_allclose(fast(images).logits, before, atol=1e-4)
    assert isinstance(fast.config, sp.SuperPointConfig)
