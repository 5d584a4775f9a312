"""Exported files give what `extract` gives, where this package is not."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import superpoint_jax as sp
from superpoint_jax.cli import main
from superpoint_jax.export import export_onnx, export_stablehlo
from superpoint_jax.export.signature import INPUTS, OUTPUTS, PAIR_OUTPUTS
from tests.lightglue_features import random_matcher

onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")

SHAPE = (120, 160)
SIZES = np.array([[120, 160], [96, 111], [50, 160]], np.int32)
K = 150

pytestmark = pytest.mark.filterwarnings("default")  # those of the converters and runtimes are not ours


@pytest.fixture(scope="module")
def arrays(gray_photos) -> np.ndarray:
    """Three photos of different sizes, and what must not matter beside them."""
    images = np.full((3, *SHAPE, 1), np.nan, np.float32)
    for image, (height, width), name in zip(images, SIZES, ("camera", "coffee", "astronaut"), strict=True):
        image[:height, :width, 0] = gray_photos[name][:height, :width]
    return images


def expected(model, images, sizes, **options) -> list[np.ndarray]:
    features = sp.extract(model, images, image_sizes=sizes, **options)
    assert features.mask.any()
    return [np.asarray(getattr(features, name)) for name in OUTPUTS]


FOREIGN = """
import sys
sys.modules["superpoint_jax"] = None  # an import of it fails
import jax, numpy as np
path, data, out = sys.argv[1:4]
function = jax.export.deserialize(open(path, "rb").read())
given = np.load(data)
arguments = [given["images"], given["image_sizes"]]
if sys.argv[4:]:
    from safetensors.numpy import load_file
    arguments.insert(0, load_file(sys.argv[4]))
np.savez(out, *function.call(*arguments))
"""


@pytest.mark.parametrize("weights", ["inside", "beside"])
def test_stablehlo_runs_where_the_package_is_not(model, arrays, tmp_path, weights):
    path, *beside = export_stablehlo(
        model, tmp_path / "superpoint.stablehlo", shape=SHAPE, weights=weights, max_keypoints=K
    )
    assert bool(beside) == (weights == "beside")
    exported = jax.export.deserialize(path.read_bytes())
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert path.stat().st_size < (200_000 if beside else 6_000_000)
    for count in (1, 3):  # any number of images, through one file
        images, sizes = arrays[:count], SIZES[:count]
        np.savez(tmp_path / "in.npz", images=images, image_sizes=sizes)
        arguments = [path, tmp_path / "in.npz", tmp_path / "out.npz", *beside]
        subprocess.run([sys.executable, "-c", FOREIGN, *map(str, arguments)], check=True, timeout=300)
        with np.load(tmp_path / "out.npz") as out:
            for name, theirs, ours in zip(
                OUTPUTS, out.values(), expected(model, images, sizes, max_keypoints=K), strict=True
            ):
                np.testing.assert_array_equal(theirs, ours, err_msg=name)


def test_stablehlo_takes_what_extract_takes(model, gray_photos, tmp_path):
    rgb = np.stack([gray_photos["coffee"][:64, :96]] * 3, -1)[None]
    sizes = np.array([[64, 96]], np.int32)
    options = dict(max_keypoints=20, nms_radius=2, dtype="bfloat16")
    path, *_ = export_stablehlo(model, tmp_path / "a", shape=(64, 96), channels=3, platforms=["cpu"], **options)
    outputs = jax.export.deserialize(path.read_bytes()).call(rgb, sizes)
    for theirs, ours in zip(outputs, expected(model, rgb, sizes, **options), strict=True):
        np.testing.assert_array_equal(theirs, ours)


IN_OPENVINO = """
import sys
import numpy as np, openvino
path, data, out, *names = sys.argv[1:]
compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
with np.load(data) as given:
    result = compiled(dict(given))
