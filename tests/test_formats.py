"""Photos as they come: HEIC, AVIF, JPEG XL, raw files, several pictures in a file, lists from Windows, URLs."""

import builtins
import io

import numpy as np
import pytest
from PIL import Image

import superpoint_jax as sp
from superpoint_jax.bulk.pairs import read_pairs
from superpoint_jax.bulk.sources import find_images
from superpoint_jax.cli import main
from superpoint_jax.processing import ImageError, load_image
from superpoint_jax.processing.formats import formats, jxl_size
from superpoint_jax.processing.loading import load_stored, read_size


@pytest.fixture
def photo(photos):
    return Image.fromarray(photos["coffee"][40:136, 60:204])


def encoded(photo: Image.Image, format: str, **options) -> io.BytesIO:
    if format not in formats():
        pytest.skip(f"no package for {format} is installed")
    file = io.BytesIO()
    photo.save(file, format, **options)
    return file


@pytest.mark.parametrize("format", ["AVIF", "HEIF", "JXL"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_newer_formats_are_read_and_turned_upright_once(format, orientation, photo, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    # JPEG XL has its own orientation; that in EXIF data does not count.
    turned = orientation == 6 and format != "JXL"
    expected = np.asarray(photo.transpose(Image.Transpose.ROTATE_270) if turned else photo).astype(int)
    path = tmp_path / f"photo.{format.lower()}"
    path.write_bytes(encoded(photo, format, quality=95, exif=exif.tobytes()).getvalue())
    pixels = load_image(path)
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).mean() < 6
    assert read_size(path) == expected.shape[:2]
    path.rename(tmp_path / "photo.jpg")  # The contents count, not the name.
    np.testing.assert_array_equal(load_image(tmp_path / "photo.jpg"), pixels)


@pytest.mark.parametrize("size", [(8, 8), (96, 144), (144, 96), (7, 1000), (256, 256), (300, 400), (1, 1), (9, 16)])
def test_the_size_in_the_header_of_jpeg_xl_is_that_of_the_image(size):
    image = Image.new("RGB", size[::-1])
    assert jxl_size(encoded(image, "JXL")) == size
    assert jxl_size(encoded(image, "JXL", use_container=True)) == size
    assert jxl_size(encoded(image, "PNG")) is None


def test_a_jpeg_xl_file_that_asks_for_too_much_is_not_decoded(tmp_path):
    # Not small; a height of 1 + 2^30 - 1 in 30 bits; the ratio 1:1.
    bits = 0 | 3 << 1 | (2**30 - 1) << 3 | 1 << 33
    (tmp_path / "bomb.jxl").write_bytes(b"\xff\x0a" + bits.to_bytes(12, "little"))
    with pytest.raises(ImageError, match=r"bomb\.jxl: 1073741824x1073741824 is .* above the limit"):
        load_image(tmp_path / "bomb.jxl")


@pytest.fixture
def without(monkeypatch):
    """A function that takes packages away."""

    def take(*names):
        imported = builtins.__import__

        def refusing(name, *arguments, **options):
            if name in names:
                raise ImportError(name)
            return imported(name, *arguments, **options)

        monkeypatch.setattr(builtins, "__import__", refusing)
        opened = {format: known for format, known in Image.OPEN.items() if format not in ("HEIF", "JXL")}
        monkeypatch.setattr(Image, "OPEN", opened)
        formats.cache_clear()

    yield take
    monkeypatch.undo()
    formats.cache_clear()


@pytest.mark.parametrize(
    ("name", "head", "needed"),
    [
        ("a.heic", b"\0\0\0\x18ftypheic", "HEIC needs pillow-heif"),
        ("a.jxl", b"\xff\x0a\x7f\x01\x02\x03\x04\x05", "JPEG XL needs pillow-jxl-plugin"),
        ("a.nef", b"II*\0" + bytes(100), "raw files need rawpy"),
    ],
)
def test_a_missing_package_is_named(name, head, needed, without, tmp_path):
    without("pillow_heif", "pillow_jxl", "rawpy")
    (tmp_path / name).write_bytes(head)
    with pytest.raises(ImageError) as error:
        load_image(tmp_path / name)
    assert f"{name}: " in str(error.value)
    assert f"{needed}: pip install 'superpoint-jax[photos]'" in str(error.value)


def raw_file(path, orientation: int) -> None:
    """A DNG with a red, a green and a blue stripe, as a sensor with a Bayer pattern (red first) sees them."""
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("rawpy")
    height, width = 64, 96
    mosaic = np.full((height, width), 300, np.uint16)
    mosaic[0::2, 0:32:2] = 9000
    mosaic[0::2, 33:64:2] = mosaic[1::2, 32:64:2] = 9000
    mosaic[1::2, 65::2] = 9000
    identity = [1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1]
    tags = [
        (274, "H", 1, orientation, True),
        (33421, "H", 2, (2, 2), True),  # Size of the pattern.
        (33422, "B", 4, (0, 1, 1, 2), True),  # The pattern: red, green, green, blue.
        (50706, "B", 4, (1, 4, 0, 0), True),  # Version of DNG.
        (50708, "s", 0, "Ours", True),  # Name of the camera.
        (50717, "I", 1, 16383, True),  # White.
        (50721, "2i", 9, identity, True),  # Colours of the sensor.
        (50728, "2I", 3, (1, 1, 1, 1, 1, 1), True),  # Neutral colour.
        (50778, "H", 1, 21, True),  # Light of the calibration.
    ]
    tifffile.imwrite(path, mosaic, photometric="cfa", extratags=tags, metadata=None)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_raw_file_is_developed_and_turned_upright(orientation, tmp_path):
    raw_file(tmp_path / "photo.dng", orientation)
    stored, found = load_stored(tmp_path / "photo.dng")
    assert found == orientation
    assert stored.shape == (64, 96, 3)
    # The stripes, without their edges, where colours are interpolated.
    for stripe, brightest in ((slice(8, 24), 0), (slice(40, 56), 1), (slice(72, 88), 2)):
        assert stored[8:-8, stripe].mean(axis=(0, 1)).argmax() == brightest
    shown = load_image(tmp_path / "photo.dng")
    assert shown.shape == ((64, 96, 3) if orientation < 5 else (96, 64, 3))
    assert read_size(tmp_path / "photo.dng") == shown.shape[:2]
    with (tmp_path / "photo.dng").open("rb") as file:
        np.testing.assert_array_equal(load_image(file), shown)
    (tmp_path / "photo.dng").write_bytes(b"II*\0nothing else")
    with pytest.raises(ImageError, match=r"photo\.dng: can't be read: [A-Z]"):
        load_image(tmp_path / "photo.dng")


def test_the_largest_picture_of_a_file_is_read(photo, tmp_path):
    small = photo.resize((36, 24))
    pages = tmp_path / "pages.tif"
    small.save(pages, save_all=True, append_images=[photo, photo.transpose(Image.Transpose.ROTATE_180), small])
    np.testing.assert_array_equal(load_image(pages), np.asarray(photo))
    assert read_size(pages) == (photo.height, photo.width)
    with pytest.raises(ImageError, match=r"pages\.tif: 144x96 is"):
        load_image(pages, max_pixels=144 * 96 - 1)
    # What is behind a damaged page is not looked at.
    photo.save(pages, save_all=True, append_images=[small])
    pages.write_bytes(pages.read_bytes()[:-20])
    np.testing.assert_array_equal(load_image(pages), np.asarray(photo))
    # Two photos in a JPEG, as cameras with two lenses write them: the second is larger.
    pair = tmp_path / "pair.jpg"
    small.save(pair, format="MPO", save_all=True, append_images=[photo], quality=95)
    assert load_image(pair).shape == (photo.height, photo.width, 3)


def test_sixteen_bits_in_three_channels_are_scaled(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    values = np.arange(64 * 96 * 3, dtype=np.uint16).reshape(64, 96, 3) * 3
    tifffile.imwrite(tmp_path / "deep.tif", values, photometric="rgb")
    assert np.abs(load_image(tmp_path / "deep.tif").astype(float) - values / 257).max() <= 1


def test_lists_with_either_slash_and_names_from_a_folder(folder_of_three, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("sub\\2.png\n1.png PINHOLE 64 64 1 1\nsub/3.png\nsub\\gone.png\n")
    found = find_images(names, root=folder_of_three)
    assert found.names[:3] == ("sub/2.png", "1.png", "sub/3.png")
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("sub\\2.png 1.png\n1.png sub/3.png\n")
    assert read_pairs(pairs, found.names) == [("sub/2.png", "1.png"), ("1.png", "sub/3.png")]


@pytest.fixture
def folder_of_three(photo, tmp_path):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("1.png", "sub/2.png", "sub/3.png"):
        photo.crop((0, 0, 64, 64)).save(folder / name)
    return folder


def test_the_photos_of_a_list_are_taken_from_the_folder(folder_of_three, model, tmp_path, capsys):
    sp.save_pretrained(model, tmp_path / "weights")
    (tmp_path / "names.txt").write_text("sub\\2.png\n1.png\n")
    command = ["extract", str(folder_of_three), "--list", str(tmp_path / "names.txt"), "-o", str(tmp_path / "f.h5")]
    options = ["--weights", str(tmp_path / "weights"), "--engine", "xla", "--workers", "0", "--devices", "1"]
    assert main([*command, *options]) == 0
    assert "2 images extracted" in capsys.readouterr().out
    command[1] = str(tmp_path / "gone")
    assert main([*command, *options]) == 2
    assert "--list takes photos from a folder, and" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["https://example.org/a.jpg?size=2", "s3://photos/a.png", "file:///tmp/a.png"])
def test_urls_are_refused_with_what_to_do(url, capsys, tmp_path):
    with pytest.raises(ImageError, match="a URL is not opened; download the file and give its path"):
        load_image(url)
    with pytest.raises(ValueError, match="a URL is not opened; download the photos and give their folder"):
        find_images(url)
    assert main(["detect", url]) == 2
    assert "a URL is not opened; download the file and give its path" in capsys.readouterr().err
    with pytest.raises(ValueError, match="a URL is not opened; give a hub id"):
        sp.from_pretrained(url)


def test_arrays_in_the_order_of_torch_are_refused_with_the_fix(model):
    torch = pytest.importorskip("torch")
    image = torch.zeros(3, 64, 96)
    for given in (image, image.numpy(), image[None]):
        with pytest.raises(ValueError, match=r"torch's order \[C,H,W\]: move the channels last, with image\.permute"):
            sp.extract_images(model, given if given.ndim == 4 else [given])
    assert len(sp.extract_images(model, [image.permute(1, 2, 0)])) == 1
    with pytest.raises(ValueError, match="move the channels last"):
        sp.extract(model, image[None].numpy())
