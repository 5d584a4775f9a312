"""Wherever matches are made, a LightGlue can make them. A small random one stands in for a trained one."""

import json

import h5py
import jax
import numpy as np
import pytest
from PIL import Image

import superpoint_jax as sp
from superpoint_jax.app.answers import Page
from superpoint_jax.cli import main
from superpoint_jax.evaluation import FeatureMatcher, evaluate_stereo, make_extractors
from superpoint_jax.lightglue import load
from superpoint_jax.lightglue.network import _match
from superpoint_jax.matching import all_pairs
from tests.lightglue_features import make_pair, random_matcher, stacked

SIZES = ((72, 104), (72, 104))


@pytest.fixture(scope="module")
def matcher() -> sp.LightGlue:
    return random_matcher()


@pytest.fixture(scope="module")
def folders(model, matcher, tmp_path_factory) -> dict[str, str]:
    """Folders of a SuperPoint, its matcher, and a matcher of another extractor."""
    folder = tmp_path_factory.mktemp("folders")
    sp.save_pretrained(model, folder / "weights")
    sp.SuperPointImageProcessor().save_pretrained(folder / "weights")
    matcher.save_pretrained(folder / "matcher")
    random_matcher(input_dim=8).save_pretrained(folder / "other")
    return {name: str(folder / name) for name in ("weights", "matcher", "other")}


@pytest.fixture(scope="module")
def pair(photos, tmp_path_factory):
    """Two overlapping crops, 20 px right and 10 px down."""
    folder = tmp_path_factory.mktemp("pair")
    for name, (y, x) in {"a": (0, 0), "b": (10, 20)}.items():
        Image.fromarray(photos["camera"][y : y + 120, x : x + 160]).save(folder / f"{name}.png")
    return folder


def options(folders) -> list[str]:
    return ["--weights", folders["weights"], "--max-keypoints", "120", "--engine", "xla"]


def features_of(pair, model) -> list[sp.Keypoints]:
    return sp.extract_images(model, [pair / "a.png", pair / "b.png"], max_keypoints=120)


# The library


def test_all_pairs_of_a_set_are_matched_as_each_pair_is(matcher):
    (a, b), (c, d) = (make_pair(seed, (30, 27), 16, SIZES) for seed in (0, 1))
    features = stacked(a, b, c, d)
    found = sp.match_pairs(features, matcher=matcher)
    assert found.mask[0].any()
    for row, (i, j) in zip(found, all_pairs(4), strict=True):
        alone = sp.match(features[i : i + 1], features[j : j + 1], matcher=matcher)[0]
        np.testing.assert_array_equal(row.indices, alone.indices)
        np.testing.assert_allclose(row.scores, alone.scores, atol=1e-5)
    strict = sp.match_pairs(features, np.array([[0, 1]]), matcher=matcher, min_score=0.2)
    assert 0 < int(strict.mask.sum()) < int(found.mask[0].sum())
    jitted = jax.jit(sp.match_pairs)(features, matcher=matcher)
    np.testing.assert_array_equal(jitted.indices, found.indices)
    assert sp.match_pairs(features[:1], matcher=matcher).indices.shape == (0, 30)
    with pytest.raises(ValueError, match="ratio: for nearest neighbours only"):
        sp.match_pairs(features, matcher=matcher, ratio=0.8)


def test_a_tracker_follows_what_the_matcher_finds(matcher):
    frames = stacked(*make_pair(0, (30, 27), 16, SIZES))
    matches = sp.match(frames[1], frames[0], matcher=matcher, min_score=0.05)
    tracker = sp.Tracker(matcher=matcher, min_score=0.05)
    tracks = tracker.update(tracker.start(frames[0]), frames[1])
    assert matches.mask.any()
    np.testing.assert_array_equal(tracks.matches.indices, matches.indices)
    np.testing.assert_array_equal(tracker.track(frames).ids[1], tracks.ids)
    # Nearest neighbours with the ratio test are other tracks.
    loose, strict = (sp.Tracker(ratio=ratio).track(frames).matches.mask[1].sum() for ratio in (None, 0.6))
    assert 0 < strict < loose
    with pytest.raises(ValueError, match=r"ratio=0\.0 must be positive"):
        sp.Tracker(ratio=0.0)


# The command line


