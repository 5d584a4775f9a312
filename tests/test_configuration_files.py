"""config.json and preprocessor_config.json: every field survives, and gray bytes are what the network takes."""

import json

import numpy as np
import pytest

import superpoint_jax as sp
from superpoint_jax.weights import convert
from tests.conftest import SMALL
from tests.random_weights import model_of, random_state

GRAY = {
    "do_grayscale": True,
    "do_normalize": None,
    "do_rescale": True,
    "do_resize": True,
    "image_processor_type": "SuperPointImageProcessorFast",
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": 72, "width": 104},
    "made_by": {"someone": [1, 2.5, None]},
}
UNKNOWN = {"transformers_version": "4.99.0", "torch_dtype": "float32", "id2label": {"0": "corner"}, "note": [1, None]}


@pytest.fixture
def folder(tmp_path):
    """A checkpoint as transformers has it, with fields that mean nothing here."""
    config = sp.SuperPointConfig.preset("huggingface", **SMALL, nms_radius=3)
    folder = sp.save_pretrained(model_of(random_state(0, config), config), tmp_path / "source")
    contents = json.loads((folder / "config.json").read_text())
    del contents["superpoint_jax"]
    (folder / "config.json").write_text(json.dumps({**contents, **UNKNOWN}))
    (folder / "preprocessor_config.json").write_text(json.dumps(GRAY))
    return folder


def read(folder, name):
    return json.loads((folder / name).read_text())


def saved(folder, to):
    return sp.save_pretrained(sp.from_pretrained(folder), to)


@pytest.mark.parametrize("write", [saved, convert])
def test_every_field_of_both_files_survives_saving_and_converting(folder, tmp_path, write):
    again = write(write(folder, tmp_path / "once"), tmp_path / "twice")
    assert read(again, "preprocessor_config.json") == GRAY
    before, after = read(folder, "config.json"), read(again, "config.json")
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"superpoint_jax", "superpoint_jax_origin"}


def test_the_same_keypoints_before_and_after(folder, tmp_path, photos):
    results = []
    for source in (folder, convert(folder, tmp_path / "converted")):
        inputs = sp.SuperPointImageProcessor.from_pretrained(source)(photos["coffee"])
        results.append(sp.extract(sp.from_pretrained(source), inputs.pixel_values, max_keypoints=800))
    assert results[0].mask.sum() > 20
    np.testing.assert_array_equal(results[0].keypoints, results[1].keypoints)


def test_a_lone_file_carries_them_as_well(folder, tmp_path):
    from superpoint_jax.weights import save_weights

    path = save_weights(sp.from_pretrained(folder), tmp_path / "alone.safetensors")
    again = sp.save_pretrained(sp.from_pretrained(path), tmp_path / "again")
    assert read(again, "preprocessor_config.json") == GRAY
    assert read(again, "config.json")["note"] == [1, None]


def test_a_processor_keeps_what_it_does_not_know(folder, tmp_path):
    processor = sp.SuperPointImageProcessor.from_pretrained(folder)
    processor.save_pretrained(tmp_path / "processor")
    after = read(tmp_path / "processor", "preprocessor_config.json")
    assert {name: after[name] for name in GRAY} == GRAY
    assert processor == sp.SuperPointImageProcessor.huggingface(size=GRAY["size"], do_grayscale=True)


def test_other_rules_bring_their_own_processing(folder, tmp_path):
    theirs = sp.save_pretrained(sp.from_pretrained(folder, config="superglue"), tmp_path / "superglue")
    assert read(theirs, "preprocessor_config.json") == sp.SuperPointImageProcessor().to_dict()
    assert read(theirs, "config.json")["note"] == [1, None]


def test_a_processor_that_is_given_is_saved(folder, tmp_path):
    processor = sp.SuperPointImageProcessor.huggingface(do_grayscale=True)
    to = sp.save_pretrained(sp.from_pretrained(folder), tmp_path / "to", processor=processor)
    assert sp.SuperPointImageProcessor.from_pretrained(to) == processor


def test_what_belongs_to_the_rules_is_not_carried(tmp_path, model):
    assert sp.from_pretrained(sp.save_pretrained(model, tmp_path)).config == model.config


def test_transformers_opens_the_result(folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    converted = convert(folder, tmp_path / "converted")
    config = transformers.SuperPointForKeypointDetection.from_pretrained(converted).config
    assert (config.nms_radius, config.note, config.id2label) == (3, [1, None], {0: "corner"})
    processor = transformers.AutoImageProcessor.from_pretrained(converted, use_fast=False)
    assert processor.do_grayscale is True
    assert dict(processor.size) == GRAY["size"]


def test_a_preprocessor_config_that_is_no_object_is_named(folder):
    (folder / "preprocessor_config.json").write_text("[]")
    with pytest.raises(sp.WeightsError, match=r"preprocessor_config\.json does not hold a JSON object"):
        sp.from_pretrained(folder)


@pytest.mark.parametrize("rule", ["luma", "huggingface"])
def test_gray_bytes_give_the_keypoints_of_gray_floats(rule, model, photos):
    processor = sp.SuperPointImageProcessor(grayscale_rule=rule, do_resize=False)
    floats, in_bytes = (processor(photos["coffee"], do_rescale=on).pixel_values for on in (True, False))
    assert in_bytes.dtype == np.uint8
    np.testing.assert_allclose(np.asarray(in_bytes) / 255, floats, atol=0.501 / 255)
    counts = [int(sp.extract(model, pixels).mask.sum()) for pixels in (floats, in_bytes)]
    # Rounding to bytes moves a few scores over the threshold.
    assert min(counts) > 20
    assert abs(counts[0] - counts[1]) <= 0.1 * counts[0]


def test_the_two_gray_rules_agree_to_one_level(photos):
    processor = sp.SuperPointImageProcessor(do_resize=False, do_rescale=False)
    luma, theirs = (
        processor(photos["coffee"], grayscale_rule=rule).pixel_values.astype(int) for rule in ("luma", "huggingface")
    )
    assert np.abs(luma - theirs[..., :1]).max() <= 1


def test_values_far_outside_are_named_where_they_are_known(model, photos):
    floats = photos["camera"][None, ..., None].astype(np.float32)
    with pytest.raises(ValueError, match=r"images have values from .* to 255; \[0, 1\] is needed: divide by 255\?"):
        sp.extract(model, floats)
    holed = floats / 255
    holed[0, 100, 100] = np.nan
    assert sp.extract(model, holed).mask.any()
