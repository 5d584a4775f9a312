"""Figures on cases computed by hand and on random points, where chance has a closed form; then the protocol."""

import dataclasses
import json
import math

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from superpoint_jax import extract, geometry
from superpoint_jax.cli import evaluate as command
from superpoint_jax.cli.arguments import Extraction
from superpoint_jax.evaluation import (
    Evaluation,
    Pair,
    PairResult,
    detector,
    evaluate_homographies,
    evaluate_hpatches,
    evaluate_pairs,
    evaluate_shapes,
    homography_pairs,
    make_extractor,
    metrics,
    orb_extractor,
    pair_figures,
    plot,
    save_json,
    sequence_pairs,
    shapes_table,
    sift_extractor,
    superpoint_extractor,
    table,
    validation_metrics,
)
from superpoint_jax.evaluation.datasets import read_homography
from superpoint_jax.evaluation.protocol import compare
from superpoint_jax.matching import match
from superpoint_jax.training.synthetic import render_shapes
from superpoint_jax.weights import save_pretrained
from tests.evaluation_cases import HOMOGRAPHY, keypoints_batch, translation, unit

# Folders


def _write_sequence(folder, photo, *, names="{}.ppm", homography="H_1_{}", count=3):
    """A photo and views of it shifted by 6 pixels each, in a folder."""
    folder.mkdir(parents=True)
    height, width = photo.shape[0] - 40, photo.shape[1] - 40
    for k in range(1, count + 1):
        shift = 6 * (k - 1)
        Image.fromarray(photo[shift : shift + height, shift : shift + width]).save(folder / names.format(k))
        if k > 1:
            rows = 2 * translation(-shift, -shift)  # Any multiple is the same homography.
            (folder / homography.format(k)).write_text("\n".join(" ".join(map(str, row)) for row in rows))


@pytest.fixture
def sequences(tmp_path, photos):
    folder = tmp_path / "hpatches"
    _write_sequence(folder / "v_camera", photos["camera"])
    _write_sequence(folder / "i_coffee", photos["coffee"], count=2)
    return folder


def test_hpatches_layout(sequences):
    pairs = sequence_pairs(sequences)
    assert [(pair.name, pair.group) for pair in pairs] == [
        ("i_coffee/1-2", "i"),
        ("v_camera/1-2", "v"),
        ("v_camera/1-3", "v"),
    ]
    assert pairs[2].image_b == sequences / "v_camera" / "3.ppm"
    np.testing.assert_allclose(pairs[2].homography, translation(-12, -12))


@pytest.mark.parametrize("homography", ["H_1_{}", "H_1_{}.txt", "H1to{}p"])
def test_oxford_layout(tmp_path, photos, homography):
    _write_sequence(tmp_path / "o" / "bark", photos["coins"], names="img{}.png", homography=homography)
    pairs = sequence_pairs(tmp_path / "o")
    assert [(pair.name, pair.group) for pair in pairs] == [("bark/1-2", "bark"), ("bark/1-3", "bark")]
    # The folder of one sequence does too.
    alone = sequence_pairs(tmp_path / "o" / "bark")
    assert [pair.image_b for pair in alone] == [pair.image_b for pair in pairs]


def test_what_is_wrong_with_a_folder_is_said(tmp_path, sequences):
    with pytest.raises(ValueError, match="is not a folder"):
        sequence_pairs(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="contains no sequences"):
        sequence_pairs(tmp_path / "empty")
    (sequences / "v_camera" / "2.ppm").unlink()
    with pytest.raises(ValueError, match=r"v_camera contains a homography but no image 2"):
        sequence_pairs(sequences)


@pytest.mark.parametrize("text", ["1 0 0 0 1 0 0 0", "1 0 0 0 1 0 0 0 x", "1 0 0 0 1 0 0 0 0", "1 0 0 0 nan 0 0 0 1"])
def test_damaged_homography_is_refused(tmp_path, text):
    (tmp_path / "H_1_2").write_text(text)
    with pytest.raises(ValueError, match="H_1_2 is not a homography"):
        read_homography(tmp_path / "H_1_2")


