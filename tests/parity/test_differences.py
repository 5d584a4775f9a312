"""Each row of the table "What differs" in docs/from_huggingface.md: what transformers does, and what is done here."""

import importlib.util
import re
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import superpoint_jax as sp
import superpoint_jax.huggingface as hf
from tests.parity.test_transformers_suite import Pil, batch, pair
from tests.parity.torchvision_way import processor_class

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PAGE = Path(__file__).parents[2] / "docs" / "from_huggingface.md"
ROWS = {
    "`torch.no_grad()` switches": "test_no_gradients_are_recorded",
    "the model takes torch": "test_torch_in_torch_out_else_jax",
    "`return_tensors` is": "test_kinds_of_arrays",
    "pixel_values are": "test_channels_last_and_bytes",
    "`data_format` has": "test_data_format",
    "the number of rows": "test_rows_under_jit",
    "options of the configuration": "test_options_are_read_at_every_call",
    "`max_keypoints=0`": "test_no_keypoints_wanted",
    "unknown arguments": "test_unknown_arguments",
    "floats from 0 to 255": "test_values_from_0_to_255",
    "floats in [0, 1]": "test_floats_are_divided_again",
    "an unknown filter": "test_an_unknown_filter",
    "before torchvision 0.27": "test_lanczos",
    "the indices of a palette": "test_a_palette",
    "gray and coloured": "test_gray_among_coloured",
    "images are downloaded": "test_addresses",
    "`AutoModel` refuses": "test_auto_model",
    "`proxies` is": "test_proxies",
    '`dtype="float16"`': "test_float16",
    "random weights": "test_random_weights",
    "among equal scores": "test_equal_scores",
    "there is no training": "test_training",
    "a model is a": "test_a_model_is_a_pytree",
}


def test_every_row_is_tested():
    section = PAGE.read_text(encoding="utf-8").split("## What differs")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \|", section, re.MULTILINE)[1:]
    rows = [row for row in rows if not row.startswith("---")]
    assert len(rows) == len(ROWS)
    for row, beginning in zip(rows, ROWS, strict=True):
        assert row.startswith(beginning)
    assert set(ROWS.values()) <= {name for name, value in globals().items() if isinstance(value, types.FunctionType)}


def test_no_gradients_are_recorded():
    mine, other = (model(batch()).scores.requires_grad for model in pair())
    assert (mine, other) == (False, True)


def test_torch_in_torch_out_else_jax():
    mine, other = pair()
    assert isinstance(mine(batch()).scores, torch.Tensor)
    for pixels in (batch().numpy(), jnp.asarray(batch().numpy())):
        assert isinstance(mine(pixels).scores, jax.Array)
        with pytest.raises(TypeError):
            other(pixels)


def test_kinds_of_arrays(photos):
    assert isinstance(hf.SuperPointImageProcessorPil()(photos["coffee"]).pixel_values, jax.Array)
    assert isinstance(Pil()(photos["coffee"]).pixel_values, list)
    for kind, expected in (("pt", torch.Tensor), ("np", np.ndarray), ("jax", jax.Array)):
        for cls in (hf.SuperPointImageProcessor, hf.SuperPointImageProcessorPil):
            assert isinstance(cls()(photos["coffee"], return_tensors=kind).pixel_values, expected)
    images = [photos["coffee"], photos["astronaut"]]
    assert isinstance(hf.SuperPointImageProcessorPil(do_resize=False)(images).pixel_values, list)


def test_channels_last_and_bytes():
    mine, other = pair()
    in_bytes = (batch() * 255).to(torch.uint8)
    expected = mine(in_bytes.float() / 255).keypoints
    assert torch.equal(mine(in_bytes).keypoints, expected)
    assert torch.equal(mine(torch.movedim(in_bytes, 1, -1)).keypoints, expected)
    with pytest.raises(RuntimeError):
        other(in_bytes)


def test_data_format(photos):
    options = dict(return_tensors="np", data_format="channels_last")
    assert hf.SuperPointImageProcessorPil()(photos["coffee"], **options).pixel_values.shape == (1, 480, 640, 3)
    assert Pil()(photos["coffee"], **options).pixel_values.shape == (1, 3, 480, 640)


