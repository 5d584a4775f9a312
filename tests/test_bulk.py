"""Many files: which, in what order, into what, and what is left when something goes wrong."""

import dataclasses
import errno
import itertools
import json
from collections import Counter

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import superpoint_jax as sp
from superpoint_jax.bulk import BulkOptions, extract_files, writing
from superpoint_jax.bulk import parts as parts_module
from superpoint_jax.bulk.hloc import ImageFeatures, names_in, read_features, write_features
from superpoint_jax.bulk.pairs import read_pairs
from superpoint_jax.bulk.parts import Conflict, Parts
from superpoint_jax.bulk.sources import find_images
from superpoint_jax.photos.plan import choose_shapes, make_plan, names_of
from tests.room import render_views

OPTIONS = BulkOptions(
    max_keypoints=30, batch=4, part=4, max_shapes=3, workers=0, devices=1, engine="xla", descriptors="float32"
)


@pytest.fixture
def folder(photos, tmp_path):
    """Ten crops of many sizes, two of the same name in two folders."""
    folder = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for i, name in enumerate(("a.png", "b.jpg", "sub/a.png", "sub/c.png", *(f"{i}.png" for i in range(6)))):
        photo = photos[("camera", "coffee", "chelsea")[i % 3]]
        height, width = rng.integers(40, 130, 2)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo[i : i + height, 2 * i : 2 * i + width]).save(path)
    return folder


@pytest.fixture(scope="module")
def processor():
    return sp.SuperPointImageProcessor()


def _run(folder, output, model, processor, options=OPTIONS, **changes):
    return extract_files(folder, output, model=model, processor=processor, options=options, **changes)


def _contents(path) -> dict[str, ImageFeatures]:
    names = names_in(path)
    return dict(zip(names, read_features(path, names), strict=True))


def assert_equal_files(path, other):
    a, b = _contents(path), _contents(other)
    assert sorted(a) == sorted(b)
    for name, features in a.items():
        for x, y in zip(vars(features).values(), vars(b[name]).values(), strict=True):
            np.testing.assert_array_equal(x, y, err_msg=name)


# Which images


def test_names_keep_their_folders(folder):
    images = find_images(folder)
    assert images.root == folder
    assert len(images.names) == 10
    assert {"a.png", "sub/a.png"} < set(images.names)


def test_lists_and_patterns_name_the_same_images_as_the_folder(folder, tmp_path):
    every = find_images(folder)
    assert find_images(folder / "**" / "*.*").names == tuple(sorted(every.names))
    assert find_images(folder / "**" / "*.*").root == folder
    assert set(find_images(folder / "sub" / "*.png", root=folder).names) == {"sub/a.png", "sub/c.png"}
    (tmp_path / "list.txt").write_text("# hloc\nsub/a.png SIMPLE_RADIAL 640 480 500\n\na.png\nsub/a.png\n")
    assert find_images(tmp_path / "list.txt", root=folder).names == ("sub/a.png", "a.png")
    assert find_images(folder / "a.png").names == ("a.png",)


def test_what_names_no_images_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images"):
        find_images(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no such folder, list of images"):
        find_images(tmp_path / "missing")
    (tmp_path / "list.txt").write_text("../outside.png\n")
    with pytest.raises(ValueError, match="is outside of"):
        find_images(tmp_path / "list.txt")
    (tmp_path / "binary.dat").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="neither an image nor a text file"):
        find_images(tmp_path / "binary.dat")


# The plan

SIZES = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=4), st.tuples(st.integers(8, 900), st.integers(8, 900)), min_size=1
)