@pytest.fixture
def photo_folder(tmp_path, photos):
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    Image.fromarray(photos["coffee"]).save(folder / "coffee.png")
    Image.fromarray(photos["camera"]).save(folder / "deeper" / "camera.png")
    (folder / "broken.jpg").write_bytes(b"no photo")
    return folder


def test_homography_pairs_are_what_they_say(photo_folder, caplog):
    pairs = list(homography_pairs(photo_folder, per_photo=2, long_side=160))
    assert [pair.name for pair in pairs] == [
        "coffee.png/0",
        "coffee.png/1",
        "deeper/camera.png/0",
        "deeper/camera.png/1",
    ]
    assert "broken.jpg" in caplog.text
    for pair in pairs:
        assert pair.image_a.shape == pair.image_b.shape
        assert max(pair.image_a.shape) == 160
        height, width = pair.image_a.shape
        warped = cv2.warpPerspective(pair.image_a, pair.homography, (width, height), borderMode=cv2.BORDER_REFLECT)
        inner = cv2.warpPerspective(np.full((height, width), 255, np.uint8), pair.homography, (width, height)) == 255
        # OpenCV interpolates in steps of 1/32 px, so steep edges differ by several grey levels.
        difference = np.abs(warped.astype(int) - pair.image_b)[inner]
        assert inner.mean() > 0.3
        assert difference.mean() < 1


def test_homography_pairs_follow_their_seed(photo_folder):
    def pairs(**options):
        return list(homography_pairs(photo_folder, long_side=96, limit=1, **options))

    (first,), (again,), (other,) = pairs(), pairs(), pairs(seed=1)
    np.testing.assert_array_equal(first.image_b, again.image_b)
    assert np.abs(first.homography - other.homography).max() > 1e-3
    (dark,) = pairs(change=lambda key, images: images / 2)
    np.testing.assert_allclose(dark.image_b, first.image_b / 2, atol=1)


def test_folder_without_a_readable_photo_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="holds no photos"):
        next(homography_pairs(tmp_path))
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    with pytest.raises(ValueError, match="none of the photos can be read"):
        next(homography_pairs(tmp_path))


# Extractors


def test_orb_descriptors_keep_the_hamming_distance(photos):
    features = orb_extractor(max_keypoints=50)(photos["camera"])
    detector = cv2.ORB_create(nfeatures=50)
    _, bits = detector.detectAndCompute(photos["camera"], None)
    hamming = [[cv2.norm(x, y, cv2.NORM_HAMMING) for y in bits[:9]] for x in bits[:9]]
    descriptors = features["descriptors"][:9]
    np.testing.assert_array_equal(descriptors @ descriptors.T, 1 - np.array(hamming) / 128)


@pytest.mark.parametrize("build", [sift_extractor, orb_extractor])
def test_opencv_extractors_give_unit_descriptors_and_survive_a_blank_image(build, photos):
    features = build(max_keypoints=100)(photos["coffee"])
    assert len(features["keypoints"]) == len(features["scores"]) == len(features["descriptors"]) > 50
    np.testing.assert_allclose(np.linalg.norm(features["descriptors"], axis=1), 1, atol=1e-5)
    blank = build()(np.full((64, 96), 128, np.uint8))
    assert blank["keypoints"].shape == (0, 2)
    assert blank["descriptors"].shape == (0, features["descriptors"].shape[1])


def test_padding_changes_nothing(model, photos):
    photo = photos["astronaut"]
    padded, alone = (superpoint_extractor(model, max_keypoints=80, pad_multiple=n)(photo) for n in (64, 1))
    assert len(alone["keypoints"]) == 80
    np.testing.assert_array_equal(padded["keypoints"].round(3), alone["keypoints"].round(3))
    # Another shape, another order of sums.
    np.testing.assert_allclose(padded["descriptors"], alone["descriptors"], atol=1e-5)


def test_threshold_zero_fills_the_count(model, photos):
    photo = photos["camera"][:64, :96]
    own = superpoint_extractor(model, max_keypoints=40, keypoint_threshold=None)
    strict = superpoint_extractor(model, max_keypoints=40, keypoint_threshold=0.9)
    filled = superpoint_extractor(model, max_keypoints=40)
    assert len(strict(photo)["keypoints"]) < len(own(photo)["keypoints"]) <= len(filled(photo)["keypoints"]) == 40


