"""The command line as its users meet it: what it prints, writes and refuses. A small random model stands in."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import superpoint_jax as sp
from superpoint_jax import cli, geometry
from superpoint_jax.cli import main
from superpoint_jax.cli.saving import picture_paths
from superpoint_jax.example import example_homography


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("weights")
    sp.save_pretrained(model, folder)
    sp.SuperPointImageProcessor().save_pretrained(folder)  # not Hugging Face's 480x640, but the size of the image
    return str(folder)


@pytest.fixture
def photo(photos, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(photos["camera"][:120, :180]).save(path)
    return path


def errors_of(capsys) -> list[str]:
    """The lines on stderr, but for the one that names the engine; none of them part of a traceback."""
    lines = capsys.readouterr().err.splitlines()
    assert not any("Traceback" in line for line in lines)
    return [line for line in lines if not line.startswith("the network is computed by")]


def test_detect_prints_draws_and_writes_what_extract_finds(photo, weights, model, tmp_path, capsys):
    picture, found_json = tmp_path / "out.png", tmp_path / "out.json"
    arguments = ["--weights", weights, "--max-keypoints", "30", "--json", str(found_json), "--descriptors"]
    assert main(["detect", str(photo), "-o", str(picture), *arguments]) == 0
    (entry,) = json.loads(found_json.read_text())
    # The image alone, without padding and files: the command line's padding to 64 must not show.
    with Image.open(photo) as image:
        pixels = jnp.asarray(np.asarray(image))[None, ..., None]
    expected = sp.extract(model, pixels, max_keypoints=30)[0]
    assert (entry["image"], entry["width"], entry["height"]) == (str(photo), 180, 120)
    assert entry["num_detected"] == int(expected.num_detected) > 30
    # JSON keeps thousandths of a pixel. The processor rounds 1/255 once more than the model: 1e-7 of the input.
    np.testing.assert_allclose(entry["keypoints"], expected.keypoints, atol=5.1e-4)
    np.testing.assert_allclose(entry["scores"], expected.scores, atol=1e-5)
    np.testing.assert_allclose(entry["descriptors"], expected.descriptors, atol=1e-5)
    printed = capsys.readouterr().out
    assert printed == f"{photo}: 180x120, 30 of {entry['num_detected']} keypoints -> {picture}\n"
    with Image.open(picture) as drawn:
        assert drawn.size == (960, 640)
        assert len(np.unique(np.asarray(drawn.convert("RGB")).reshape(-1, 3), axis=0)) > 1000


def test_without_options_only_a_line_is_printed(photo, weights, tmp_path, capsys):
    before = set(tmp_path.iterdir())
    assert main(["detect", str(photo), "--weights", weights]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


def test_images_that_are_none_are_told_and_the_others_still_run(photo, weights, tmp_path, capsys):
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:500])
    (tmp_path / "empty.png").touch()
    names = ["text.png", "cut.png", "photo.png", "empty.png", "missing.png", "."]
    paths = [str(tmp_path / name) for name in names]
    assert (
        main(["detect", *paths, "--weights", weights, "-o", str(tmp_path / "drawn"), "--json", paths[0] + ".json"]) == 2
    )
    output = capsys.readouterr()
    assert [line.split(":")[0] for line in output.out.splitlines()] == [str(photo)]
    errors = [line for line in output.err.splitlines() if "error:" in line]
    assert len(errors) == 5
    for error, path in zip(errors, [*paths[:2], *paths[3:]], strict=True):
        assert error.startswith(f"superpoint-jax: error: {path.removesuffix('/.')}")
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["photo.png"]
    assert [entry["image"] for entry in json.loads((tmp_path / "text.png.json").read_text())] == [str(photo)]


def test_pictures_of_one_name_are_numbered(photo, tmp_path):
    paths = picture_paths([photo, photo, tmp_path / "photo-2.jpg", photo], tmp_path / "drawn")
    assert [path and path.name for path in paths] == ["photo.png", "photo-2.png", "photo-2-2.png", "photo-3.png"]
    assert picture_paths([photo], tmp_path / "a.jpg") == [tmp_path / "a.jpg"]
    assert picture_paths([photo], tmp_path / "drawn") == [tmp_path / "drawn" / "photo.png"]
    assert picture_paths([photo], None) == [None]


def test_several_images_do_not_go_to_one_picture(photo, weights, tmp_path, capsys):
    assert main(["detect", str(photo), str(photo), "-o", str(tmp_path / "a.png"), "--weights", weights]) == 2
    assert "several images need a folder" in errors_of(capsys)[0]


@pytest.mark.parametrize("mode", ["exif", "16 bit", "palette", "alpha", "rgb"])
def test_every_kind_of_image_gives_coordinates_of_the_upright_original(mode, photos, weights, tmp_path, capsys):
    gray = Image.fromarray(photos["camera"][:120, :180])
    path = tmp_path / "image.png"
    if mode == "exif":
        exif = Image.Exif()
        exif[0x0112] = 6  # stored lying on its side; a quarter turn clockwise sets it upright
        gray.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    elif mode == "16 bit":
        Image.fromarray(np.asarray(gray).astype(np.uint16) * 257).save(path)
    else:
        gray.convert({"palette": "P", "alpha": "LA", "rgb": "RGB"}[mode]).save(path)
    gray.save(tmp_path / "gray.png")
    found = tmp_path / "found.json"
    arguments = ["--weights", weights, "--max-keypoints", "20", "--json", str(found)]
    assert main(["detect", str(tmp_path / "gray.png"), str(path), *arguments]) == 0
    expected, entry = json.loads(found.read_text())
    assert (entry["width"], entry["height"]) == (180, 120)
    # The weights of luma sum to 1 to rounding alone, so RGB may move a score by 1e-6 and a refined peak with it.
    np.testing.assert_allclose(entry["keypoints"], expected["keypoints"], atol=2e-3)


@pytest.mark.slow
def test_coordinates_of_a_reduced_image_are_those_of_the_original(photos, weights, tmp_path):
    """Twice the processor's 1024 px: found at half size, told at full size."""
    small = Image.fromarray(photos["camera"][:96]).resize((1024, 307))
    large = small.resize((2048, 614), Image.Resampling.BOX)  # each pixel doubled, so that halving gives it back
    for name, image in (("small", small), ("large", large)):
        image.save(tmp_path / f"{name}.png")
    found = tmp_path / "found.json"
    paths = [str(tmp_path / "small.png"), str(tmp_path / "large.png")]
    assert main(["detect", *paths, "--weights", weights, "--max-keypoints", "100", "--json", str(found)]) == 0
    at_half, at_full = (np.array(entry["keypoints"]) for entry in json.loads(found.read_text()))
    distances = np.linalg.norm(at_full[:, None] - (2 * at_half + 0.5), axis=-1).min(axis=1)
    # Pillow's antialiased bilinear filter blurs a little, which moves or loses some peaks and not the rest.
    assert np.median(distances) < 1