@given(SIZES, st.integers(1, 5))
def test_a_plan_has_every_image_once_in_a_shape_that_holds_it(sizes, max_shapes):
    plan = make_plan(sizes, batch=3, part=5, max_shapes=max_shapes)
    batches = [batch for part in plan.parts for batch in part]
    assert Counter(name for part in plan.parts for name in names_of(part)) == Counter(list(sizes))
    assert len({batch.shape for batch in batches}) == len(plan.shapes) <= max_shapes
    for batch in batches:
        assert 1 <= len(batch.names) <= 3
        assert all(side % 64 == 0 for side in batch.shape)
        for name in batch.names:
            assert sizes[name][0] <= batch.shape[0]
            assert sizes[name][1] <= batch.shape[1]
    assert 0 <= plan.padding < 1
    assert plan == make_plan(dict(sorted(sizes.items(), reverse=True)), batch=3, part=5, max_shapes=max_shapes)


def test_shapes_that_cost_least_are_joined():
    # 100 of 64x64 and one each of 128x128 and 128x192: the two rare ones go together.
    sizes = {(64, 64): 100, (100, 100): 1, (100, 150): 1}
    assert choose_shapes(sizes, multiple=64, max_shapes=2) == {
        (64, 64): (64, 64),
        (100, 100): (128, 192),
        (100, 150): (128, 192),
    }


def test_thousands_of_sizes_are_planned_in_a_moment():
    rng = np.random.default_rng(0)
    sizes = {f"{i}": (int(h), int(w)) for i, (h, w) in enumerate(rng.integers(100, 6000, (5000, 2)))}
    plan = make_plan(sizes, batch=8, part=64)
    assert len(plan.shapes) <= 8
    assert sum(plan.shapes.values()) == 5000


# What comes out


def test_every_image_is_what_it_is_alone(folder, model, processor, tmp_path):
    report = _run(folder, tmp_path / "f.h5", model, processor)
    assert (report.extracted, report.before, report.failures, report.finished) == (10, 0, {}, True)
    assert len(report.shapes) <= 3
    assert not (tmp_path / "f.h5.parts").exists()
    found = _contents(tmp_path / "f.h5")
    assert set(found) == set(find_images(folder).names)
    for name, features in found.items():
        pixels = sp.load_image(folder / name)
        gray = processor([pixels], do_rescale=False).pixel_values
        height, width = pixels.shape[:2]
        (alone,) = sp.extract(model, gray[:, :height, :width], max_keypoints=30).to_list()
        assert features.size == (height, width)
        np.testing.assert_array_equal(features.keypoints_xy, alone["keypoints"])
        np.testing.assert_allclose(features.scores, alone["scores"], atol=1e-6)
        np.testing.assert_allclose(features.descriptors, alone["descriptors"], atol=1e-5)


def test_the_file_has_hloc_s_layout(folder, model, processor, tmp_path):
    options = dataclasses.replace(OPTIONS, descriptors="float16", resize=64)
    _run(folder, tmp_path / "f.h5", model, processor, options)
    with h5py.File(tmp_path / "f.h5", "r") as file:
        # As hloc lists names, and reads them.
        names = []
        file.visititems(lambda _, o: names.append(o.parent.name.strip("/")) if isinstance(o, h5py.Dataset) else None)
        assert set(names) == set(find_images(folder).names)
        group = file["sub/a.png"]
        assert set(group) == {"keypoints", "scores", "descriptors", "image_size"}
        keypoints = group["keypoints"].__array__()
        count = len(keypoints)
        assert (keypoints.shape, keypoints.dtype) == ((count, 2), np.float32)
        assert (group["descriptors"].shape, group["descriptors"].dtype) == ((16, count), np.float16)
        assert (group["scores"].shape, group["scores"].dtype) == ((count,), np.float32)
        with Image.open(folder / "sub/a.png") as image:
            width, height = image.size
        assert group["image_size"].__array__().tolist() == [width, height]
        assert group["keypoints"].attrs["uncertainty"] == pytest.approx(2 * max(width, height) / 64, rel=0.02)
        # Of the original images, not of those that were reduced to 64 px.
        assert max(file[name]["keypoints"].__array__().max(initial=0) for name in names) > 90