def test_checkpoints_are_extractors(tmp_path, model, photos):
    save_pretrained(model, tmp_path / "checkpoint")
    expected = superpoint_extractor(model, max_keypoints=30)(photos["camera"])
    for arguments in (dict(name=str(tmp_path / "checkpoint")), dict(name="ours", weights=str(tmp_path / "checkpoint"))):
        features = make_extractor(**arguments, max_keypoints=30)(photos["camera"])
        np.testing.assert_array_equal(features["keypoints"], expected["keypoints"])


# Protocol


def test_a_perfect_extractor_has_perfect_figures():
    """It knows the points of the original images; the protocol halves those, and must follow the pixel centres."""
    rng = np.random.default_rng(7)
    images = [np.full((96, 160), value, np.uint8) for value in (10, 20, 30)]
    truth_a = rng.uniform(20, 80, (60, 2))
    truths = {
        10: truth_a,
        20: metrics.warp_points(HOMOGRAPHY, truth_a),
        30: metrics.warp_points(translation(2, 5), truth_a),
    }
    descriptors = unit(*rng.normal(size=(60, 32)))
    calls = []

    def oracle(image):
        value = int(image[0, 0])
        calls.append(value)
        points = (truths[value] + 0.5) / 2 - 0.5 if image.shape == (48, 80) else None
        return {"keypoints": points, "scores": np.linspace(1, 0, 60), "descriptors": descriptors}

    pairs = [
        Pair("2", "v", images[0], images[1], HOMOGRAPHY),
        Pair("3", "i", images[0], images[2], translation(2, 5)),
    ]
    result = evaluate_pairs(oracle, pairs, long_side=80, max_keypoints=50)
    assert calls == [10, 20, 30]
    for pair in result.pairs:
        assert pair.keypoints == (50, 50)
        assert pair.visible == (50, 50)
        assert (pair.matches, pair.repeatability, pair.matching_score, pair.nn_map) == (50, 1, 1, 1)
        assert pair.matching_accuracy == (1,) * 10
        # What is left is float64's rounding.
        assert pair.localization_error < 1e-9
        assert pair.homography_error < 1e-4
    assert result.groups() == ["v", "i"]


def test_points_that_the_other_image_cannot_show_do_not_count():
    """b is a shifted to the left by 10 px: it does not show x < 9.5 of a, nor a its own x > 19.5."""
    a = {"keypoints": np.array([[4.0, 10.0], [15.0, 10.0], [25.0, 12.0]]), "descriptors": np.eye(4)[:3]}
    b = {"keypoints": np.array([[6.0, 10.0], [25.0, 3.0], [2.0, 19.0]]), "descriptors": np.eye(4)[[1, 2, 3]]}
    figures = compare(a, b, translation(-10, 0), (20, 30), (20, 30))
    assert figures["visible"] == (2, 2)
    # (15,10) -> (5,10), 1 px from (6,10); (25,12) -> (15,12) and (2,19) have no partner.
    assert figures["repeatability"] == pytest.approx(2 / 4)
    assert figures["localization_error"] == pytest.approx(1)
    # Mutual matches: 1-0 (right) and 2-1 (wrong). Both halves of the score are one of two.
    assert figures["matches"] == 2
    assert figures["matching_accuracy"][2] == pytest.approx(1 / 2)
    assert figures["matching_score"] == pytest.approx(1 / 2)
    assert figures["homography_error"] == math.inf


def test_no_pairs_are_an_error():
    with pytest.raises(ValueError, match="no pairs"):
        evaluate_pairs(lambda image: {}, [])


def test_opencv_on_shifted_photos_is_nearly_perfect(sequences):
    extractors = {"sift": sift_extractor(max_keypoints=300), "orb": orb_extractor(max_keypoints=300)}
    for evaluation in evaluate_hpatches(sequences, extractors, max_keypoints=300):
        mean = evaluation.summary()
        # The same pixels, shifted by whole ones: what is lost is lost at the borders.
        assert mean["repeatability"] > 0.75
        assert mean["matching_accuracy_3px"] > 0.75
        assert mean["homography_accuracy_1px"] == 1
        assert evaluation.groups() == ["i", "v"]


