"""Frames from folders and videos, and back."""

import numpy as np
import pytest
from PIL import Image

from superpoint_jax.video import FrameWriter, Window, read_frames


def _ball(i, size=(96, 128)):
    pixels = np.full((*size, 3), 40, np.uint8)
    pixels[30:50, 10 + 8 * i : 30 + 8 * i] = (220, 180, 60)
    return pixels


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(_ball(i)).save(folder / f"{i}.png")
    return folder


def test_a_folder_comes_in_the_order_of_its_names(folder):
    frames = read_frames(folder)
    assert frames.count == 4
    found = list(frames)
    assert [frame.name for frame in found] == ["0.png", "1.png", "2.png", "3.png"]
    for i, frame in enumerate(found):
        np.testing.assert_array_equal(frame.pixels, _ball(i))
        assert frame.reduction == 1


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_video_is_read_as_it_was_written(tmp_path, suffix):
    path = tmp_path / f"ball{suffix}"
    with FrameWriter(path, fps=12.0) as writer:
        for i in range(5):
            writer.write(_ball(i))
    frames = read_frames(path)
    assert frames.fps == pytest.approx(12)
    found = list(frames)
    assert len(found) == 5
    for i, frame in enumerate(found):
        # Lossy, and colours in their order: red above blue.
        assert np.abs(frame.pixels.astype(float) - _ball(i)).mean() < 6
        assert frame.pixels[40, 20 + 8 * i, 0] > frame.pixels[40, 20 + 8 * i, 2] + 80


def test_odd_sides_lose_a_row_and_a_column(tmp_path):
    path = tmp_path / "odd.mp4"
    with FrameWriter(path, fps=10.0) as writer:
        writer.write(_ball(0, (97, 129)))
    assert next(iter(read_frames(path))).pixels.shape == (96, 128, 3)


def test_pictures_are_numbered(tmp_path):
    with FrameWriter(tmp_path / "pictures", fps=10.0) as writer:
        for i in range(2):
            writer.write(_ball(i))
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == ["000000.png", "000001.png"]
    with Image.open(tmp_path / "pictures" / names[1]) as image:
        np.testing.assert_array_equal(np.asarray(image), _ball(1))


def test_large_frames_are_reduced(folder):
    frame = next(iter(read_frames(folder, long_side=64)))
    assert frame.pixels.shape == (48, 64, 3)
    assert frame.reduction == 2


def test_no_more_frames_than_asked_for(folder, tmp_path):
    assert len(list(read_frames(folder, max_frames=2))) == 2
    with FrameWriter(tmp_path / "a.avi", fps=10.0) as writer:
        for i in range(3):
            writer.write(_ball(i))
    frames = read_frames(tmp_path / "a.avi", max_frames=2)
    assert frames.count == 2
    assert len(list(frames)) == 2


@pytest.mark.parametrize("kind", ["folder", "video"])
def test_frames_are_left_out_before_after_and_between(kind, folder, tmp_path):
    source = folder
    if kind == "video":
        source = tmp_path / "a.avi"
        with FrameWriter(source, fps=12.0) as writer:
            for i in range(8):
                writer.write(_ball(i))
    for options, expected in (
        (dict(start=1), [1, 2, 3]),
        (dict(end=3), [0, 1, 2]),
        (dict(skip=1), [0, 2]),
        (dict(start=1, end=4, skip=1), [1, 3]),
        (dict(start=1, skip=1, max_frames=1), [1]),
    ):
        frames = read_frames(source, **{"end": 4, **options})
        found = list(frames)
        assert [int(str(frame.name).removesuffix(".png")) for frame in found] == expected
        assert frames.count == len(expected)
        assert frames.fps == (10 if kind == "folder" else 12 / (options.get("skip", 0) + 1))
        for number, frame in zip(expected, found, strict=True):
            assert np.abs(frame.pixels.astype(float) - _ball(number)).mean() < 6
    for wrong in (dict(start=-1), dict(skip=-1), dict(start=3, end=3)):
        with pytest.raises(ValueError, match="none is negative, and the end comes after the start"):
            read_frames(source, **wrong)
    with pytest.raises(ValueError, match="a URL is not opened; download the video"):
        read_frames("rtsp://camera/stream")


def test_a_window_shows_frames_until_q(monkeypatch):
    import cv2

    shown, keys = [], [255, 255, ord("q")]
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, pixels: shown.append(pixels))
    monkeypatch.setattr(cv2, "waitKey", lambda _: keys[len(shown) - 1])
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1.0)
    monkeypatch.setattr(cv2, "destroyWindow", lambda *_: shown.append(None))
    with Window() as window:
        assert [window.show(_ball(i)) for i in range(3)] == [False, False, True]
    np.testing.assert_array_equal(shown[1], _ball(1)[..., ::-1])  # OpenCV's order of colours.
    assert shown[-1] is None


def test_without_a_display_or_windows_it_is_said_what_to_do(monkeypatch):
    import cv2

    def refusing(*_):
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(cv2, "namedWindow", refusing)
    monkeypatch.setenv("DISPLAY", ":0")
    with pytest.raises(ValueError, match="this OpenCV has no windows: pip uninstall opencv-python-headless"):
        Window()
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(ValueError, match="there is no display for a window"):
        Window()


def test_bad_and_differing_images_are_frames_with_an_error(folder):
    (folder / "1.png").write_bytes(b"no image")
    Image.fromarray(_ball(0, (50, 60))).save(folder / "2.png")
    errors = [frame.error for frame in read_frames(folder)]
    assert errors[0] is None
    assert errors[3] is None
    assert "1.png: not an image" in errors[1]
    assert "2.png: 60x50 pixels, and the first photo has 128x96" in errors[2]


def test_what_can_not_be_opened_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder, and not the number of a camera"):
        read_frames(tmp_path / "missing.mp4")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no photos"):
        read_frames(tmp_path / "empty")
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(ValueError, match=r"text.mp4: can't be opened as a video"):
        read_frames(tmp_path / "text.mp4")
    with pytest.raises(ValueError, match="long_side=2;"):
        read_frames(tmp_path, long_side=2)
    with pytest.raises(ValueError, match=r"a.gif: a video is one of .mp4, .avi"):
        FrameWriter(tmp_path / "a.gif", fps=10.0)
    with pytest.raises(ValueError, match="fps=0"):
        FrameWriter(tmp_path / "a.mp4", fps=0.0)
    with (
        pytest.raises(ValueError, match="OpenCV can't write"),
        FrameWriter(tmp_path / "no" / "a.mp4", fps=10.0) as writer,
    ):
        writer.write(_ball(0))