np.savez(out, *(result[name] for name in names))
"""


def in_runtimes(path, folder, images, image_sizes=None) -> list[list[np.ndarray]]:
    """What a file gives in ONNX Runtime and in OpenVINO."""
    onnx.checker.check_model(path, full_check=True)
    feeds = {INPUTS[0]: images} | ({} if image_sizes is None else {INPUTS[1]: image_sizes})
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == list(feeds)
    of_onnx_runtime = session.run(OUTPUTS, feeds)
    np.savez(folder / "in.npz", **feeds)
    # It forks a process when it is imported, which JAX's threads may not survive.
    arguments = map(str, [path, folder / "in.npz", folder / "out.npz", *OUTPUTS])
    subprocess.run([sys.executable, "-c", IN_OPENVINO, *arguments], check=True, timeout=300)
    with np.load(folder / "out.npz") as out:
        return [of_onnx_runtime, list(out.values())]


def assert_same(found, ours) -> None:
    """The same keypoints, to the rounding of sums of float32."""
    keypoints, scores, descriptors, mask = found
    np.testing.assert_array_equal(mask, ours[3])
    np.testing.assert_allclose(keypoints, ours[0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(scores, ours[1], rtol=0, atol=2e-5)
    np.testing.assert_allclose(descriptors, ours[2], rtol=0, atol=1e-4)


VARIANTS = {
    "ours": ({}, {}),
    "huggingface": ({"config": "huggingface"}, {}),
    "rpautrat": ({"config": "rpautrat"}, {"threshold_rule": "greater_equal"}),
    "superpoint_jax": ({"config": "superpoint_jax"}, {"max_keypoints": -1}),
    "the demo's scores and sampling": ({}, {"score_rule": "unshifted_softmax", "sampling_rule": "demo"}),
    "the sampling of 2018": ({}, {"sampling_rule": "demo_2018", "border_rule": "cells"}),
    "a small radius": ({}, {"border_rule": "image", "nms_radius": 2, "refinement": "soft_argmax"}),
    "more rows than pixels": ({}, {"max_keypoints": 20_000}),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mixed_sizes", [False, True])
def test_onnx_gives_the_keypoints_of_extract(arrays, tmp_path, variant, mixed_sizes):
    """One file, for images and batches of any size; with `mixed_sizes`, for several sizes in one batch."""
    given, options = VARIANTS[variant]
    model, options = sp.from_pretrained(**given), {"max_keypoints": K} | options
    path, *_ = export_onnx(model, tmp_path / "superpoint.onnx", mixed_sizes=mixed_sizes, **options)
    assert path.stat().st_size < 5_600_000, "the weights, and little else"
    # Widths that are no multiples of 8, and the padding of the other images is not a number.
    batches = [(arrays, SIZES), (arrays[:1, :99, :157], np.array([[99, 157]], np.int32))]
    for images, sizes in batches[:1] if variant == "more rows than pixels" else batches:
        sizes = sizes if mixed_sizes else None
        ours = expected(model, images, sizes, **options)
        for found in in_runtimes(path, tmp_path, images, sizes):
            assert_same(found, ours)


def test_the_licence_travels_into_the_onnx_file(random_model, tmp_path):
    model = random_model()
    for mark, expected_keys in ((0.0, []), (1.0, ["superpoint_jax_origin", "licence"])):
        model.magic_leap[...] = jnp.float32(mark)
        path, *_ = export_onnx(model, tmp_path / "a.onnx", max_keypoints=20)
        assert [entry.key for entry in onnx.load(path).metadata_props] == expected_keys


@pytest.mark.parametrize("factor", [1.3, 3])
def test_onnx_enlarges(arrays, tmp_path, factor):
    model, images = sp.from_pretrained(), arrays[:1].copy()
    path, *_ = export_onnx(model, tmp_path / "a.onnx", max_keypoints=K, enlarge=factor)
    for _ in range(2):
        ours = expected(model, images, None, max_keypoints=K, enlarge=factor)
        for found in in_runtimes(path, tmp_path, images):
            assert_same(found, ours)
        images[0, 40, 50] = np.nan  # No keypoint is near it.


@pytest.mark.parametrize("rule", ["luma", "first"])
def test_onnx_of_colours_with_fixed_sizes(random_model, photos, tmp_path, rule):
    """A batch norm, too, which every small variant has here."""
    model = random_model(batch_norm=True, channel_rule=rule, max_keypoints=40)
    images = photos["coffee"][None, :120, :160].astype(np.float32) / 255
    path, *_ = export_onnx(model, tmp_path / "a.onnx", shape=SHAPE, channels=3, batch=1)
    assert onnxruntime.InferenceSession(path).get_inputs()[0].shape == [1, *SHAPE, 3]
    for _ in range(2):
        ours = expected(model, images, None)
        for found in in_runtimes(path, tmp_path, images):
            assert_same(found, ours)
        images[0, 20, 30, 0] = np.inf  # No keypoint is near it.


def test_onnx_with_its_weights_beside(model, arrays, tmp_path):
    for _ in range(2):  # what is there is written anew
        path, beside = export_onnx(model, tmp_path / "a.onnx", weights="beside", max_keypoints=20)
    assert path.stat().st_size + beside.stat().st_size < 200_000
    assert beside.stat().st_size > path.stat().st_size
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert_same(session.run(OUTPUTS, {"images": arrays[:1]}), expected(model, arrays[:1], None, max_keypoints=20))


@pytest.fixture(scope="module")
def pairs(arrays) -> tuple[np.ndarray, np.ndarray]:
    """Two pairs of photos, and their sizes."""
    return arrays[[0, 1, 2, 0]].reshape(2, 2, *SHAPE, 1), SIZES[[0, 1, 2, 0]].reshape(2, 2, 2)


def matches_of(model, matcher, pairs) -> list[np.ndarray]:
    """What a file that matches returns."""
    images, sizes = (values.reshape(4, *values.shape[2:]) for values in pairs)
    features = sp.extract(model, images, image_sizes=sizes, max_keypoints=K)
    matches = sp.match(features[::2], features[1::2], matcher=matcher)
    assert matches.mask.any(axis=1).all()
    arrays = [
        np.asarray(getattr(features, name)).reshape(2, 2, K, *getattr(features, name).shape[2:]) for name in OUTPUTS
    ]
    return [*arrays, np.asarray(matches.indices), np.asarray(matches.scores)]


@pytest.mark.parametrize("weights", ["inside", pytest.param("beside", marks=pytest.mark.slow)])
def test_extraction_and_matching_in_one_stablehlo_file(model, pairs, tmp_path, weights):
    matcher = random_matcher()
    path, *beside = export_stablehlo(
        model, tmp_path / "a", matcher=matcher, shape=SHAPE, weights=weights, max_keypoints=K, platforms=["cpu"]
    )
    named = [load_file(file) for file in beside]
    outputs = jax.export.deserialize(path.read_bytes()).call(*named, *pairs)
    for name, theirs, ours in zip(PAIR_OUTPUTS, outputs, matches_of(model, matcher, pairs), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5 * (name == "matching_scores"), err_msg=name)


@pytest.mark.parametrize("kind", ["network", pytest.param("nearest", marks=pytest.mark.slow)])
def test_extraction_and_matching_in_one_onnx_file(model, pairs, tmp_path, kind):
    matcher = random_matcher(num_hidden_layers=2) if kind == "network" else None
    path, *_ = export_onnx(
        model, tmp_path / "a.onnx", matcher=matcher or "nearest", batch=2, mixed_sizes=True, max_keypoints=K
    )
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_outputs()] == list(PAIR_OUTPUTS)
    outputs = session.run(PAIR_OUTPUTS, dict(zip(INPUTS, pairs, strict=True)))
    for name, theirs, ours in zip(PAIR_OUTPUTS, outputs, matches_of(model, matcher, pairs), strict=True):
        exact = name in ("mask", "matches")
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=0 if exact else 1e-4, err_msg=name)


def test_what_cannot_be_exported_is_said(model, tmp_path):
    path = tmp_path / "a"
    with pytest.raises(ValueError, match=r"depth_confidence=0\.9: in ONNX every layer runs"):
        export_onnx(model, path, matcher=random_matcher(depth_confidence=0.9))
    with pytest.raises(ValueError, match="the dtype of the LightGlue is bfloat16"):
        export_onnx(model, path, matcher=random_matcher(dtype="bfloat16"))
    with pytest.raises(ValueError, match="greedy suppression"):
        export_onnx(sp.from_pretrained(config="magicleap"), path)
    with pytest.raises(ValueError, match="float32"):
        export_onnx(model, path, dtype="bfloat16")
    with pytest.raises(ValueError, match="needs a fixed number of keypoints"):
        export_onnx(model, path, matcher="nearest", max_keypoints=-1)
    with pytest.raises(ValueError, match="spread='grid' is not possible in ONNX"):
        export_onnx(model, path, spread="grid")
    with pytest.raises(ValueError, match="enlarged images of mixed sizes"):
        export_onnx(model, path, enlarge=2, mixed_sizes=True)
    with pytest.raises(ValueError, match="at least one image"):
        export_onnx(model, path, batch=0)
    for export in (export_onnx, export_stablehlo):
        with pytest.raises(ValueError, match="channels=2"):
            export(model, path, channels=2)
        with pytest.raises(ValueError, match="of at least 8 x 8"):
            export(model, path, shape=(4, 100))
        with pytest.raises(TypeError, match="max_keypoint"):
            export(model, path, max_keypoint=3)
    with pytest.raises(ValueError, match="abacus"):
        export_stablehlo(model, path, platforms=["abacus"])
    assert not path.exists()


def test_command(tmp_path, arrays, capsys):
    path = tmp_path / "superpoint.stablehlo"
    assert main(["export", "-o", str(path), "--shape", "120", "160", "--max-keypoints", "20"]) == 0
    assert f"wrote {path} (5." in capsys.readouterr().out
    outputs = jax.export.deserialize(path.read_bytes()).call(arrays[:1], SIZES[:1])
    assert outputs[0].shape == (1, 20, 2)
    assert main(["export", "-o", str(tmp_path / "no" / "folder"), "--shape", "64", "64"]) == 2
    assert "No such file" in capsys.readouterr().err
    assert main(["export", "-o", str(tmp_path / "no" / "folder"), "-f", "onnx", "--beside"]) == 2
    assert "No such file" in capsys.readouterr().err
    assert main(["export", "-o", str(path), "--batch", "2"]) == 2
    assert "--batch is for onnx" in capsys.readouterr().err
    assert main(["export", "-o", str(path), "--max-keypoints", "-1"]) == 2
    assert "at least 1" in capsys.readouterr().err
    assert main(["export", "-o", str(path), "-f", "onnx", "--config", "magicleap"]) == 2
    assert "greedy" in capsys.readouterr().err


def test_the_command_exports_a_matcher_too(model, pairs, tmp_path, capsys):
    sp.save_pretrained(model, tmp_path / "weights")
    random_matcher().save_pretrained(tmp_path / "matcher")
    random_matcher(input_dim=8).save_pretrained(tmp_path / "other")
    command = ["export", "-o", str(tmp_path / "a"), "--weights", str(tmp_path / "weights"), "--shape", "120", "160"]
    command += ["--max-keypoints", "20", "--matcher"]
    assert main([*command, str(tmp_path / "matcher")]) == 0
    outputs = jax.export.deserialize((tmp_path / "a").read_bytes()).call(*pairs)
    assert [output.shape for output in outputs[3:]] == [(2, 2, 20), (2, 20), (2, 20)]
    assert main([*command, "nearest"]) == 0
    assert main([*command, str(tmp_path / "other")]) == 2
    assert "it was trained for another extractor" in capsys.readouterr().err