def test_network_on_warped_photos(photo_folder, random_model):
    model = random_model(0, refinement="soft_argmax", sampling_rule="centered")
    extractors = {"ours": superpoint_extractor(model, max_keypoints=200)}
    options = dict(scale=(0.95, 1.05), rotation=0.02, perspective=0.02)
    (result,) = evaluate_homographies(photo_folder, extractors, pair_options=options, long_side=160, max_keypoints=200)
    assert [pair.name for pair in result.pairs] == ["coffee.png/0", "deeper/camera.png/0"]
    random_points = 1 - (1 - math.pi * 9 / (110 * 160)) ** 200
    # Untrained, but a function of the image: far above random points under a slight warp.
    assert result.summary()["repeatability"] > 1.5 * random_points
    assert result.summary()["matching_accuracy_3px"] > 0.1


# Reports


def _result(name, group, **changes) -> PairResult:
    figures = dict(
        keypoints=(100, 80),
        visible=(90, 70),
        matches=40,
        repeatability=0.5,
        localization_error=1.0,
        matching_score=0.3,
        nn_map=0.4,
        matching_accuracy=tuple(k / 10 for k in range(1, 11)),
        homography_error=2.0,
    )
    return PairResult(name=name, group=group, **{**figures, **changes})


@pytest.fixture
def evaluation() -> Evaluation:
    lost = dict(repeatability=0.0, localization_error=math.nan, homography_error=math.inf)
    pairs = (_result("a/1-2", "i"), _result("b/1-2", "v"), _result("b/1-3", "v", **lost))
    return Evaluation(extractor="sift", protocol={"threshold_px": 3.0}, pairs=pairs, seconds_per_image=0.02)


def test_means_by_group(evaluation):
    mean = evaluation.summary()
    assert mean["pairs"] == 3
    assert mean["keypoints"] == 90
    assert mean["repeatability"] == pytest.approx(1 / 3)
    assert mean["localization_error"] == 1  # Over the pairs that have one.
    assert [mean[f"matching_accuracy_{t}px"] for t in (1, 3, 5)] == pytest.approx([0.1, 0.3, 0.5])
    assert [mean[f"homography_accuracy_{t}px"] for t in (1, 3, 5)] == pytest.approx([0, 2 / 3, 2 / 3])
    assert evaluation.summary("v")["repeatability"] == pytest.approx(0.25)


def test_table_shows_all_pairs_and_each_group(evaluation):
    text = table([evaluation, dataclasses.replace(evaluation, extractor="a/very/long/path/to/some/checkpoint")])
    lines = text.splitlines()
    assert [line for line in lines if line.endswith("pairs)")] == ["all (3 pairs)", "i (1 pairs)", "v (2 pairs)"]
    assert lines[2].split()[:3] == ["sift", "0.333", "1.00"]
    assert "0.000 0.667 0.667" in lines[2]
    assert len({len(line) for line in lines if line.startswith(("sift", "…"))}) == 1


def test_json_is_strict(tmp_path, evaluation):
    save_json([evaluation], tmp_path / "figures.json")

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    (content,) = json.loads((tmp_path / "figures.json").read_text(), parse_constant=refuse)
    assert content["pairs"][2]["homography_error"] is None
    assert content["mean"]["repeatability"] == pytest.approx(1 / 3)
    assert content["groups"]["i"]["pairs"] == 1


def test_plot_shows_the_curves(tmp_path, evaluation):
    figure = plot([evaluation], tmp_path / "figures.png")
    matching, homography, _ = figure.axes
    np.testing.assert_allclose(matching.lines[0].get_ydata(), np.arange(1, 11) / 10)
    np.testing.assert_allclose(homography.lines[0].get_ydata(), [0] + [2 / 3] * 9)
    with Image.open(tmp_path / "figures.png") as image:
        assert image.size == (1800, 540)


# Validation on the device