def test_rows_under_jit():
    mine, _ = pair()
    inside = jax.jit(lambda pixels: mine(pixels, max_keypoints=200))(batch().numpy())
    assert inside.keypoints.shape[1] == 200
    assert mine(batch(), max_keypoints=200).keypoints.shape[1] == inside.mask.sum(1).max() < 200


def test_options_are_read_at_every_call():
    mine, other = (type(model)(type(model.config)(**vars_of(model))) for model in pair())
    for model in (mine, other):
        model.config.max_keypoints = 3
    assert mine(batch()).keypoints.shape[1] == 3
    assert mine(batch(), max_keypoints=2).keypoints.shape[1] == 2
    assert other(batch()).keypoints.shape[1] > 3


def vars_of(model):
    """The sizes of a model's network."""
    names = ("encoder_hidden_sizes", "decoder_hidden_size", "descriptor_decoder_dim")
    return {name: getattr(model.config, name) for name in names}


def test_no_keypoints_wanted():
    config = transformers.SuperPointConfig(max_keypoints=0)
    assert transformers.SuperPointForKeypointDetection(config)(batch()).keypoints.shape[1] == 0
    with pytest.raises(ValueError, match="max_keypoints=0 must be positive, or -1"):
        hf.SuperPointConfig(max_keypoints=0)


def test_unknown_arguments():
    mine, other = pair()
    other(batch(), nonsense=1)
    with pytest.raises(TypeError, match="unknown option nonsense"):
        mine(batch(), nonsense=1)


def test_values_from_0_to_255():
    mine, other = pair()
    other(255 * batch())
    with pytest.raises(ValueError, match="leave do_rescale on"):
        mine(255 * batch())


def test_floats_are_divided_again(photos):
    floats = photos["coffee"] / np.float32(255)
    expected = Pil()(floats, return_tensors="np").pixel_values
    assert expected.max() <= 1 / 255
    with pytest.warns(UserWarning, match="once more"):
        actual = hf.SuperPointImageProcessorPil()(floats, return_tensors="np").pixel_values
    np.testing.assert_array_equal(actual, expected)


def test_an_unknown_filter(photos):
    Pil()(photos["coffee"], resample="sharp")
    with pytest.raises(ValueError, match="resample='sharp' is not a filter of Pillow"):
        hf.SuperPointImageProcessorPil()(photos["coffee"], resample="sharp")


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="which has Lanczos, if it is new")
def test_lanczos(photos):
    options = dict(return_tensors="np", size={"height": 97, "width": 131})
    photo = photos["coffee"].copy()
    theirs = np.asarray(processor_class()(resample=1)(photo, **options).pixel_values)
    bicubic = hf.SuperPointImageProcessor(resample=3)(photo, **options).pixel_values
    lanczos = hf.SuperPointImageProcessor(resample=1)(photo, **options).pixel_values
    on_host = hf.SuperPointImageProcessorPil(resample=1)(photo, **options).pixel_values
    np.testing.assert_array_equal(bicubic, theirs)
    np.testing.assert_allclose(lanczos, on_host, atol=1.01 / 255)
    assert np.abs(lanczos - bicubic).max() > 5 / 255


def test_a_palette(photos):
    palette = Image.fromarray(photos["coffee"]).convert("P")
    assert Pil()(palette, return_tensors="np").pixel_values.shape[1] == 1
    assert hf.SuperPointImageProcessorPil()(palette).pixel_values.shape[1] == 3


def test_gray_among_coloured(photos):
    images = [Image.fromarray(photos[name]) for name in ("camera", "coffee")]
    assert np.asarray(Pil()(images, return_tensors="np").pixel_values).dtype == object
    assert hf.SuperPointImageProcessorPil()(images).pixel_values.shape == (2, 3, 480, 640)


def test_addresses(photos, tmp_path):
    with pytest.raises(ValueError, match="nothing is downloaded here"):
        hf.SuperPointImageProcessorPil()("http://images.example.org/1.jpg")
    path = tmp_path / "photo.png"
    Image.fromarray(photos["coffee"]).save(path)
    expected = Pil()(str(path), return_tensors="np").pixel_values
    np.testing.assert_array_equal(hf.SuperPointImageProcessorPil()(str(path)).pixel_values, expected)


