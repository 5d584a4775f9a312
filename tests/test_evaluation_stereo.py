"""Matching on rectified stereo pairs, against their disparities."""

import json

import numpy as np
import pytest
from PIL import Image

from superpoint_jax.cli import evaluate as command
from superpoint_jax.cli import main
from superpoint_jax.evaluation import (
    evaluate_stereo,
    make_extractor,
    stereo_pairs,
)
from superpoint_jax.evaluation.stereo import stereo_errors

# Stereo


@pytest.fixture
def stereo_folder(tmp_path, photos):
    """A photo, the same moved by 6 pixels, and a map of disparities that is unknown in its left half."""
    photo = photos["camera"]
    (tmp_path / "scene").mkdir()
    Image.fromarray(photo[:, :300]).save(tmp_path / "scene" / "left.png")
    Image.fromarray(photo[:, 6:306]).save(tmp_path / "scene" / "right.png")
    disparities = np.full((240, 300), 48, np.uint8)
    disparities[:, :150] = 0
    Image.fromarray(disparities).save(tmp_path / "scene" / "disparities.png")
    (tmp_path / "pairs.txt").write_text("scene/left.png scene/right.png scene/disparities.png 8\n\n")
    return tmp_path


def test_stereo_counts_what_the_disparities_say(stereo_folder, tmp_path, capsys):
    command.stereo(stereo_folder, extractors="orb,sift", json=tmp_path / "figures.json")
    assert capsys.readouterr().out.splitlines()[1].startswith("orb ")
    for entry in json.loads((tmp_path / "figures.json").read_text()):
        assert entry["pair"] == "scene"
        assert entry["matches"] > 20
        assert entry["right"][0] > 0.8 * entry["matches"]
    (wrong,) = evaluate_stereo(stereo_folder, {"moved": moved_extractor(1.5)})
    assert wrong.right[0] < 0.1 * wrong.matches
    assert wrong.right[1] > 0.8 * wrong.matches


def moved_extractor(pixels):
    """ORB with the keypoints of every second image moved along the diagonal."""
    calls = []

    def run(image):
        found = dict(make_extractor("orb")(image))
        calls.append(image)
        return found | {"keypoints": found["keypoints"] + np.float32(pixels * (len(calls) % 2 == 0))}

    return run


def test_an_error_is_the_distance_to_where_the_disparity_leads():
    disparities = np.array([[0.0, 2.5, 3.0]])
    left, right = np.array([[1.2, 0.0], [2.0, 0.0], [0.0, 0.0]]), np.array([[-1.3, 0.0], [-1.0, 2.0], [0.0, 0.0]])
    errors_px, known = stereo_errors(left, right, disparities)
    np.testing.assert_allclose(errors_px[:2], [0, 2], atol=1e-12)
    assert known.tolist() == [True, True, False]


def test_a_folder_that_is_no_stereo_says_what_is_needed(tmp_path):
    with pytest.raises(ValueError, match=r"holds no pairs\.txt"):
        stereo_pairs(tmp_path)
    (tmp_path / "pairs.txt").write_text("a.png b.png c.png\n")
    with pytest.raises(ValueError, match=r"pairs\.txt:1: left image, right image, disparities and scale are needed"):
        stereo_pairs(tmp_path)


def test_disparities_of_any_type_are_read_and_odd_ones_are_one_line(stereo_folder, capsys):
    path = stereo_folder / "scene" / "disparities.png"
    (stereo_folder / "pairs.txt").write_text("scene/left.png scene/right.png scene/disparities.png 256\n")
    Image.fromarray(np.full((240, 300), 1536, np.uint16)).save(path)
    (pair,) = stereo_pairs(stereo_folder)
    np.testing.assert_array_equal(pair.disparities, np.full((240, 300), 6.0))

    def said() -> str:
        assert main(["evaluate", "stereo", str(stereo_folder), "--extractors", "orb"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    Image.new("L", (299, 240)).save(path)
    assert f"{path}: 299x240 disparities; the left image scene/left.png has 300x240 pixels" in said()
    Image.new("1", (30_000, 30_000)).save(path)  # Pillow's own limit would be a traceback.
    assert f"{path}: 30000x30000 is 900 million pixels, above the limit of 268 million" in said()
    path.write_bytes(b"none")
    assert f"{path}: not an image of a format that is read here" in said()