def test_eight_devices_and_several_processes_give_what_one_does(folder, model, processor, tmp_path):
    _run(folder, tmp_path / "one.h5", model, processor)
    options = dataclasses.replace(OPTIONS, devices=8, batch=8, workers=2)
    assert _run(folder, tmp_path / "eight.h5", model, processor, options).extracted == 10
    one, eight = _contents(tmp_path / "one.h5"), _contents(tmp_path / "eight.h5")
    assert sorted(one) == sorted(eight)
    for name in one:
        np.testing.assert_array_equal(one[name].keypoints_xy, eight[name].keypoints_xy)
        np.testing.assert_allclose(one[name].scores, eight[name].scores, atol=1e-6)
        np.testing.assert_allclose(one[name].descriptors, eight[name].descriptors, atol=1e-5)


def test_shards_together_are_the_whole(folder, model, processor, tmp_path):
    _run(folder, tmp_path / "whole.h5", model, processor)
    counts = [_run(folder, tmp_path / "f.h5", model, processor, shard=(i, 2)) for i in range(2)]
    assert not any(report.finished for report in counts)
    assert not (tmp_path / "f.h5").exists()
    last = _run(folder, tmp_path / "f.h5", model, processor)
    assert (last.before, last.extracted, last.finished) == (10, 0, True)
    assert counts[0].extracted > 0
    assert_equal_files(tmp_path / "f.h5", tmp_path / "whole.h5")


# What goes wrong