@pytest.mark.parametrize("homography", [translation(-10, 3), HOMOGRAPHY, np.linalg.inv(HOMOGRAPHY)])
def test_device_figures_are_those_of_numpy(homography):
    rng = np.random.default_rng(8)
    size = (60, 90)
    points_a = rng.uniform(0, [90, 60], (50, 2)).astype(np.float32)
    points_b = metrics.warp_points(homography, points_a[:45]) + rng.normal(scale=2, size=(45, 2))
    points_b = points_b[metrics.inside(points_b, size)].astype(np.float32)
    descriptors = [unit(*rng.normal(size=(n, 6))).astype(np.float32) for n in (50, len(points_b))]
    descriptors[1][::2] = descriptors[0][: len(points_b) : 2]
    expected = compare(
        dict(keypoints=points_a, descriptors=descriptors[0]),
        dict(keypoints=points_b, descriptors=descriptors[1]),
        homography,
        size,
        size,
    )
    a, b = (keypoints_batch(x, d, size, rows=56) for x, d in zip((points_a, points_b), descriptors, strict=True))
    figures = pair_figures(a, b, match(a, b), jnp.asarray(homography[None], jnp.float32))
    figures = {name: float(values[0]) for name, values in figures.items()}
    assert figures["matches"] == expected["matches"] > 10
    assert 0.2 < expected["repeatability"] < 1
    assert 0 < expected["matching_score"] < 1
    # Counts are equal; their ratios are float32, and a distance of 2 px has 1e-5 px of rounding.
    for name in ("repeatability", "matching_score"):
        assert figures[name] == pytest.approx(expected[name], abs=1e-6)
    assert figures["localization_error"] == pytest.approx(expected["localization_error"], abs=1e-4)
    for px in (1, 3, 5):
        assert figures[f"matching_accuracy_{px}px"] == pytest.approx(expected["matching_accuracy"][px - 1], abs=1e-6)


def test_device_figures_without_keypoints_are_zero_or_nan():
    nothing = keypoints_batch(np.zeros((0, 2)), np.zeros((0, 6)), (20, 30), rows=4)
    figures = pair_figures(nothing, nothing, match(nothing, nothing), jnp.eye(3)[None])
    assert math.isnan(figures.pop("localization_error")[0])
    assert all(float(values[0]) == 0 for values in figures.values())


def test_validation_under_the_identity_is_perfect(model, images):
    figures = validation_metrics(model, images, jnp.broadcast_to(jnp.eye(3), (2, 3, 3)), max_keypoints=40)
    assert figures["keypoints"] == 40
    for name in ("repeatability", "matching_accuracy_1px", "matching_score", "homography_accuracy_1px"):
        assert figures[name] == 1, name
    assert figures["localization_error"] == 0


def test_validation_does_not_depend_on_the_batch_size(model, gray_photos):
    photos = [gray_photos[name][40:104, 20:116] for name in ("camera", "coffee", "chelsea")]
    images = jnp.asarray(np.stack(photos)[..., None])
    homographies = geometry.sample_homographies(jax.random.key(0), 3, (64, 96), scale=(0.9, 1.1), rotation=0.1)
    # Four at a time would be three; two at a time fills up the second batch with the first photo.
    together, apart = (validation_metrics(model, images, homographies, max_keypoints=30, batch_size=n) for n in (4, 2))
    assert together == pytest.approx(apart, abs=1e-6)
    assert set(together) == {
        *("keypoints", "matches", "repeatability", "localization_error", "matching_score"),
        *(f"{what}_accuracy_{px}px" for what in ("matching", "homography") for px in (1, 3, 5)),
    }


def test_validation_of_given_views(model, images):
    identity = jnp.broadcast_to(jnp.eye(3), (2, 3, 3))
    same = validation_metrics(model, images, identity, views=images, max_keypoints=40, homography=False)
    assert same["repeatability"] == 1
    assert "homography_accuracy_1px" not in same
    swapped = validation_metrics(model, images, identity, views=images[::-1], max_keypoints=40, homography=False)
    assert swapped["repeatability"] < 0.8


# Command line