def test_match_uses_the_matcher(pair, folders, model, matcher, tmp_path, capsys):
    command = ["match", str(pair / "a.png"), str(pair / "b.png"), "--model", "none", *options(folders)]
    command += ["--matcher", folders["matcher"], "--json", str(tmp_path / "m.json"), "-o", str(tmp_path / "m.png")]
    assert main(command) == 0
    a, b = features_of(pair, model)
    expected = sp.match(a, b, matcher=matcher)
    scores = json.loads((tmp_path / "m.json").read_text())["scores"]
    assert len(scores) > 20
    np.testing.assert_allclose(scores, np.asarray(expected.scores)[np.asarray(expected.mask)], atol=1e-4)
    assert main([*command, "--min-score", "0.1"]) == 0
    strict = json.loads((tmp_path / "m.json").read_text())["scores"]
    assert 0 < len(strict) < len(scores)
    assert min(strict) > 0.1


def test_the_ratio_test_of_a_command_leaves_out_what_is_near_the_partner(pair, model, folders, tmp_path):
    a, b = features_of(pair, model)
    command = ["match", str(pair / "a.png"), str(pair / "b.png"), "--json", str(tmp_path / "m.json"), *options(folders)]
    counts = []
    for given, apart in (([], 0.01), (["--ratio-apart", "0"], None), (["--ratio-apart", "0.2"], 0.2)):
        assert main([*command, "--ratio", "0.9", *given]) == 0
        counts.append(len(json.loads((tmp_path / "m.json").read_text())["scores"]))
        assert counts[-1] == int(sp.match(a, b, ratio=0.9, ratio_apart=apart).mask.sum())
    assert 0 < counts[1] <= counts[0] < counts[2]
    assert main([*command, "--ratio-apart", "0.2"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["match", "--ratio", "0.8"], "--ratio: for nearest neighbours only"),
        (
            ["match", "--ratio", "None", "--max-distance", "1"],
            "--ratio and --max-distance: for nearest neighbours only",
        ),
        (["match", "--ratio-apart", "0.02"], "--ratio-apart: for nearest neighbours only"),
        (["track", "--max-distance", "0.7", "-o", "t.mp4"], "--max-distance: for nearest neighbours only"),
        (
            ["extract", "--matches", "exhaustive", "--ratio", "0.85", "-o", "f.db"],
            "--ratio: for nearest neighbours only",
        ),
        (["extract", "-o", "f.db"], "no images are matched"),
        (["match", "--matcher", "{other}"], "takes descriptors of length 8, and those of the weights have 16"),
        (["track", "--matcher", "{other}", "-o", "t.mp4"], "it was trained for another extractor"),
        (["match", "--matcher", "missing"], "missing"),
        (["stitch", "--matcher", "{weights}", "-o", "s.png"], "LightGlue"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_what_makes_no_sense_is_told_in_one_line(arguments, message, pair, folders, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    command, *given = [part.format(**folders) for part in arguments]
    photos = [str(pair / "a.png"), str(pair / "b.png")] if command in ("match", "stitch") else [str(pair)]
    chosen = [] if "--matcher" in given else ["--matcher", folders["matcher"]]
    assert main([command, *photos, *options(folders), *chosen, *given]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("the network is computed")]
    assert message in line


def test_the_matcher_in_the_package_has_a_name(monkeypatch):
    opened = {None: random_matcher(), "folder": random_matcher()}
    monkeypatch.setattr(load, "from_pretrained", opened.__getitem__)
    assert load.choose("nearest") is None
    assert load.choose("lightglue") is opened[None]
    assert load.choose("folder") is opened["folder"]


def test_stitch_uses_the_matcher(pair, folders, model, matcher, tmp_path, capsys):
    a, b = features_of(pair, model)
    strict = float(np.sort(sp.match(a, b, matcher=matcher).scores)[-4])  # Three matches give no homography.
    command = ["stitch", str(pair / "a.png"), str(pair / "b.png"), "-o", str(tmp_path / "s.png"), *options(folders)]
    assert main([*command, "--matcher", folders["matcher"], "--min-score", str(strict)]) == 2
    assert "no homography was found in 3 matches" in capsys.readouterr().err


def test_track_uses_the_matcher(pair, folders, model, matcher, tmp_path):
    tracks = tmp_path / "tracks.json"
    command = ["track", str(pair), "-o", str(tmp_path / "t"), "--json", str(tracks), *options(folders)]
    assert main([*command, "--matcher", folders["matcher"], "--min-score", "0.01"]) == 0
    old = [track for track in json.loads(tracks.read_text())[1]["tracks"] if track["age"] == 1]
    a, b = features_of(pair, model)
    assert len(old) == int(sp.match(b, a, matcher=matcher, min_score=0.01).mask.sum()) > 10


def test_a_colmap_database_has_the_matchers_matches(photos, folders, matcher, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    (tmp_path / "photos").mkdir()
    for i in range(5):  # Ten pairs are a full group of eight and two more.
        crop = photos["camera"][8 * i : 8 * i + 120, 10 * i : 10 * i + 160]
        Image.fromarray(crop).save(tmp_path / "photos" / f"{i}.png")
    command = ["extract", str(tmp_path / "photos"), "--workers", "0", "--devices", "1", *options(folders)]
    assert main([*command, "-o", str(tmp_path / "f.h5")]) == 0
    before = _match._cache_size()
    command += ["--matches", "exhaustive", "--matcher", folders["matcher"], "--min-score", "0.02"]
    assert main([*command, "-o", str(tmp_path / "f.db"), "--json", str(tmp_path / "r.json")]) == 0
    assert _match._cache_size() - before == 1
    assert json.loads((tmp_path / "r.json").read_text())["pairs_tried"] == 10
    database = pycolmap.Database.open(tmp_path / "f.db")
    ids = {image.name: image.image_id for image in database.read_all_images()}
    with h5py.File(tmp_path / "f.h5") as file:
        a, b = (_stored(file[f"{i}.png"]) for i in (3, 4))
    expected = sp.match(a, b, matcher=matcher, min_score=0.02)
    found = database.read_matches(ids["3.png"], ids["4.png"])
    rows = np.flatnonzero(expected.mask)
    assert len(rows) > 10
    np.testing.assert_array_equal(found, np.stack([rows, np.asarray(expected.indices)[rows]], axis=1))
    database.close()


def _stored(group) -> sp.Keypoints:
    count = len(group["scores"])
    return sp.Keypoints(
        keypoints=group["keypoints"][()],
        scores=group["scores"][()],
        descriptors=group["descriptors"][()].T.astype(np.float32),
        mask=np.ones(count, bool),
        num_detected=np.int32(count),
        image_sizes=group["image_size"][()][::-1].astype(np.int32),
    )


# Evaluation and the page


def test_an_evaluation_matches_superpoints_by_the_network_and_opencvs_by_neighbours(
    photos, folders, model, matcher, tmp_path, capsys
):
    scene = tmp_path / "scene"
    scene.mkdir()
    Image.fromarray(photos["camera"][:120, :160]).save(scene / "left.png")
    Image.fromarray(photos["camera"][:120, 6:166]).save(scene / "right.png")
    Image.fromarray(np.full((120, 160), 48, np.uint8)).save(scene / "disparities.png")
    (tmp_path / "pairs.txt").write_text("scene/left.png scene/right.png scene/disparities.png 8\n")
    command = ["evaluate", "stereo", str(tmp_path), "--extractors", "ours,orb", "--json", str(tmp_path / "j.json")]
    assert main([*command, *options(folders), "--matcher", folders["matcher"]]) == 0
    ours, orb = json.loads((tmp_path / "j.json").read_text())
    a, b = sp.extract_images(
        model, [scene / "left.png", scene / "right.png"], max_keypoints=120, keypoint_threshold=0.0, resize=0
    )
    assert ours["matches"] == int(sp.match(a, b, matcher=matcher).mask.sum()) > 20
    extractors = make_extractors("orb", max_keypoints=120)
    (neighbours,) = evaluate_stereo(tmp_path, extractors, max_keypoints=120)
    assert orb["matches"] == neighbours.matches
    tests = {"ratio": 0.9}
    (strict,) = evaluate_stereo(tmp_path, extractors, max_keypoints=120, matcher=FeatureMatcher("strict", None, tests))
    assert 0 < strict.matches < neighbours.matches
    assert main([*command, *options(folders), "--matcher", folders["other"]]) == 2
    assert "descriptors have length 16; this LightGlue takes 8" in capsys.readouterr().err


def test_the_page_has_a_choice_of_matcher(pair, model, matcher, folders):
    page = Page(model, matcher=folders["matcher"])
    assert page.matchers == ("nearest", folders["matcher"])
    photos = [pair / "a.png", pair / "b.png"]
    settings = dict(threshold=page.threshold, max_keypoints=120)
    a, b = features_of(pair, model)
    for name, used in (("nearest", None), (folders["matcher"], matcher)):
        count = int(sp.match(a, b, matcher=used).mask.sum())
        assert f"**{count} matches**" in page.show(photos, **settings, matcher=name).text
    page.close()
    plain = Page(model)
    assert plain.matchers == ("nearest", "lightglue")
    plain.close()


@pytest.mark.parametrize(
    "command",
    ["match", "stitch", "track", "extract", "evaluate hpatches", "evaluate homographies", "evaluate stereo", "app"],
)
def test_the_options_have_one_name_everywhere(command, capsys):
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    printed = capsys.readouterr().out
    names = ["--matcher"] + ["--ratio", "--ratio-apart", "--max-distance", "--min-score"] * (command != "app")
    assert [name for name in names if name not in printed] == []