@pytest.fixture
def bad_files(folder):
    whole = (folder / "a.png").read_bytes()
    contents = {
        "empty.png": b"",
        "truncated.png": whole[: len(whole) // 2],
        "text.jpg": b"this is no image",
        "noise.png": whole[:60] + bytes(range(200)) * 3,
        "bad/inside.png": b"\x89PNG\r\n\x1a\n",
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    Image.new("L", (3000, 3000)).save(folder / "bomb.png")
    Image.new("L", (90, 5)).save(folder / "flat.png")
    return {*contents, "bomb.png", "flat.png"}


def test_bad_files_are_named_and_lose_nothing(folder, bad_files, model, processor, tmp_path):
    options = dataclasses.replace(OPTIONS, max_pixels=10**6, workers=1)
    report = _run(folder, tmp_path / "f.h5", model, processor, options)
    assert set(report.failures) == bad_files
    assert all("\n" not in reason for reason in report.failures.values())
    assert report.extracted == 10
    assert "above the limit" in report.failures["bomb.png"]
    assert "at least 8" in report.failures["flat.png"]
    assert set(names_in(tmp_path / "f.h5")) == set(find_images(folder).names) - bad_files


def test_only_bad_files_are_an_empty_output(tmp_path, model, processor):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"no")
    report = _run(tmp_path / "photos", tmp_path / "f.h5", model, processor)
    assert (report.extracted, list(report.failures)) == (0, ["a.png"])
    assert names_in(tmp_path / "f.h5") == []


def test_new_images_are_added_and_the_rest_is_not_done_again(folder, photos, model, processor, tmp_path):
    _run(folder, tmp_path / "f.h5", model, processor)
    assert _run(folder, tmp_path / "f.h5", model, processor).extracted == 0
    Image.fromarray(photos["coins"][:90, :100]).save(folder / "new.png")
    report = _run(folder, tmp_path / "f.h5", model, processor)
    assert (report.before, report.extracted) == (10, 1)
    _run(folder, tmp_path / "afresh.h5", model, processor)
    assert sorted(names_in(tmp_path / "f.h5")) == sorted(names_in(tmp_path / "afresh.h5"))


def test_other_options_on_the_same_output_are_refused(folder, model, processor, tmp_path):
    _run(folder, tmp_path / "f.h5", model, processor)
    other = dataclasses.replace(OPTIONS, max_keypoints=20)
    with pytest.raises(Conflict, match=r"config\.max_keypoints was 30 and is 20"):
        _run(folder, tmp_path / "f.h5", model, processor, other)
    # Unfinished, too.
    with Parts(tmp_path / "g.h5.parts", {"config.max_keypoints": 20}) as parts, parts.writing():
        pass
    with pytest.raises(Conflict, match=r"config\.max_keypoints was 20 and is 30"):
        _run(folder, tmp_path / "g.h5", model, processor)
    # How it is computed does not matter.
    same = dataclasses.replace(OPTIONS, batch=2, part=2, max_shapes=1)
    assert _run(folder, tmp_path / "f.h5", model, processor, same).before == 10


def test_files_of_others_are_left_alone(folder, model, processor, tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(Conflict, match="has no checksum of this program"):
        _run(folder, tmp_path / "f.h5", model, processor)
    (tmp_path / "g.h5").write_text("hello")
    with pytest.raises(ValueError, match="has no checksum of this program"):
        _run(folder, tmp_path / "g.h5", model, processor)
    with pytest.raises(ValueError, match=r"\.h5 \(hloc's HDF5\), \.db"):
        _run(folder, tmp_path / "g.txt", model, processor)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        _run(folder, tmp_path / "no" / "g.h5", model, processor)


def test_two_runs_do_not_write_at_once(folder, model, processor, tmp_path):
    _, options = parts_module, {}
    with Parts(tmp_path / "f.h5.parts", options), pytest.raises(Conflict, match="another run is writing here"):
        Parts(tmp_path / "f.h5.parts", options)


def test_a_full_disk_is_told_and_the_same_call_goes_on(folder, model, processor, tmp_path, monkeypatch):
    _run(folder, tmp_path / "whole.h5", model, processor)
    written = 0

    def write(*arguments, **options):
        nonlocal written
        written += 1
        if written == 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_features(*arguments, **options)

    monkeypatch.setattr(writing, "write_features", write)
    with pytest.raises(OSError, match="no space left on the disk; make room, and the same command continues"):
        _run(folder, tmp_path / "f.h5", model, processor)
    assert not (tmp_path / "f.h5").exists()
    kept = [path.name for path in (tmp_path / "f.h5.parts").iterdir()]
    assert "part-00000000.h5" in kept
    assert not any(name.endswith(".tmp") for name in kept)
    report = _run(folder, tmp_path / "f.h5", model, processor)
    assert report.before >= 4
    assert report.before + report.extracted == 10
    assert_equal_files(tmp_path / "f.h5", tmp_path / "whole.h5")


@pytest.mark.parametrize("step", ["os.link", "os.replace", "os.fsync", "copy"])
def test_wherever_it_stops_nothing_is_lost_and_nothing_is_there_twice(
    step, folder, model, processor, tmp_path, monkeypatch
):
    _run(folder, tmp_path / "whole.h5", model, processor)
    reached = 0
    module, name = (h5py.Group, "copy") if step == "copy" else (parts_module.os, step.removeprefix("os."))
    original = getattr(module, name)
    for stop_at in (1, 2, 3):
        reached = 0

        def stopping(*arguments, stop_at=stop_at, **options):
            nonlocal reached
            reached += 1
            if reached == stop_at:
                raise KeyboardInterrupt
            return original(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(module, name, stopping)
            try:
                _run(folder, tmp_path / "f.h5", model, processor)
            except KeyboardInterrupt:
                continue
    _run(folder, tmp_path / "f.h5", model, processor)
    assert_equal_files(tmp_path / "f.h5", tmp_path / "whole.h5")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".f", "f.h5"))] == ["f.h5"]