def test_shapes_found_exactly_nearly_and_at_random(monkeypatch):
    """Each extractor is told what is drawn: the corners, the corners 2 px off, the corners 4 px off, or chance."""
    drawn = []

    def render(key, **options):
        shapes = render_shapes(key, **options)
        drawn.extend(
            np.asarray(xy)[np.asarray(m)] for xy, m in zip(shapes.corners_xy, shapes.corners_mask, strict=True)
        )
        return shapes

    monkeypatch.setattr(detector, "render_shapes", render)

    def told(offset):
        seen = iter(range(1000))

        def extract(image):
            assert image.dtype == np.uint8
            assert image.shape == (120, 160)
            points = drawn[next(seen)] + np.array([offset, 0])
            return {"keypoints": points, "scores": np.ones(len(points)), "descriptors": np.zeros((len(points), 1))}

        return extract

    def chance(image):
        points = np.random.default_rng(image.sum()).uniform(0, (159, 119), (50, 2))
        return {"keypoints": points, "scores": np.arange(50.0), "descriptors": np.zeros((50, 1))}

    extractors = {"exact": told(0), "near": told(2), "far": told(4), "chance": chance}
    results = evaluate_shapes(extractors, images=30, shape=(120, 160), strengths=(0.0,), batch=20)
    figures = {result.extractor: result for result in results}
    assert all(result.images == 30 for result in results)
    assert figures["exact"].average_precision == pytest.approx(1)
    assert figures["exact"].localization_error == pytest.approx(0, abs=1e-6)
    assert figures["near"].localization_error <= 2.0 + 1e-6
    assert figures["near"].average_precision > 0.95  # corners within 3 px of others may be taken by them
    assert figures["far"].average_precision < 0.5
    # Of 50 points, each is within 3 px of one of about 10 corners with a chance of 10 * 28 / 19200.
    assert figures["chance"].average_precision < 0.1
    assert np.isnan(figures["exact"].by_kind["ellipses"])
    assert figures["exact"].by_kind["star"] == pytest.approx(1)
    text = shapes_table(results)
    assert "ellipses" not in text
    assert "exact" in text
    assert text.count("\n") == 4


def test_command_on_shapes_writes_json(tmp_path, capsys):
    command.main(
        [
            "shapes",
            "--images",
            "4",
            "--shape",
            "64",
            "96",
            "--extractors",
            "ours,orb",
            "--json",
            str(tmp_path / "s.json"),
        ]
    )
    assert "mAP" in capsys.readouterr().out
    content = json.loads((tmp_path / "s.json").read_text())
    assert [(row["extractor"], row["photometric"]) for row in content] == [
        ("ours", 0.0), ("orb", 0.0), ("ours", 1.0), ("orb", 1.0)
    ]  # fmt: skip
    assert 0 < content[0]["average_precision"] <= 1


def test_command_prints_the_table_and_writes_both_files(sequences, tmp_path, capsys, random_model):
    save_pretrained(random_model(1), tmp_path / "weights")
    command.hpatches(
        sequences,
        extraction=Extraction(weights=str(tmp_path / "weights"), max_keypoints=100, keypoint_threshold=0.0),
        extractors="ours, orb",
        json=tmp_path / "figures.json",
        plot=tmp_path / "figures.svg",
    )
    printed = capsys.readouterr().out
    assert "all (3 pairs)" in printed
    assert [entry["extractor"] for entry in json.loads((tmp_path / "figures.json").read_text())] == ["ours", "orb"]
    assert (tmp_path / "figures.svg").stat().st_size > 1000


def test_command_on_photos(photo_folder, capsys):
    command.homographies(
        photo_folder, extraction=Extraction(resize=128), extractors="orb", photos=1, per_photo=2, photometric=0.5
    )
    assert "all (2 pairs)" in capsys.readouterr().out


def test_command_needs_an_extractor(sequences):
    with pytest.raises(ValueError, match="contains no name; give for example ours,sift,orb"):
        command.hpatches(sequences, extractors=" ,")


def test_extraction_alone_is_what_the_extractor_gives(model, photos):
    photo = photos["coffee"]
    expected = extract(model, jnp.asarray(photo[None]), max_keypoints=20, keypoint_threshold=0.0).to_list()[0]
    features = superpoint_extractor(model, max_keypoints=20, pad_multiple=1)(photo)
    np.testing.assert_array_equal(features["keypoints"], expected["keypoints"])