def test_demo_counts_what_the_homography_says(weights, tmp_path, capsys):
    picture = tmp_path / "demo.png"
    assert main(["demo", "--weights", weights, "-o", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    correct, total = (int(word) for word in (lines[1].split()[0], lines[1].split()[2]))
    assert 0 < total <= 1024
    assert 0 <= correct <= total
    assert lines[2] == f"wrote {picture}"
    with Image.open(picture) as drawn:
        assert drawn.size == (1024, 600)


def test_all_of_the_demo_s_second_view_is_in_the_photo():
    homography = example_homography(600, 512)
    _, valid = geometry.warp_images(jnp.ones((1, 600, 512, 1)), homography[None])
    assert valid.all()
    corners = jnp.array([[0.0, 0], [511, 0], [0, 599], [511, 599]])
    source = geometry.warp_points(geometry.inverse(homography), corners)
    assert ((source >= 0) & (source <= jnp.array([[511.0, 599]]))).all()
    assert jnp.abs(source - corners).max() > 50


def test_convert_writes_a_folder_that_computes_the_same(weights, photo, tmp_path, capsys):
    assert main(["convert", f"{weights}/model.safetensors", "-o", str(tmp_path / "converted")]) == 0
    assert capsys.readouterr().out == f"{weights}/model.safetensors -> {tmp_path / 'converted'}\n"
    with Image.open(photo) as image:
        pixels = jnp.asarray(np.asarray(image))[None, ..., None]
    expected = sp.extract(sp.from_pretrained(weights), pixels, max_keypoints=20)
    result = sp.extract(sp.from_pretrained(tmp_path / "converted"), pixels, max_keypoints=20)
    np.testing.assert_array_equal(result.keypoints, expected.keypoints)


@pytest.mark.parametrize("command", [["detect", "{photo}"], ["demo"], ["convert"]], ids=lambda command: command[0])
@pytest.mark.parametrize("fault", ["missing", "empty", "foreign", "truncated"])
def test_bad_weights_are_an_error_without_a_traceback(command, fault, photo, weights, tmp_path, capsys):
    path = tmp_path / "bad.safetensors"
    if fault == "truncated":
        with open(f"{weights}/model.safetensors", "rb") as file:
            path.write_bytes(file.read(2000))
    elif fault != "missing":
        path.write_bytes(b"" if fault == "empty" else b"hello, this is no tensor file" * 10)
    arguments = [part.format(photo=photo) for part in command]
    source = [str(path), "-o", str(tmp_path / "c")] if command == ["convert"] else ["--weights", str(path)]
    assert main([*arguments, *source]) == 2
    errors = errors_of(capsys)
    assert errors[0].startswith("superpoint-jax: error: ")
    assert "bad.safetensors" in errors[0]


def test_outputs_that_cannot_be_written_are_told(photo, weights, tmp_path, capsys):
    missing = tmp_path / "missing"
    for option in (
        ["-o", str(missing / "a.png")],
        ["--json", str(missing / "a.json")],
        ["-o", str(tmp_path / "a.xyz")],
    ):
        assert main(["detect", str(photo), "--weights", weights, *option]) == 2
        (error,) = errors_of(capsys)
        assert "a." in error or "xyz" in error
    assert main(["detect", str(photo), "-o", str(photo / "folder"), "--weights", weights]) == 2
    assert "photo.png" in errors_of(capsys)[0]


def test_options_out_of_range_are_told(photo, weights, capsys):
    assert main(["detect", str(photo), "--weights", weights, "--max-keypoints", "0"]) == 2
    assert "max_keypoints=0" in errors_of(capsys)[0]
    assert main(["detect"]) == 2
    assert "no image was given" in errors_of(capsys)[0]
    with pytest.raises(SystemExit) as exit_:
        main(["detect", str(photo), "--no-such-option"])
    assert exit_.value.code == 2


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("superpoint-jax 0.")
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    assert "detect" in capsys.readouterr().out


@pytest.mark.slow
def test_the_process_exits_with_the_code():
    run = [sys.executable, "-c", "import sys; from superpoint_jax.cli import main; sys.exit(main())", "detect"]
    finished = subprocess.run(run, capture_output=True, text=True, timeout=300, check=False)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr == "superpoint-jax: error: no image was given: superpoint-jax detect IMAGE...\n"


@pytest.mark.parametrize("where", ["folder", "file", "json"])
def test_no_image_is_overwritten(where, photo, weights, capsys):
    before = photo.read_bytes()
    output = {"folder": ["-o", str(photo.parent)], "file": ["-o", str(photo)], "json": ["--json", str(photo)]}[where]
    assert main(["detect", str(photo), "--weights", weights, *output]) == 2
    (line,) = errors_of(capsys)
    assert line.endswith("photo.png is one of the images and would be overwritten; choose another output")
    assert photo.read_bytes() == before


def test_an_output_that_has_no_place_is_told_before_the_work(photo, tmp_path, capsys):
    for place, message in ((tmp_path / "no" / "out.json", "no such folder"), (tmp_path, "is a folder")):
        # Weights that do not exist would be the next complaint.
        assert main(["detect", str(photo), "--weights", "missing", "--json", str(place)]) == 2
        (line,) = errors_of(capsys)
        assert message in line


def test_more_keypoints_than_pixels_are_no_trouble(photo, weights, capsys):
    assert main(["detect", str(photo), "--weights", weights, "--max-keypoints", "2000000000"]) == 0
    assert main(["detect", str(photo), "--weights", weights, "--max-keypoints", str(10**20)]) == 2
    (line,) = errors_of(capsys)
    assert "must be positive, or -1" in line


def test_weights_alone_get_the_processing_of_their_configuration(photo, weights, tmp_path, capsys):
    folder = tmp_path / "alone"
    folder.mkdir()
    for name in ("model.safetensors", "config.json"):
        (folder / name).write_bytes((Path(weights) / name).read_bytes())
    for source in (folder, folder / "model.safetensors"):
        assert main(["detect", str(photo), "--weights", str(source)]) == 0
        assert "180x120" in capsys.readouterr().out


def test_a_strange_name_is_still_one_line(tmp_path, weights, capsys):
    assert main(["detect", str(tmp_path / "two\nlines.png"), "--weights", weights]) == 2
    assert len(errors_of(capsys)) == 1


@pytest.fixture
def pair(photos, tmp_path):
    """Two overlapping crops, 20 px right and 10 px down."""
    paths = tmp_path / "a.png", tmp_path / "b.png"
    for path, (y, x) in zip(paths, ((0, 0), (10, 20)), strict=True):
        Image.fromarray(photos["camera"][y : y + 150, x : x + 200]).save(path)
    return paths


def test_match_prints_draws_and_writes_the_homography(pair, tmp_path, capsys):
    picture, found_json = tmp_path / "m.png", tmp_path / "m.json"
    assert main(["match", *map(str, pair), "-o", str(picture), "--json", str(found_json)]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(found_json.read_text())
    corners = jnp.array([[0.0, 0], [199, 0], [0, 149], [199, 149]])
    there = geometry.warp_points(jnp.array(found["matrix"]), corners)
    # A keypoint's pixel is a pixel or two off where the cells of the network fall otherwise.
    np.testing.assert_allclose(there, corners - jnp.array([[20, 10]]), atol=2)
    matches, inliers = len(found["scores"]), sum(found["inliers"])
    assert lines[0].endswith(f"{matches} matches")
    assert lines[1] == f"{inliers} inliers of the homography"
    np.testing.assert_allclose([[float(x) for x in line.split()] for line in lines[2:5]], found["matrix"], rtol=1e-7)
    assert lines[5] == f"wrote {picture}"
    assert inliers > 50
    a, b = np.array(found["points_a"]), np.array(found["points_b"])
    error = np.linalg.norm(a - [20, 10] - b, axis=1)[found["inliers"]]
    assert error.max() < 4
    assert found["images"][0] == {
        "image": str(pair[0]),
        "width": 200,
        "height": 150,
        "keypoints": int(lines[0].split()[-6]),
    }
    with Image.open(picture) as drawn:
        assert drawn.size == (960, 360)


@pytest.mark.parametrize("model", ["fundamental", "none"])
def test_match_takes_other_models_and_images_without_any(model, pair, tmp_path, capsys):
    black = tmp_path / "black.png"
    Image.fromarray(np.zeros((60, 80), np.uint8)).save(black)
    picture, found_json = tmp_path / "m.png", tmp_path / "m.json"
    options = ["--model", model, "-o", str(picture), "--json", str(found_json)]
    assert main(["match", *map(str, pair), *options]) == 0
    assert (json.loads(found_json.read_text())["matrix"] is None) == (model == "none")
    assert main(["match", str(pair[0]), str(black), *options]) == 0
    found = json.loads(found_json.read_text())
    assert (found["matrix"], found["scores"], found["points_a"]) == (None, [], [])
    out = capsys.readouterr().out
    assert ("no fundamental was found" in out) == (model == "fundamental")
    assert picture.exists()


def test_stitch_puts_two_crops_together(pair, photos, tmp_path, capsys):
    picture, found_json = tmp_path / "s.png", tmp_path / "s.json"
    assert main(["stitch", *map(str, pair), "-o", str(picture), "--json", str(found_json)]) == 0
    found = json.loads(found_json.read_text())
    with Image.open(picture) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (found["height"], found["width"], 3)
    assert abs(found["width"] - 221) <= 1
    assert abs(found["height"] - 161) <= 1
    x, y = found["offset"]
    # Where only the first image is, it is itself; the rest is the scene but for resampling.
    np.testing.assert_array_equal(pixels[y : y + 8, x : x + 15, 0], photos["camera"][:8, :15])
    assert (
        np.abs(pixels[y + 30 : y + 140, x + 40 : x + 190, 0] - photos["camera"][30:140, 40:190].astype(float)).mean()
        < 3
    )
    assert f"{found['inliers']} inliers of {found['matches']} matches" in capsys.readouterr().out


def test_what_can_not_be_stitched_is_told(pair, tmp_path, capsys):
    black = tmp_path / "black.png"
    Image.fromarray(np.zeros((60, 80), np.uint8)).save(black)
    assert main(["stitch", str(pair[0]), str(black), "-o", str(tmp_path / "s.png")]) == 2
    assert "no homography was found in 0 matches" in errors_of(capsys)[0]
    assert main(["stitch", *map(str, pair), "-o", str(tmp_path / "s.xyz")]) == 2
    assert "s.xyz: Pillow can't write files with this suffix" in errors_of(capsys)[0]
    assert main(["stitch", *map(str, pair), "-o", str(pair[0])]) == 2
    assert "would be overwritten" in errors_of(capsys)[0]


def test_track_follows_a_moving_view(photos, tmp_path, capsys):
    folder, video, found_json = tmp_path / "frames", tmp_path / "tracks.mp4", tmp_path / "tracks.json"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(photos["camera"][2 * i : 2 * i + 120, 4 * i : 4 * i + 160]).save(folder / f"{i}.png")
    options = ["--max-keypoints", "100", "--json", str(found_json)]
    assert main(["track", str(folder), "-o", str(video), *options]) == 0
    frames = json.loads(found_json.read_text())
    assert [frame["frame"] for frame in frames] == ["0.png", "1.png", "2.png", "3.png"]
    first = {track["id"]: track for track in frames[0]["tracks"]}
    kept = [track for track in frames[3]["tracks"] if track["age"] == 3]
    assert len(kept) > 30
    moved = np.array([[first[t["id"]]["x"] - t["x"], first[t["id"]]["y"] - t["y"]] for t in kept])
    assert np.median(np.linalg.norm(moved - [12, 6], axis=1)) < 1
    printed = capsys.readouterr().out
    assert "4 frames" in printed
    assert "the oldest 3 frames" in printed
    assert video.stat().st_size > 1000
    assert re.search(
        r"[\d.]+ ms per frame \([\d.]+ frames/s\): reading .*, keypoints .*, tracking .*, drawing ", printed
    )

    chosen = ["--tracks", str(tmp_path / "t.csv"), "--start", "1", "--skip", "1"]
    assert main(["track", str(folder), *chosen, *options]) == 0
    table = (tmp_path / "t.csv").read_text().splitlines()
    assert {line.split(",")[1] for line in table[1:]} == {"1.png", "3.png"}
    assert len(table) == 1 + sum(len(frame["tracks"]) for frame in json.loads(found_json.read_text()))
    capsys.readouterr()

    (folder / "1.png").write_bytes(b"no image")
    assert main(["track", str(folder), "-o", str(tmp_path / "pictures"), *options]) == 2
    assert any("1.png" in line for line in errors_of(capsys))
    assert len(list((tmp_path / "pictures").iterdir())) == 3
    assert len(json.loads(found_json.read_text())) == 3


def test_what_can_not_be_tracked_is_told(tmp_path, capsys):
    output = ["-o", str(tmp_path / "t.mp4")]
    assert main(["track", str(tmp_path / "missing.mp4"), *output]) == 2
    assert "missing.mp4: no such file or folder" in errors_of(capsys)[0]
    (tmp_path / "text.avi").write_text("hello")
    assert main(["track", str(tmp_path / "text.avi"), *output]) == 2
    assert "can't be opened as a video" in errors_of(capsys)[-1]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").write_bytes(b"")
    assert main(["track", str(tmp_path / "folder"), *output]) == 2
    assert "no frame could be read" in errors_of(capsys)[-1]
    assert main(["track", str(tmp_path / "folder"), *output, "--max-keypoints", "-1"]) == 2
    assert "max_keypoints=-1" in errors_of(capsys)[-1]
    assert main(["track", str(tmp_path / "folder")]) == 2
    assert "give --output, --tracks or --json, or --show" in errors_of(capsys)[-1]
    assert main(["track", str(tmp_path / "folder"), "--tracks", str(tmp_path / "t.xls")]) == 2
    assert "tracks are written as .csv" in errors_of(capsys)[-1]
    assert main(["track", str(tmp_path / "text.avi"), "-o", str(tmp_path / "text.avi")]) == 2
    assert "would be overwritten" in errors_of(capsys)[-1]


# The command line as a whole


@pytest.mark.parametrize("command", ["detect", "match", "stitch", "track", "extract", "demo", "evaluate hpatches"])
def test_options_have_one_name_everywhere(command, capsys):
    names = ("--max-keypoints", "--keypoint-threshold", "--nms-radius", "--resize", "--weights", "--engine", "--dtype")
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    printed = capsys.readouterr().out
    assert [name for name in names if name not in printed] == []


def test_an_option_reaches_the_keypoints(photo, weights, tmp_path):
    def count(*options):
        command = ["detect", str(photo), "--weights", str(weights), "--json", str(tmp_path / "k.json")]
        assert main([*command, *options]) == 0
        return len(json.loads((tmp_path / "k.json").read_text())[0]["keypoints"])

    everything = count()
    assert count("--keypoint-threshold", "0.2") < everything
    assert count("--nms-radius", "12") < everything
    assert count("--resize", "96") < everything
    assert count("--max-keypoints", "-1") >= everything


def test_info_says_what_a_bug_report_needs(weights, capsys):
    assert main(["info", "--weights", str(weights)]) == 0
    printed = capsys.readouterr().out
    for words in (
        "python: 3.",
        "\njax: ",
        "\nflax: ",
        "\nnumpy: ",
        "devices: ",
        f"weights: {weights}",
        "is computed by",
    ):
        assert words in printed


def test_python_m_is_the_command():
    done = subprocess.run([sys.executable, "-m", "superpoint_jax", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout[:15]) == (0, "superpoint-jax ")


def test_the_old_name_of_the_executor_still_works(photo, weights, tmp_path, capsys):
    command = ["extract", str(Path(photo).parent), "-o", str(tmp_path / "f.h5"), "--weights", str(weights)]
    assert main([*command, "--workers", "0", "--engine", "local", "--max-keypoints", "10"]) == 0
    assert "--engine local is now called --executor local" in capsys.readouterr().err


def test_convert_proves_its_result(tmp_path, capsys, photos):
    pytest.importorskip("torch")
    sp.save_pretrained(sp.from_pretrained(config="huggingface"), tmp_path / "source")
    Image.fromarray(photos["coffee"][:96, :120]).save(tmp_path / "photo.png")
    command = ["convert", str(tmp_path / "source"), "-o", str(tmp_path / "out"), "--verify"]
    assert main([*command, "--images", str(tmp_path / "photo.png")]) == 0
    assert "the same within rounding" in capsys.readouterr().out


def test_it_imports_where_there_is_no_fcntl(tmp_path):
    """As on Windows: a lock is taken by other means, and a second run is refused all the same."""
    program = """
import sys, types
sys.modules["fcntl"] = None
import superpoint_jax.cli
locked = set()
def locking(descriptor, mode, count):
    import os
    key = os.fstat(descriptor).st_ino
    if key in locked:
        raise OSError("locked")
    locked.add(key)
sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
from superpoint_jax.bulk.parts import Conflict, Parts
from pathlib import Path
folder = Path(sys.argv[1]) / "f.parts"
with Parts(folder, {}):
    try:
        Parts(folder, {})
    except Conflict as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "another run is writing here" in done.stdout


def test_a_closed_pipe_and_ctrl_c_are_no_tracebacks(monkeypatch, capsys):
    done = subprocess.run(
        f"{sys.executable} -m superpoint_jax --help | head -n 1; echo ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] in ("0", "141")  # all of it may fit into the pipe
    assert done.stderr == ""

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    assert main(["detect"]) == 130
    assert capsys.readouterr().err == "superpoint-jax: stopped\n"
