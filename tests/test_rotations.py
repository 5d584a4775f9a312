"""Matching of photos of which one is turned."""

import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

import superpoint_jax as sp
from superpoint_jax.cli import main
from superpoint_jax.estimation import Estimate
from superpoint_jax.matching import stacked
from superpoint_jax.photos.rotations import best_rotation, turned_images
from superpoint_jax.refinement import REACH_PX


@pytest.fixture(scope="module")
def bundled():
    return sp.from_pretrained(max_keypoints=150)


@pytest.fixture(scope="module")
def photo(photos):
    return photos["camera"][20:148, 60:236]


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_turned_photo_is_matched_and_its_places_are_its_own(degrees, bundled, photo):
    pytest.importorskip("cv2")
    given = np.rot90(photo, degrees // 90)
    a, found = sp.match_rotations(bundled, photo, given)
    assert found.degrees == (360 - degrees) % 360  # Turned on until the photo is upright.
    assert found.keypoints.image_sizes.tolist() == list(given.shape)
    inliers = np.flatnonzero(found.estimate.inliers)
    assert len(inliers) > 0.95 * len(a.mask) > 100
    # Where np.rot90 takes each place.
    height, width = photo.shape
    turn = {0: lambda x, y: (x, y), 90: lambda x, y: (y, width - 1 - x)}
    turn |= {180: lambda x, y: (width - 1 - x, height - 1 - y), 270: lambda x, y: (height - 1 - y, x)}
    expected = np.stack(turn[degrees](*a.keypoints[inliers].T), axis=1)
    places = found.keypoints.keypoints[np.asarray(found.matches.indices)[inliers]]
    assert np.linalg.norm(places - expected, axis=1).max() < 3
    np.testing.assert_allclose(places, expected, atol=0.01) if degrees == 0 else None
    corners = np.array([[0, 0, 1], [width - 1, 0, 1], [0, height - 1, 1]])
    warped = corners @ found.estimate.matrix.T
    np.testing.assert_allclose(warped[:, :2] / warped[:, 2:], [turn[degrees](x, y) for x, y, _ in corners], atol=0.3)


def test_turned_images_are_turned_counter_clockwise(photo):
    for turns, image in enumerate(turned_images(photo, 4)):
        np.testing.assert_array_equal(image, np.rot90(photo, turns))
    assert len(turned_images(photo, 1)) == 1
    np.testing.assert_array_equal(turned_images(photo, 2)[1], photo[::-1, ::-1])


def test_the_batch_gives_what_single_pairs_give_and_the_first_of_equals_wins(bundled, photo):
    a, *turned = sp.extract_images(bundled, [photo, *turned_images(photo, 4)])
    batch = sp.match(stacked([a]), stacked(turned))
    for index, one in enumerate(turned):
        alone = sp.match(a, one)
        np.testing.assert_array_equal(np.asarray(batch.indices)[index, : len(a.mask)], alone.indices)
    with pytest.raises(ValueError, match=r"rotations=3; 1, 2 \(upside down too\) or 4"):
        best_rotation(a, turned[:3])
    equal = Estimate(matrix=np.eye(3), inliers=np.ones(len(a.mask), bool), found=np.ones((), bool))
    matched = partial(sp.match, ratio=0.9)
    best = best_rotation(a, turned, matched=matched, estimate=lambda *_: equal)
    assert best.degrees == 0
    np.testing.assert_array_equal(best.matches.indices, matched(a, turned[0]).indices)


def test_the_command_says_how_the_photo_is_turned(photo, tmp_path, capsys):
    pytest.importorskip("cv2")
    (tmp_path / "masks").mkdir()
    Image.fromarray(photo).save(tmp_path / "a.png")
    Image.fromarray(np.rot90(photo)).save(tmp_path / "b.png")
    command = ["match", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--json", str(tmp_path / "f.json")]
    options = ["--max-keypoints", "150", "--engine", "xla"]
    assert main([*command, *options, "--rotations", "4", "-o", str(tmp_path / "drawn.png")]) == 0
    assert "b.png fits best when it is turned by 270 degrees counter-clockwise" in capsys.readouterr().out
    turned = json.loads((tmp_path / "f.json").read_text())
    assert turned["rotation_degrees"] == 270
    assert turned["images"][1]["width"] == 128
    assert sum(turned["inliers"]) > 100
    # A mask lies on the photo as it is given: only the upper half of the turned photo.
    mask = np.zeros((176, 128), np.uint8)
    mask[:88] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / "b.png.png")
    assert main([*command, *options, "--rotations", "4", "--masks", str(tmp_path / "masks")]) == 0
    masked = json.loads((tmp_path / "f.json").read_text())
    assert masked["rotation_degrees"] == 270
    # Peaks lie in the mask, and the refinement head moves a keypoint by less than its reach.
    assert max(y for _, y in masked["points_b"]) < 87 + REACH_PX
    assert main([*command, *options]) == 0
    plain = json.loads((tmp_path / "f.json").read_text())
    assert plain["rotation_degrees"] == 0
    assert sum(plain["inliers"]) < 30
