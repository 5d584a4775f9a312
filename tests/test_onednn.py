"""Convolution by the oneDNN of jaxlib is XLA's convolution, and is called only where that is safe."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import superpoint_jax as sp
from superpoint_jax.convolution import choice, onednn, processor

BFLOAT16 = pytest.param(
    "bfloat16",
    marks=pytest.mark.skipif(not processor.multiplies_bfloat16(), reason="oneDNN needs instructions for it"),
)


@pytest.fixture
def called(nothing_kept):
    if not onednn.is_available():
        pytest.skip("this jaxlib has no oneDNN that was tested")


def _normal(key, shape, dtype="float32"):
    return jax.random.normal(jax.random.key(key), shape, dtype)


def _exact(x, kernel, padding):
    """Correlation in float64."""
    (rows, columns), size = padding, len(kernel)
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    x = np.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return np.einsum("bhwcij,ijcd->bhwd", windows, kernel)


@pytest.mark.parametrize("padding", [(0, 1), (1, 1), (0, 0)], ids=["strip", "image", "none"])
@pytest.mark.parametrize("shape", [(2, 9, 13, 5), (1, 3, 3, 1), (1, 12, 40, 64)], ids=["odd", "small", "wide"])
@pytest.mark.parametrize("dtype", ["float32", BFLOAT16])
def test_it_is_the_correlation_with_sums_in_float32(called, shape, padding, dtype):
    x, kernel = _normal(0, shape, dtype), _normal(1, (3, 3, shape[-1], 24), dtype)
    y = onednn.convolve(x, kernel, pad_rows=padding[0], pad_columns=padding[1])
    exact = _exact(x, kernel, padding)
    assert y.dtype == jnp.float32
    # Random signs: rounding grows with the root of the number of sums, here at most 576.
    np.testing.assert_allclose(y, exact, rtol=0, atol=24 * float(jnp.finfo("float32").eps) * np.abs(exact).max())


@pytest.mark.parametrize("axes", [(0, None), (0, 0), (None, 3), (3, 1)], ids=str)
def test_vmap_equals_a_loop(called, axes):
    x, kernel = _normal(0, (3, 2, 7, 9, 4)), _normal(1, (3, 3, 3, 4, 8))
    x, kernel = (a if axis is not None else a[0] for a, axis in zip((x, kernel), axes, strict=True))

    def convolve(x, kernel):
        return onednn.convolve(x, kernel, pad_rows=1, pad_columns=1)

    one = [[a if axis is None else a[i] for a, axis in zip((x, kernel), axes, strict=True)] for i in range(3)]
    moved = [a if axis is None else jnp.moveaxis(a, 0, axis) for a, axis in zip((x, kernel), axes, strict=True)]
    own = jax.jit(jax.vmap(convolve, axes, out_axes=2))(*moved)
    np.testing.assert_allclose(jnp.moveaxis(own, 2, 0), jnp.stack([convolve(*each) for each in one]), rtol=0, atol=1e-5)


def test_a_program_calls_it_and_an_exported_one_does_not(called):
    arrays = _normal(0, (1, 7, 9, 4)), _normal(1, (3, 3, 4, 8))
    convolve = jax.jit(lambda x, kernel: onednn.convolve(x, kernel, pad_rows=1, pad_columns=1))
    assert "__onednn$" in convolve.lower(*arrays).as_text()
    for platforms in (["cpu"], ["cpu", "cuda", "tpu"]):
        exported = jax.export.export(convolve, platforms=platforms)(*arrays)
        assert "__onednn$" not in exported.mlir_module()
        again = jax.export.deserialize(exported.serialize())
        np.testing.assert_allclose(again.call(*arrays), convolve(*arrays), rtol=0, atol=1e-4)


@pytest.fixture
def release(monkeypatch):
    """A function that makes jaxlib another release."""

    def of(version):
        monkeypatch.setattr("importlib.metadata.version", lambda _: version)
        onednn._release.cache_clear()

    yield of
    onednn._release.cache_clear()


@pytest.mark.parametrize("version", ["0.8.0", "0.10.3", "0.11.0", "1.0.0", "0.11.0.dev20270101"])
def test_a_release_that_was_not_tested_is_left_alone(nothing_kept, release, version):
    release(version)
    assert not onednn.is_available()


@pytest.mark.skipif(sys.platform != "linux", reason="nowhere else is it called at all")
def test_it_is_called_in_tested_releases_on_x86_where_nothing_is_kept(nothing_kept, release, monkeypatch, tmp_path):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for version in ("0.8.1", "0.9.0.1", "0.10.2"):
        release(version)
        assert onednn.is_available()
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    assert not onednn.is_available()
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not onednn.is_available()


def test_float32_does_not_call_it(called, model):
    dense = jax.jit(lambda model, image: model(image, dtype="float32"))
    assert "__onednn$" not in dense.lower(model, jnp.zeros((1, 64, 96, 1))).as_text()


@pytest.fixture
def chosen(called, monkeypatch):
    if not choice.calls_onednn():
        pytest.skip("no instructions for bfloat16 here")
    # Strips in an image of the tests' size.
    monkeypatch.setattr(processor, "cache_bytes", lambda: 2**18)


def test_a_network_calls_it_and_is_no_further_from_exact_than_the_plain_path(chosen, monkeypatch, model, gray_photos):
    image = jnp.asarray(gray_photos["coffee"])[None, ..., None]

    def dense(dtype="bfloat16"):
        return jax.jit(lambda model, image: model(image, dtype=dtype))

    # Four blocks and two heads of 3x3 convolutions, but for the first, of one channel.
    assert dense().lower(model, image).as_text().count("@__onednn$convolution") == 9
    own = dense()(model, image)
    monkeypatch.setattr(choice, "is_faster", lambda *_: False)
    monkeypatch.setattr(choice, "in_strips", lambda *_: 0)
    jax.clear_caches()
    assert "onednn$" not in dense().lower(model, image).as_text()
    exact, plain = dense("float32")(model, image), dense()(model, image)
    for name in ("logits", "descriptors"):
        error, plain_error = (
            float(jnp.linalg.norm((getattr(found, name) - getattr(exact, name)).ravel())) for found in (own, plain)
        )
        assert 0 < error < 1.1 * plain_error


def test_an_image_alone_in_a_batch_and_padded_gives_the_same(chosen, model, gray_photos):
    photos = [gray_photos[name][:200, :250] for name in ("coffee", "camera")]
    options = dict(max_keypoints=200, dtype="bfloat16")
    alone = [sp.extract(model, jnp.asarray(photo)[None, ..., None], **options) for photo in photos]
    padded = np.full((2, 240, 280, 1), np.nan, np.float32)
    for image, photo in zip(padded, photos, strict=True):
        image[: photo.shape[0], : photo.shape[1], 0] = photo
    sizes = np.array([photo.shape for photo in photos], np.int32)
    batch = sp.extract(model, jnp.asarray(np.nan_to_num(padded)), image_sizes=sizes, **options)
    for i, one in enumerate(alone):
        np.testing.assert_array_equal(batch[i : i + 1].keypoints, one.keypoints)
        np.testing.assert_allclose(batch[i : i + 1].scores, one.scores, rtol=0, atol=1e-6)
        np.testing.assert_allclose(batch[i : i + 1].descriptors, one.descriptors, rtol=0, atol=1e-5)


def test_programs_that_run_next_to_each_other_do_not_wait_for_each_other_for_ever(called):
    """Many convolutions that depend on nothing, in many threads: more than there are cores to wait in."""
    from concurrent.futures import ThreadPoolExecutor

    x, kernel = _normal(0, (1, 30, 40, 16)), _normal(1, (3, 3, 16, 16))
    many = jax.jit(lambda x, k: [onednn.convolve(x * i, k, pad_rows=1, pad_columns=1).sum() for i in range(12)])
    expected = np.array(many(x, kernel))
    with ThreadPoolExecutor(8) as pool:
        for found in [pool.submit(lambda: np.array(many(x, kernel))) for _ in range(80)]:
            np.testing.assert_array_equal(found.result(timeout=60), expected)