def test_options_out_of_range_are_told(folder, model, processor, tmp_path):
    for changes, message in (
        (dict(max_keypoints=0), "max_keypoints=0"),
        (dict(resize=3), "resize=3"),
        (dict(batch=0), "batch=0"),
    ):
        with pytest.raises(ValueError, match=message):
            BulkOptions(**changes)
    with pytest.raises(ValueError, match="devices=99; there are 8"):
        _run(folder, tmp_path / "f.h5", model, processor, dataclasses.replace(OPTIONS, devices=99))
    with pytest.raises(ValueError, match="needs a COLMAP database"):
        _run(folder, tmp_path / "f.h5", model, processor, dataclasses.replace(OPTIONS, matches="exhaustive"))
    with pytest.raises(ValueError, match="shard 2 of 2"):
        _run(folder, tmp_path / "f.h5", model, processor, shard=(2, 2))


# Other kinds of output


def test_parquet_has_what_hdf5_has(folder, model, processor, tmp_path, photos):
    import pyarrow.parquet

    _run(folder, tmp_path / "f.h5", model, processor)
    _run(folder, tmp_path / "shards", model, processor)
    assert len(list((tmp_path / "shards").iterdir())) >= 2
    rows = {row["name"]: row for row in pyarrow.parquet.read_table(tmp_path / "shards").to_pylist()}
    expected = _contents(tmp_path / "f.h5")
    assert set(rows) == set(expected)
    for name, features in expected.items():
        assert (rows[name]["height"], rows[name]["width"]) == features.size
        np.testing.assert_array_equal(np.array(rows[name]["keypoints"], np.float32), features.keypoints_xy)
        np.testing.assert_array_equal(np.array(rows[name]["scores"], np.float32), features.scores)
        np.testing.assert_array_equal(np.array(rows[name]["descriptors"], np.float32), features.descriptors)
    Image.fromarray(photos["coins"][:90, :100]).save(folder / "new.png")
    report = _run(folder, tmp_path / "shards", model, processor)
    assert (report.before, report.extracted) == (10, 1)
    assert len(pyarrow.parquet.read_table(tmp_path / "shards")) == 11
    with pytest.raises(Conflict, match=r"config\.max_keypoints was 30 and is 20"):
        _run(folder, tmp_path / "shards", model, processor, dataclasses.replace(OPTIONS, max_keypoints=20))