def test_auto_model():
    mine, other = pair()
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        transformers.AutoModel.from_config(other.config)
    assert transformers.AutoModelForKeypointDetection.from_config(other.config)
    for auto in (hf.AutoModel, hf.AutoModelForKeypointDetection):
        assert auto.from_config(mine.config).num_parameters() == other.num_parameters()


def test_proxies():
    with pytest.raises(ValueError, match="set HTTPS_PROXY"):
        hf.SuperPointConfig.from_pretrained("owner/name", proxies={"https": "http://127.0.0.1:9"})


def test_float16(tmp_path):
    mine, _ = pair()
    mine.save_pretrained(tmp_path)
    theirs = transformers.SuperPointForKeypointDetection.from_pretrained(tmp_path, dtype=torch.float16)
    ours = hf.SuperPointForKeypointDetection.from_pretrained(tmp_path, dtype=torch.float16)
    assert (theirs.dtype, ours.dtype) == (torch.float16, np.float32)
    assert ours.config.to_superpoint_jax().dtype == "float16"
    assert ours(batch()).scores.dtype == torch.float32


def test_random_weights():
    theirs = transformers.SuperPointForKeypointDetection(transformers.SuperPointConfig())(batch())
    assert theirs.scores.max() < 0.02
    assert hf.SuperPointForKeypointDetection(hf.SuperPointConfig())(batch()).scores.max() > 0.02


def test_equal_scores():
    mine, _ = pair()
    tile = batch()[:1, :, :24, :24]
    tiled = tile.repeat(1, 1, 3, 3)  # The same nine times: the inner ones tie.
    found = mine(tiled, max_keypoints=30)
    scores, keypoints = found.scores[0], found.keypoints[0] * 72
    tied = (scores[1:] == scores[:-1]).nonzero().flatten()
    raster = keypoints[:, 1].round() * 72 + keypoints[:, 0].round()
    assert all(raster[i] < raster[i + 1] for i in tied)


def test_training():
    mine, other = pair()
    for model in (mine, other):
        with pytest.raises(ValueError, match="train"):
            model(batch(), labels=torch.zeros(3))
    with pytest.raises(ValueError, match=r"superpoint_jax\.training"):
        mine.train()


def test_a_model_is_a_pytree():
    mine, other = pair()
    assert isinstance(other, torch.nn.Module)
    assert isinstance(mine.model, sp.SuperPoint)
    assert len(jax.tree.leaves(mine)) == len(jax.tree.leaves(mine.model))


# Different aspects in one batch


def test_the_folder_of_the_package_keeps_the_aspect_in_transformers_and_makes_no_array(tmp_path, photos):
    images = [photos["coffee"], photos["astronaut"]]
    sp.save_pretrained(sp.from_pretrained(), tmp_path / "kept")
    opened = transformers.AutoImageProcessor.from_pretrained(tmp_path / "kept", backend="pil")
    assert [image.shape for image in opened(images).pixel_values] == [(3, 682, 1024), (3, 1024, 787)]
    with pytest.raises(ValueError, match="inhomogeneous"):
        opened(images, return_tensors="pt")


def test_the_options_under_which_both_agree(tmp_path, photos):
    images = [photos["coffee"], photos["astronaut"]]
    processor = sp.SuperPointImageProcessor.huggingface(do_grayscale=True)
    folder = sp.save_pretrained(sp.from_pretrained(), tmp_path / "squashed", processor=processor)
    opened = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    expected = opened(images, return_tensors="np").pixel_values
    door = hf.AutoImageProcessor.from_pretrained(folder, backend="pil")(images).pixel_values
    own = sp.SuperPointImageProcessor.from_pretrained(folder)(images).pixel_values
    np.testing.assert_allclose(door, expected, rtol=2e-7)
    np.testing.assert_allclose(np.moveaxis(np.asarray(own), -1, 1), expected, rtol=2e-7)
