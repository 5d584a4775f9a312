"""Photos that are not what they seem, names that are odd, and folders that can't be read."""

import os
import subprocess

import numpy as np
import pytest
from PIL import Image

import superpoint_jax as sp
from superpoint_jax.bulk.hloc import names_in, read_features
from superpoint_jax.bulk.reading import Reader, Task
from superpoint_jax.bulk.sources import find_images
from superpoint_jax.cli import main
from superpoint_jax.processing import ImageError, list_images, load_image
from superpoint_jax.processing.loading import load_stored, load_values
from superpoint_jax.processing.orientation import upright

TURNED = range(1, 9)


@pytest.fixture
def turned(photos, tmp_path):
    """One photo of 64x96 pixels in eight files `N.png`, stored so that it is shown upright by EXIF's orientation N."""
    folder = tmp_path / "turned"
    folder.mkdir()
    shown = photos["camera"][40:104, 60:156]
    for orientation in TURNED:
        # What `upright` does to the numbers of the pixels of the stored file is undone.
        stored = np.empty(shown.shape if orientation < 5 else shown.shape[::-1], np.uint8)
        stored.ravel()[upright(np.arange(stored.size).reshape(stored.shape), orientation).ravel()] = shown.ravel()
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(stored).save(folder / f"{orientation}.png", exif=exif)
    return folder


def test_all_eight_orientations_are_shown_as_pillow_shows_them(turned):
    from PIL import ImageOps

    for orientation in TURNED:
        with Image.open(turned / f"{orientation}.png") as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
            np.testing.assert_array_equal(load_stored(turned / f"{orientation}.png")[0], np.asarray(image))
        np.testing.assert_array_equal(load_image(turned / f"{orientation}.png"), expected)
        np.testing.assert_array_equal(load_image(turned / f"{orientation}.png"), load_image(turned / "1.png"))


@pytest.mark.parametrize("kind", ["f.h5", "f.db", "upright.h5"])
def test_keypoints_of_all_eight_orientations_lie_in_their_frame(kind, turned, extracted, tmp_path):
    """The stored frame is that of pycolmap, which reads the same files and ignores EXIF's orientation."""
    pycolmap = pytest.importorskip("pycolmap")
    frame = "upright" if kind == "upright.h5" else "stored"
    extracted(turned, tmp_path / kind, frame=frame)
    names = [f"{orientation}.png" for orientation in TURNED]
    if kind == "f.db":
        database = pycolmap.Database.open(tmp_path / kind)
        images = {image.name: image for image in database.read_all_images()}
        places = [database.read_keypoints(images[name].image_id)[:, :2] - 0.5 for name in names]
        cameras = [database.read_camera(images[name].camera_id) for name in names]
        sizes = [(camera.height, camera.width) for camera in cameras]
        database.close()
    else:
        found = read_features(tmp_path / kind, names)
        places, sizes = [one.keypoints_xy for one in found], [one.size for one in found]
        for one in found:
            np.testing.assert_array_equal(one.descriptors, found[0].descriptors)
    for name, keypoints_xy, size in zip(names, places, sizes, strict=True):
        pixels = load_image(turned / name)
        if frame == "stored":
            pixels = pycolmap.Bitmap.read(turned / name, as_rgb=False).to_array()
        assert size == pixels.shape[:2]
        assert len(keypoints_xy) == len(places[0]) > 5
        nearest = np.round(keypoints_xy).astype(int)
        first = np.round(places[0]).astype(int)
        expected = load_image(turned / "1.png")[first[:, 1], first[:, 0]]
        np.testing.assert_array_equal(pixels.reshape(size)[nearest[:, 1], nearest[:, 0]], expected)