def test_a_colmap_database_has_keypoints_with_its_origin_and_matches(folder, model, processor, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")

    _run(folder, tmp_path / "f.h5", model, processor)
    options = dataclasses.replace(OPTIONS, matches="sequential", ratio=0.95)
    report = _run(folder, tmp_path / "f.db", model, processor, options)
    assert report.pairs_tried == 45  # All of ten images, because each is within ten of every other.
    database = pycolmap.Database.open(tmp_path / "f.db")
    images = {image.name: image for image in database.read_all_images()}
    expected = _contents(tmp_path / "f.h5")
    assert set(images) == set(expected)
    for name, features in expected.items():
        keypoints = database.read_keypoints(images[name].image_id)
        np.testing.assert_allclose(keypoints[:, :2], features.keypoints_xy + 0.5)
        camera = database.read_camera(images[name].camera_id)
        assert (camera.height, camera.width) == features.size
    names = sorted(expected)
    a, b = names[:2]
    found = database.read_matches(images[a].image_id, images[b].image_id)
    similarity = expected[a].descriptors @ expected[b].descriptors.T
    nearest = similarity.argmax(1)
    distances = np.sqrt(np.maximum(2 - 2 * np.sort(similarity, axis=1), 0))
    passed = distances[:, -1] < 0.95 * distances[:, -2]
    mutual = similarity.argmax(0)[nearest] == np.arange(len(similarity))
    rows = np.flatnonzero(mutual & passed)
    assert 0 < len(rows) < mutual.sum()
    np.testing.assert_array_equal(found, np.stack([rows, nearest[rows]], axis=1))
    database.close()
    assert _run(folder, tmp_path / "f.db", model, processor, options) == dataclasses.replace(
        report, extracted=0, before=10
    )
    with pytest.raises(Conflict, match=r"ratio was 0\.95 and is 0\.9"):
        _run(folder, tmp_path / "f.db", model, processor, dataclasses.replace(options, ratio=0.9))
    (folder / "a.png").rename(folder / "z.png")
    with pytest.raises(Conflict, match=r"was made from another a\.png"):
        _run(folder, tmp_path / "f.db", model, processor, options)
    (folder / "a.png").symlink_to(folder / "z.png")
    with pytest.raises(Conflict, match=r"exists without z\.png; a database is not extended"):
        _run(folder, tmp_path / "f.db", model, processor, options)


@pytest.fixture(scope="module")
def views_and_others(photos, tmp_path_factory):
    """Four views of one room, v0.png to v3.png, in a folder with four unrelated photos."""
    folder = tmp_path_factory.mktemp("views") / "photos"
    render_views(folder, photos)
    for i in range(8):
        path = folder / f"{i}.png"
        path.rename(folder / f"v{i}.png") if i < 4 else path.unlink()
    for name in ("camera", "chelsea", "rocket", "motorcycle"):
        Image.fromarray(photos[name]).save(folder / f"{name}.png")
    return folder


def _verified(path) -> dict[tuple[str, str], int]:
    """The number of verified matches of each pair of images that has a two-view geometry in a database."""
    import pycolmap

    database = pycolmap.Database.open(path)
    names = {image.image_id: image.name for image in database.read_all_images()}
    pairs, counts = database.read_two_view_geometry_num_inliers()
    database.close()
    ids = map(pycolmap.pair_id_to_image_pair, pairs)
    return {tuple(sorted((names[a], names[b]))): count for (a, b), count in zip(ids, counts, strict=True)}


def test_only_views_of_one_scene_become_verified_pairs(views_and_others, processor, tmp_path):
    pytest.importorskip("pycolmap")
    options = BulkOptions(max_keypoints=600, matches="exhaustive", workers=0, devices=1, engine="xla")
    ours = sp.from_pretrained()
    report = _run(views_and_others, tmp_path / "f.db", ours, processor, options)
    assert (report.pairs_tried, report.pairs_verified) == (28, 6)
    verified = _verified(tmp_path / "f.db")
    assert set(verified) == set(itertools.combinations([f"v{i}.png" for i in range(4)], 2))
    assert min(verified.values()) >= 15
    # With a demand that no pair meets, none is written; the next views of the room have most matches, below 600.
    strict = dataclasses.replace(options, min_verified=601)
    assert _run(views_and_others, tmp_path / "strict.db", ours, processor, strict).pairs_verified == 0
    assert _verified(tmp_path / "strict.db") == {}
    # Without any test, as it once was, photos that share nothing are verified too.
    loose = dataclasses.replace(options, ratio=None)
    assert _run(views_and_others, tmp_path / "loose.db", ours, processor, loose).pairs_verified > 6


def test_a_list_of_pairs_says_what_is_matched(folder, model, processor, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("sub/a.png a.png\n\n# a comment\n0.png 1.png\na.png sub/a.png\n")
    options = dataclasses.replace(OPTIONS, pairs=pairs, ratio=None)
    assert _run(folder, tmp_path / "f.db", model, processor, options).pairs_tried == 2
    database = pycolmap.Database.open(tmp_path / "f.db")
    ids = {image.name: image.image_id for image in database.read_all_images()}
    assert database.num_matched_image_pairs() == 2
    assert len(database.read_matches(ids["sub/a.png"], ids["a.png"])) > 0
    assert len(database.read_matches(ids["0.png"], ids["1.png"])) > 0
    database.close()


def test_names_with_spaces_are_paired(tmp_path):
    (tmp_path / "pairs.txt").write_text("my photo 1.jpg my photo 2.jpg\n")
    assert read_pairs(tmp_path / "pairs.txt", ["my photo 1.jpg", "my photo 2.jpg"]) == [
        ("my photo 1.jpg", "my photo 2.jpg")
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png b.jpg\na.png gone.png\n", "line 2: there is no image 'gone.png'"),
        ("x.png y.png\n", "line 1: there is no image 'x.png' and no image 'y.png'"),
        ("a.png\n", "line 1: 'a.png' is one name; two names of images are needed"),
        ("a.png a.png\n", "line 1: 'a.png' is paired with itself"),
        ("a.png b.jpg 0.png\n", "line 1: there is no image 'a.png b.jpg 0.png'"),
        ("# nothing\n", "no pairs"),
    ],
)
def test_a_wrong_list_of_pairs_is_told_before_the_work(text, message, folder, model, processor, tmp_path):
    (tmp_path / "pairs.txt").write_text(text)
    options = dataclasses.replace(OPTIONS, pairs=tmp_path / "pairs.txt")
    with pytest.raises(ValueError, match=message):
        _run(folder, tmp_path / "f.db", model, processor, options)
    assert not (tmp_path / "f.db.parts").exists()


def test_a_pair_with_an_image_that_can_not_be_read_is_left_out(folder, model, processor, tmp_path):
    pytest.importorskip("pycolmap")
    (folder / "bad.png").write_bytes(b"no image")
    (tmp_path / "pairs.txt").write_text("a.png b.jpg\na.png bad.png\n")
    options = dataclasses.replace(OPTIONS, pairs=tmp_path / "pairs.txt")
    report = _run(folder, tmp_path / "f.db", model, processor, options)
    assert (report.pairs_tried, list(report.failures)) == (1, ["bad.png"])


def test_the_command_says_how_many_pairs_were_verified(folder, model, tmp_path, capsys):
    pytest.importorskip("pycolmap")
    from superpoint_jax.cli import main

    sp.save_pretrained(model, tmp_path / "weights")
    arguments = ["extract", str(folder), "-o", str(tmp_path / "f.db"), "--weights", str(tmp_path / "weights")]
    arguments += ["--max-keypoints", "20", "--workers", "0", "--devices", "1", "--json", str(tmp_path / "report.json")]
    for wrong, message in (
        (["--ratio", "2"], "ratio=2.0; above 0 and at most 1 is needed"),
        (["--min-verified", "0"], "min_verified=0; at least 1"),
        (["--min-score", "2"], "min_score=2.0; a cosine"),
        (["--max-distance", "0"], "max_distance=0.0; a positive number"),
        (["--matches", "sequential", "--pairs", "p.txt"], "exclude each other"),
        (["--pairs", str(tmp_path / "gone.txt")], "No such file"),
    ):
        assert main([*arguments, *wrong]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
        assert message in line
    assert main([*arguments, "--matches", "exhaustive", "--max-distance", "0.7", "--min-score", "0.8"]) == 0
    assert "45 pairs of images tried, 0 verified (with at least 15 matches" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["pairs_tried"], report["pairs_verified"]) == (45, 0)


def test_the_command_reports_what_failed(folder, bad_files, model, tmp_path, capsys):
    from superpoint_jax.cli import main

    sp.save_pretrained(model, tmp_path / "weights")
    arguments = ["extract", str(folder), "-o", str(tmp_path / "f.h5"), "--weights", str(tmp_path / "weights")]
    arguments += ["--max-keypoints", "20", "--workers", "0", "--max-pixels", "1000000", "--devices", "1"]
    assert main([*arguments, "--json", str(tmp_path / "report.json")]) == 2
    captured = capsys.readouterr()
    assert "10 images extracted, 0 before, 7 failed" in captured.out
    assert "padding" in captured.out
    errors = [line for line in captured.err.splitlines() if line.startswith("superpoint-jax: error: ")]
    assert len(errors) == 7
    assert set(json.loads((tmp_path / "report.json").read_text())["failures"]) == bad_files
    assert main([*arguments, "--max-keypoints", "21"]) == 2
    assert "config.max_keypoints was 20 and is 21" in capsys.readouterr().err
