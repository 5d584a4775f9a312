"""The cameras of a COLMAP database: who shares one, and what is known of it."""

import numpy as np
import pytest
from PIL import Image

import superpoint_jax as sp
from superpoint_jax.bulk import BulkOptions, extract_files
from superpoint_jax.bulk.cameras import Cameras, read_intrinsics, write_images
from superpoint_jax.bulk.parts import Conflict
from superpoint_jax.bulk.sources import find_images
from superpoint_jax.cli import main

pycolmap = pytest.importorskip("pycolmap")

MAKE, MODEL, FOCAL_35MM = 0x010F, 0x0110, 0xA405
NAMES = ["a.png", "b.webp", "c.jpg", "d.jpg", "left/e.png", "left/f.webp", "right/g.webp", "right/h.webp"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight photos of 100x80 px in three folders; c.jpg and d.jpg say that they were taken by one camera at 28 mm."""
    folder = tmp_path_factory.mktemp("cameras")
    rng = np.random.default_rng(0)
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        exif = Image.Exif()
        if path.suffix == ".jpg":
            exif[MAKE], exif[MODEL] = "Fujifilm", "X100"
            exif.get_ifd(0x8769)[FOCAL_35MM] = 28
        Image.fromarray(rng.integers(0, 255, (80, 100, 3), dtype=np.uint8)).save(path, exif=exif)
    return folder


def written(folder, path, cameras, sizes=None, names=NAMES):
    """For each image the number of its camera, and the cameras by number."""
    sizes = dict.fromkeys(names, (80, 100)) | (sizes or {})
    write_images(path, folder, sizes, cameras, read_intrinsics(cameras, names))
    database = pycolmap.Database.open(path)
    images = {image.name: image.camera_id for image in database.read_all_images()}
    known = {camera.camera_id: camera for camera in database.read_all_cameras()}
    # COLMAP's mapper needs each image in a frame of a rig that has its camera.
    rigs = {rig.rig_id: rig.ref_sensor_id.id for rig in database.read_all_rigs()}
    frames = {data.id: rigs[frame.rig_id] for frame in database.read_all_frames() for data in frame.image_ids}
    assert frames == {image.image_id: image.camera_id for image in database.read_all_images()}
    assert len(rigs) == len(known)
    database.close()
    assert sorted(images) == sorted(names)
    return images, known


@pytest.mark.parametrize(
    ("mode", "groups"),
    [
        ("auto", [["c.jpg", "d.jpg"]]),
        ("single", [NAMES]),
        ("per-folder", [NAMES[:4], NAMES[4:6], NAMES[6:]]),
        ("per-image", []),
    ],
)
def test_photos_share_a_camera_as_in_colmap(mode, groups, folder, tmp_path):
    """WebP is a format that pycolmap does not read; the rule is the same."""
    images, known = written(folder, tmp_path / "x.db", Cameras(camera_mode=mode))
    for group in groups:
        assert len({images[name] for name in group}) == 1
    assert len(set(images.values())) == len(known) == len(NAMES) - sum(len(group) - 1 for group in groups)


def test_the_focal_length_is_that_of_the_exif_data_or_a_guess(folder, tmp_path):
    images, known = written(folder, tmp_path / "x.db", Cameras())
    exif = known[images["c.jpg"]]
    # By COLMAP's rule: 28 of the 43.27 mm of the diagonal of 35 mm film.
    np.testing.assert_allclose(exif.params, [28 / 43.27 * np.hypot(100, 80), 50, 40, 0])
    assert exif.has_prior_focal_length
    for name in ("a.png", "b.webp"):
        guess = known[images[name]]
        assert (guess.model.name, guess.params.tolist(), guess.has_prior_focal_length) == (
            "SIMPLE_RADIAL",
            [120, 50, 40, 0],
            False,
        )
    images, known = written(folder, tmp_path / "y.db", Cameras(camera_model="OPENCV"))
    assert all(camera.params.tolist()[1:] == [camera.params[0], 50, 40, 0, 0, 0, 0] for camera in known.values())


def test_intrinsics_are_the_parameters_of_the_model(folder, tmp_path):
    given = Cameras(camera_mode="single", camera_model="PINHOLE", intrinsics="90, 91, 50.5,40")
    _, known = written(folder, tmp_path / "x.db", given)
    (camera,) = known.values()
    assert (camera.model.name, camera.params.tolist()) == ("PINHOLE", [90, 91, 50.5, 40])
    assert camera.has_prior_focal_length
    assert (camera.width, camera.height) == (100, 80)


def test_a_file_has_a_camera_per_image_or_folder(folder, tmp_path):
    lines = ["# hloc's layout", "left SIMPLE_PINHOLE 100 80 90 50 40", "left/f.webp PINHOLE 100 80 90 91 50 40", ""]
    (tmp_path / "cameras.txt").write_text("\n".join([*lines, "right SIMPLE_PINHOLE 100 80 95 50 40"]))
    given = Cameras(intrinsics=str(tmp_path / "cameras.txt"))
    images, known = written(folder, tmp_path / "x.db", given)
    params = {name: known[camera].params.tolist() for name, camera in images.items()}
    assert params["left/e.png"] == [90, 50, 40]
    assert params["left/f.webp"] == [90, 91, 50, 40]
    assert params["right/g.webp"] == [95, 50, 40]
    assert params["a.png"] == [120, 50, 40, 0]
    assert images["right/g.webp"] == images["right/h.webp"]
    assert images["c.jpg"] == images["d.jpg"]
    assert len(known) == 6


def test_colmap_s_file_of_one_camera_is_for_all_images(folder, tmp_path):
    reconstruction = pycolmap.Reconstruction()
    reconstruction.add_camera(pycolmap.Camera.create_from_model_name(7, "RADIAL", 90.0, 100, 80))
    reconstruction.write_text(tmp_path)
    images, known = written(folder, tmp_path / "x.db", Cameras(intrinsics=str(tmp_path / "cameras.txt")))
    assert len(set(images.values())) == 1
    assert [camera.params.tolist() for camera in known.values()] == [[90, 50, 40, 0, 0]]


def test_a_list_of_photos_may_have_their_cameras(folder, tmp_path):
    """hloc's list of queries with intrinsics names the photos and is read for both."""
    path = tmp_path / "queries.txt"
    path.write_text("left/e.png SIMPLE_PINHOLE 100 80 90 50 40\na.png SIMPLE_PINHOLE 100 80 91 50 40\n")
    names = find_images(path, root=folder).names
    assert names == ("left/e.png", "a.png")
    known = read_intrinsics(Cameras(intrinsics=str(path)), names)
    assert [known[name].params for name in names] == ["90.0,50.0,40.0", "91.0,50.0,40.0"]


def test_cameras_that_do_not_fit_the_photos_are_told(folder, tmp_path):
    path, other = tmp_path / "x.db", {"d.jpg": (100, 80)}
    with pytest.raises(ValueError, match=r"d\.jpg has 80x100 px and a\.png 100x80: they can't share a camera"):
        written(folder, path, Cameras(camera_mode="single"), other)
    (tmp_path / "list.txt").write_text("a.png SIMPLE_PINHOLE 200 160 180 100 80")
    with pytest.raises(ValueError, match=r"a\.png has 100x80 px, and the intrinsics in line 1 are for 200x160"):
        written(folder, path, Cameras(intrinsics=str(tmp_path / "list.txt")))
    # fx,fy,cx,cy where f,cx,cy,k is needed: the last one is no distortion.
    with pytest.raises(ValueError, match="COLMAP would leave it out"):
        written(folder, path, Cameras(camera_model="SIMPLE_RADIAL", intrinsics="90,91,50,40"))
    assert not path.exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--camera-model", "PINHOL"], "'PINHOL' is no camera model of COLMAP; it has SIMPLE_PINHOLE, PINHOLE"),
        (["--intrinsics", "90,91,50,40"], "numbers need a camera_model, for example PINHOLE for fx,fy,cx,cy"),
        (["--camera-model", "PINHOLE", "--intrinsics", "90,91,50"], r"4 parameters (fx,fy,cx,cy), not 3"),
        (["--camera-model", "PINHOLE", "--intrinsics", "f.txt"], "'f.txt' is no file and no numbers; PINHOLE needs fx"),
        (["--camera-model", "PINHOLE", "--intrinsics", "1,nan,1,1"], "is no file and no numbers"),
        (
            ["--intrinsics", "FILE", "--camera-mode", "single"],
            "the photos that share it; leave camera_mode and camera_model out",
        ),
        (["--intrinsics", "FILE"], "line 1: there is no image and no folder 'gone.png', relative to the root"),
    ],
)
def test_wrong_cameras_are_one_line(wrong, message, folder, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("gone.png SIMPLE_PINHOLE 100 80 90 50 40")
    wrong = [str(tmp_path / "list.txt") if word == "FILE" else word for word in wrong]
    assert main(["extract", str(folder), "-o", str(tmp_path / "f.db"), "--workers", "0", *wrong]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "f.db.parts").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png PINHOLE 100 80 90 91 50", "line 1: PINHOLE has 4 parameters"),
        ("# one\na.png PINHOLE 100 90 91 50 40 x", "line 2: 'x' is no|line 2: '91,50,40,x' is no"),
        ("a.png 100 80 90 91", "line 1: NAME MODEL WIDTH HEIGHT PARAMETERS... is needed"),
        ("left SIMPLE_PINHOLE 9 9 9 4 4\nleft SIMPLE_PINHOLE 9 9 9 4 4", "line 2: 'left' is in line 1 too"),
        ("1 SIMPLE_PINHOLE 9 9 9 4 4\n2 SIMPLE_PINHOLE 9 9 9 4 4", "no image and no folder '1'"),
    ],
)
def test_wrong_lines_of_a_file_are_told_by_number(text, message, tmp_path):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_intrinsics(Cameras(intrinsics=str(tmp_path / "list.txt")), NAMES)


def test_other_cameras_on_the_same_output_are_refused(folder, tmp_path, model):
    def run(output="f.db", **cameras):
        options = BulkOptions(max_keypoints=20, workers=0, devices=1, resize=0, **cameras)
        processor = sp.SuperPointImageProcessor()
        return extract_files(folder, tmp_path / output, model=model, processor=processor, options=options)

    with pytest.raises(ValueError, match=r"options of cameras need a COLMAP database"):
        run("f.h5", camera_mode="single")
    assert run(camera_mode="single").extracted == 8
    assert run(camera_mode="single").before == 8
    with pytest.raises(Conflict, match="camera_mode was 'single' and is 'per-image'"):
        run(camera_mode="per-image")
    with pytest.raises(Conflict, match="intrinsics was None and is"):
        run(camera_mode="single", camera_model="SIMPLE_PINHOLE", intrinsics="90,50,40")