def test_a_mask_lies_in_the_frame_of_the_output(turned, extracted, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    stored, _ = load_stored(turned / "6.png")
    allowed = np.zeros(stored.shape, np.uint8)
    allowed[:48] = 255
    Image.fromarray(allowed).save(masks / "6.png.png")
    report = extracted(turned, tmp_path / "f.h5", masks=masks)
    assert not report.failures
    (found,) = read_features(tmp_path / "f.h5", ["6.png"])
    assert len(found.scores) > 3
    assert found.keypoints_xy[:, 1].max() < 47.5


def test_a_database_in_the_upright_frame_is_refused(turned, extracted, tmp_path):
    pytest.importorskip("pycolmap")
    with pytest.raises(ValueError, match="COLMAP reads photos as they are stored"):
        extracted(turned, tmp_path / "f.db", frame="upright")


def test_a_photo_that_pycolmap_can_not_open_gets_a_camera_all_the_same(folder, extracted, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    Image.open(folder / "1.png").save(folder / "w.webp", lossless=True)
    report = extracted(folder, tmp_path / "f.db", matches="exhaustive", min_verified=15)
    assert report.pairs_verified >= 1  # 1.png with its copy.
    database = pycolmap.Database.open(tmp_path / "f.db")
    cameras = {image.name: database.read_camera(image.camera_id) for image in database.read_all_images()}
    assert len(database.read_all_frames()) == len(database.read_all_rigs()) == 7
    database.close()
    ours, theirs = str(cameras["w.webp"]), str(cameras["1.png"])
    assert ours.split(", ", 1)[1] == theirs.split(", ", 1)[1]  # All but the number.
    assert cameras["w.webp"].has_prior_focal_length == cameras["1.png"].has_prior_focal_length


def test_what_is_not_read_is_named_and_counted(folder, extracted, tmp_path, monkeypatch, capsys, model):
    for suffix in ("heic", "jxl", "dng"):
        (folder / f"x.{suffix}").write_bytes(b"something else")
    Image.open(folder / "1.png").convert("RGB").save(folder / "j.jfif", format="JPEG")
    Image.open(folder / "1.png").save(folder / "a.avif")
    (folder / "notes.txt").write_text("no photo")
    (folder / "locked").mkdir()
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    sp.save_pretrained(model, tmp_path / "weights")
    command = ["extract", str(folder), "-o", str(tmp_path / "f.h5"), "--weights", str(tmp_path / "weights")]
    assert main([*command, "--workers", "0", "--devices", "1", "--max-keypoints", "30", "--engine", "xla"]) == 2
    captured = capsys.readouterr()
    assert "8 images extracted, 0 before, 4 failed" in captured.out
    assert "locked: the folder can't be read: Permission denied" in captured.err
    for suffix in ("heic", "jxl"):
        assert f"x.{suffix}: not an image of a format that is read here (PPM, PNG, JPEG" in captured.err
    assert "x.dng: can't be read: " in captured.err
    with pytest.raises(PermissionError, match="make it readable, or move it away"):
        list_images(folder)


def test_odd_names_fail_alone(folder, extracted, tmp_path, capsys):
    with open(os.fsencode(folder) + b"/caf\xe9.png", "wb") as file:
        file.write((folder / "1.png").read_bytes())
    (folder / "keypoints").mkdir()
    (folder / "sub" / "keypoints").mkdir()
    (folder / "1.png").rename(folder / "keypoints" / "1.png")
    (folder / "2.png").rename(folder / "sub" / "keypoints" / "2.png")
    (folder / "10.png").rename(folder / "Äpfel 林檎.png")
    names = list(find_images(folder).names)
    lines = [*names, "x" * 300 + ".png", "nul\0l.png", "gone.png"]
    (tmp_path / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    report = extracted(folder, tmp_path / "folder.h5")
    assert report.failures == {"caf\\udce9.png": "the name is not UTF-8; rename the file"}
    assert report.extracted == 6
    report = extracted(tmp_path / "list.txt", tmp_path / "list.h5", root=folder)
    assert report.extracted == 6
    assert sorted(names_in(tmp_path / "list.h5")) == sorted(names_in(tmp_path / "folder.h5")) == sorted(names)
    assert list(report.failures) == ["nul\\0l.png", "x" * 300 + ".png", "gone.png"]
    assert "File name too long" in report.failures["x" * 300 + ".png"]


def test_links_are_walked_once(folder):
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "again").symlink_to(folder / "sub")
    (folder / "sub" / "self").symlink_to(folder / "sub")
    assert len(find_images(folder).names) == len(list_images(folder)) == 6


def test_photos_come_in_the_order_in_which_people_number_them(folder):
    assert [path.name for path in list_images(folder / "sub")] == ["1.png", "2.png", "10.png"]
    assert find_images(folder).names == ("1.png", "2.png", "10.png", "sub/1.png", "sub/2.png", "sub/10.png")


@pytest.mark.parametrize("command", ["detect", "match"])
def test_pipes_and_devices_are_not_waited_for(command, folder, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", "/dev/zero"):
        paths = [str(path)] if command == "detect" else [str(folder / "1.png"), str(path)]
        assert main([command, *paths]) == 2
        assert f"{path}: a pipe or a device; a regular file is needed" in capsys.readouterr().err
        assert main(["info", "--weights", str(path)]) == 2
        assert f"{path}: a pipe or a device; a regular file is needed" in capsys.readouterr().err


def test_a_program_in_a_picture_is_not_started(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: started.append(1))
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n")
    with pytest.raises(ImageError, match=r"a\.jpg: not an image of a format that is read here"):
        load_image(tmp_path / "a.jpg")
    assert not started


def test_sixteen_bits_with_a_white_zero_are_not_read_as_a_negative(photos, tmp_path):
    import struct

    values = photos["camera"][:40, :50].astype(np.uint16) * 257
    tags = [(256, 4, 50), (257, 4, 40), (258, 3, 16), (259, 3, 1), (262, 3, 0), (273, 4, 200), (278, 4, 40)]
    tags += [(279, 4, values.nbytes)]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags) + bytes(4)
    (tmp_path / "a.tif").write_bytes((head + entries).ljust(200, b"\0") + (65535 - values).astype("<u2").tobytes())
    np.testing.assert_array_equal(load_image(tmp_path / "a.tif"), photos["camera"][:40, :50])
    np.testing.assert_array_equal(load_values(tmp_path / "a.tif"), values)


def test_arrays_of_another_byte_order_are_converted_or_refused(photos, model):
    photo = photos["camera"][:64, :96]
    (expected,) = sp.extract_images(model, [photo])
    for other in ((photo.astype(">u2") * 257), (photo / 255).astype(">f4"), (photo / 255).astype(">f8")):
        (found,) = sp.extract_images(model, [other])
        assert np.abs(found.keypoints - expected.keypoints).max() < 1e-3
    floats = (photo[None, :, :, None] / 255).astype(">f4")
    for function in (lambda: sp.extract(model, floats), lambda: model(floats)):
        with pytest.raises(ValueError, match=r"images have type >f4, in another byte order; give images\.astype"):
            function()
    with pytest.raises(ValueError, match="keypoints_xy have type >f4, in another byte order"):
        sp.describe(model, floats.astype(np.float32), np.ones((1, 1, 2), ">f4"))


class Deadly(sp.SuperPointImageProcessor):
    """A processor whose process ends at a black image, as at a decoder's fault."""

    def preprocess(self, images, **options):
        """Preprocess images that are not black."""
        if not images[0].any():
            os._exit(9)
        return super().preprocess(images, **options)


def test_an_image_that_ends_its_decoder_twice_fails_alone(folder):
    Image.new("L", (64, 64)).save(folder / "black.png")
    names = ["1.png", "black.png", "2.png", "10.png"]
    with Reader(Task(folder, Deadly()), workers=1) as reader:
        waiting = [reader.start(name) for name in names]
        found = dict(zip(names, [wait() for wait in waiting], strict=True))
        assert not isinstance(reader.start("sub/1.png")(), str)
    assert found.pop("black.png") == "the process that decodes it ended twice"
    assert not any(isinstance(one, str) for one in found.values())
