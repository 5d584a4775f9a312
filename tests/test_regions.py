"""Regions: keypoints only where a mask allows them, in arrays, lists, files and folders."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import superpoint_jax as sp
from superpoint_jax.bulk import BulkOptions, extract_files
from superpoint_jax.bulk.hloc import read_features
from superpoint_jax.bulk.parts import Conflict
from superpoint_jax.cli import main
from superpoint_jax.regions import check_region, resized_region, source_pixels
from tests.test_extraction import assert_defined


@pytest.fixture(scope="module")
def region(images):
    """A disc in the first image [72,104], and the left half of the second."""
    rows, columns = np.mgrid[:72, :104]
    return np.stack([(rows - 30) ** 2 + (columns - 50) ** 2 < 22**2, columns < 52])


def allowed(found: sp.Keypoints, region) -> np.ndarray:
    """For each row whether its keypoint, at the pixel in which it lies, is in the region [B,H,W]."""
    x, y = np.floor(np.asarray(found.keypoints) + 0.5).astype(int).transpose(2, 0, 1)
    return np.asarray(region)[np.arange(len(x))[:, None], y, x]


def rows(found: sp.Keypoints, image: int) -> dict[tuple[float, float], tuple[float, np.ndarray]]:
    """Score and descriptor of each keypoint of an image by its place."""
    one = found[image : image + 1].to_list()[0]
    places = map(tuple, one["keypoints"].round(2).tolist())
    return dict(zip(places, zip(one["scores"], one["descriptors"], strict=True), strict=True))


def assert_equal(a: sp.Keypoints, b: sp.Keypoints) -> None:
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("enlarge", [1, 1.5, 2])
def test_they_are_the_keypoints_of_the_image_that_lie_in_the_region(model, images, region, enlarge):
    everything = sp.extract(model, images, max_keypoints=-1, enlarge=enlarge)
    within = sp.extract(model, images, region=region, max_keypoints=-1, enlarge=enlarge)
    assert_defined(within)
    inside = allowed(everything, region) & np.asarray(everything.mask)
    assert (inside.sum(1) < everything.mask.sum(1)).all()
    assert within.num_detected.tolist() == within.mask.sum(1).tolist() == inside.sum(1).tolist()
    assert allowed(within, region)[np.asarray(within.mask)].all()
    for image in (0, 1):
        before, after = rows(everything, image), rows(within, image)
        assert after
        for place, (score, descriptor) in after.items():
            np.testing.assert_allclose(score, before[place][0], atol=1e-6)
            np.testing.assert_allclose(descriptor, before[place][1], atol=1e-5)


def test_the_count_is_filled_from_the_region(model, images, region):
    few = sp.extract(model, images, max_keypoints=15)
    within = sp.extract(model, images, region=region, max_keypoints=15)
    assert not allowed(few, region).all()
    assert within.mask.all()
    assert allowed(within, region).all()
    every = sp.extract(model, images, region=region, max_keypoints=-1)
    np.testing.assert_allclose(within.scores, every.scores[:, :15], atol=1e-6)
    assert within.num_detected.tolist() == every.num_detected.tolist()


def test_everything_allowed_is_no_region_and_nothing_allowed_is_all_padding(model, images):
    found = sp.extract(model, images, max_keypoints=50)
    same = sp.extract(model, images, region=np.ones(images.shape[:3], bool), max_keypoints=50)
    assert_equal(same, found)
    nothing = sp.extract(model, images, region=np.zeros(images.shape[:3], bool), max_keypoints=50)
    assert_defined(nothing)
    assert nothing.num_detected.tolist() == [0, 0]


@pytest.mark.parametrize("enlarge", [1, 2])
def test_in_a_padded_batch_of_mixed_sizes_each_image_has_its_own_region(model, images, region, enlarge):
    sizes = np.array([[72, 104], [61, 83]], np.int32)
    padded = np.ones((2, 80, 120, 1), np.float32)
    regions = np.ones((2, 80, 120), bool)  # What lies outside an image is ignored.
    for i, (height, width) in enumerate(sizes):
        padded[i, :height, :width] = images[i, :height, :width]
        regions[i, :height, :width] = region[i, :height, :width]
    options = dict(max_keypoints=60, enlarge=enlarge)
    together = sp.extract(model, padded, image_sizes=sizes, region=regions, **options)
    for i, (height, width) in enumerate(sizes):
        alone = sp.extract(
            model, images[i : i + 1, :height, :width], region=region[i : i + 1, :height, :width], **options
        )
        np.testing.assert_array_equal(together.mask[i], alone.mask[0])
        np.testing.assert_allclose(together.keypoints[i], alone.keypoints[0], atol=1e-4)
        np.testing.assert_allclose(together.scores[i], alone.scores[0], atol=1e-5)
        assert alone.mask.any()


def test_it_is_traced_and_composes(model, images, region):
    def extract(images, region):
        return sp.extract(model, images, region=region, max_keypoints=20)

    expected = extract(images, region)
    jitted = jax.jit(extract)
    assert_equal(jitted(images, region), expected)
    assert jitted(images, ~region).num_detected.tolist() != expected.num_detected.tolist()
    assert jitted._cache_size() == 1
    mapped = jax.vmap(lambda image, mask: extract(image[None], mask[None])[0])(images, jnp.asarray(region))
    np.testing.assert_array_equal(mapped.keypoints, expected.keypoints)
    gradient = jax.grad(lambda images: extract(images, region).scores.sum())(images)
    assert np.isfinite(gradient).all()
    assert np.asarray(gradient).any()


def test_openvino_takes_regions_too(images, region):
    pytest.importorskip("openvino")
    ours = sp.from_pretrained()
    fast = sp.openvino.compile(ours)
    expected = sp.extract(ours, images, region=region, max_keypoints=20)
    found = sp.extract(fast, images, region=region, max_keypoints=20)
    np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=1e-4)


def test_a_wrong_region_is_told():
    shape = (2, 72, 104, 1)
    for region, message in (
        ([[True]], "region is a list; a bool array"),
        (np.ones((2, 72, 104), np.uint8), "region has type uint8; bool is needed: region > 0"),
        (np.ones((2, 72, 100), bool), r"region has shape \(2, 72, 100\); that of the images is needed, \(2, 72, 104\)"),
        (np.ones((72, 104), bool), r"region has shape \(72, 104\)"),
    ):
        with pytest.raises(ValueError, match=message):
            check_region(region, shape)


def test_pixels_of_a_resized_image_come_from_where_their_centres_lie():
    assert source_pixels(6, 3, 6).tolist() == [0, 0, 1, 1, 2, 2]
    assert source_pixels(2, 6, 2).tolist() == [1, 4]  # The centre 0.5 * 3 of the first lies in pixel 1.
    assert source_pixels(3, 2, 3).tolist() == [0, 1, 1]
    assert source_pixels(5, 2, 3).tolist() == [0, 1, 1, 1, 1]  # Beyond the image: its last pixel.
    assert source_pixels(4, jnp.array([2, 4]), jnp.array([4, 4])).tolist() == [[0, 0, 1, 1], [0, 1, 2, 3]]
    region = np.array([[True, False], [False, True]])
    assert resized_region(region, (4, 2)).tolist() == [[True, False]] * 2 + [[False, True]] * 2


# Photos, files and folders


@pytest.fixture
def photo_files(tmp_path, photos):
    """Photos of three sizes, two of one name in two folders; the second is reduced by the processor in these tests."""
    paths = [tmp_path / "photos" / name for name in ("a.png", "b.jpg", "sub/b.jpg")]
    for path, name in zip(paths, ("camera", "motorcycle", "coffee"), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photos[name]).save(path)
    return paths


def left_half(size: tuple[int, int]) -> np.ndarray:
    return np.broadcast_to(np.arange(size[1]) < size[1] // 2, size)


@pytest.fixture
def masks(tmp_path, photo_files):
    """A folder of masks for the last two photos, where the left half is allowed; the values are small."""
    folder = tmp_path / "masks"
    (folder / "sub").mkdir(parents=True)
    for path in photo_files[1:]:
        name = path.relative_to(tmp_path / "photos")
        size = sp.load_image(path).shape[:2]
        Image.fromarray(left_half(size).astype(np.uint8)).save(folder / f"{name}.png")
    return folder


OPTIONS = dict(resize=400, max_keypoints=80)


def test_regions_of_photos_are_at_the_size_of_each_photo(model, photo_files):
    sizes = [sp.load_image(path).shape[:2] for path in photo_files]
    regions = [None, left_half(sizes[1]), left_half(sizes[2]).astype(np.uint8) * 7]
    plain = sp.extract_images(model, photo_files, **OPTIONS)
    found = sp.extract_images(model, photo_files, regions=regions, batch=2, **OPTIONS)
    np.testing.assert_allclose(found[0].keypoints, plain[0].keypoints, atol=1e-3)
    for i in (1, 2):
        assert len(found[i].keypoints) == 80
        x, y = np.floor(found[i].keypoints + 0.5).astype(int).T
        assert (np.asarray(regions[i])[y, x] > 0).all()
        assert (plain[i].keypoints[:, 0] > sizes[i][1] // 2).any()
        alone = sp.extract_images(model, photo_files[i], regions=[regions[i]], **OPTIONS)[0]
        np.testing.assert_allclose(found[i].keypoints, alone.keypoints, atol=1e-3)


@pytest.mark.parametrize("kind", ["path", "Pillow", "16 bit", "palette", "RGB", "1 bit"])
def test_every_kind_of_mask_is_taken_and_only_zero_is_masked(kind, model, photo_files, tmp_path):
    size = sp.load_image(photo_files[0]).shape[:2]
    expected = sp.extract_images(model, photo_files[:1], regions=[left_half(size)], **OPTIONS)[0]
    values = left_half(size).astype(np.uint8)
    picture = {
        "16 bit": Image.fromarray(values.astype(np.uint16)),
        "palette": Image.fromarray(values * 3).convert("P"),
        "RGB": Image.fromarray(np.stack([0 * values, values, 0 * values], axis=-1)),
        "1 bit": Image.fromarray(values * 255).convert("1"),
    }.get(kind, Image.fromarray(values))
    if kind == "palette":
        picture.putpalette([0, 0, 0] * 3 + [0, 0, 9])
    region = picture
    if kind != "Pillow":
        region = tmp_path / "mask.png"
        picture.save(region)
    found = sp.extract_images(model, photo_files[:1], regions=[region], **OPTIONS)[0]
    np.testing.assert_array_equal(found.keypoints, expected.keypoints)


def test_wrong_masks_of_photos_are_told(model, photo_files, tmp_path):
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "mask.png")
    for regions, message in (
        ([tmp_path / "mask.png", None, None], r"mask\.png has 30x20 pixels and .*a\.png has 320x240; a mask must have"),
        ([None, np.ones((2, 3), bool), None], r"the mask has 3x2 pixels and .*b\.jpg has 640x480"),
        ([None, np.ones(5), None], r"the mask of .*b\.jpg has shape \(5,\); \[H,W\] is needed"),
        ([None], "there are 1 regions and 3 images"),
        ([tmp_path / "gone.png", None, None], r"gone\.png: no such file"),
    ):
        with pytest.raises(ValueError, match=message):
            sp.extract_images(model, photo_files, regions=regions)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_folder_of_masks_masks_a_folder_of_photos(workers, model, photo_files, masks, tmp_path):
    told = []
    options = BulkOptions(**OPTIONS, masks=masks, workers=workers, devices=1, engine="xla", descriptors="float32")
    setting = dict(model=model, processor=sp.SuperPointImageProcessor(), tell=told.append)
    extract_files(tmp_path / "photos", tmp_path / "f.h5", options=options, **setting)
    assert f"2 of 3 images have a mask in {masks}" in told
    names = ["a.png", "b.jpg", "sub/b.jpg"]
    regions = [None, masks / "b.jpg.png", masks / "sub" / "b.jpg.png"]
    expected = sp.extract_images(model, photo_files, regions=regions, **OPTIONS)
    for found, one in zip(read_features(tmp_path / "f.h5", names), expected, strict=True):
        np.testing.assert_allclose(found.keypoints_xy, one.keypoints, atol=1e-3)
    if not workers:
        with pytest.raises(Conflict, match="masks was True and is False"):
            extract_files(
                tmp_path / "photos", tmp_path / "f.h5", options=dataclasses.replace(options, masks=None), **setting
            )
        with pytest.raises(ValueError, match="no such folder"):
            BulkOptions(masks=tmp_path / "gone")


def test_a_mask_of_another_size_is_a_failure_of_its_photo_alone(model, photo_files, masks, tmp_path, capsys):
    Image.fromarray(np.ones((20, 30), np.uint8)).save(masks / "a.png.png")
    sp.save_pretrained(model, tmp_path / "weights")
    arguments = ["--masks", str(masks), "--weights", str(tmp_path / "weights"), "--engine", "xla"]
    extract = ["extract", str(tmp_path / "photos"), "-o", str(tmp_path / "f.h5"), "--workers", "0", "--devices", "1"]
    assert main([*extract, *arguments]) == 2
    captured = capsys.readouterr()
    assert "2 images extracted, 0 before, 1 failed" in captured.out
    (line,) = [line for line in captured.err.splitlines() if "error" in line]
    assert "a.png.png has 30x20 pixels and" in line
    assert "a.png has 320x240; a mask must have the size of its image" in line


def test_commands_take_masks(model, photo_files, masks, tmp_path, capsys):
    sp.save_pretrained(model, tmp_path / "weights")
    shared = ["--weights", str(tmp_path / "weights"), "--engine", "xla", "--resize", "400", "--max-keypoints", "80"]
    a, b, c = map(str, photo_files)

    def detected(*arguments):
        assert main(["detect", *arguments, *shared, "--json", str(tmp_path / "k.json")]) == 0
        return [np.array(record["keypoints"]) for record in json.loads((tmp_path / "k.json").read_text())]

    plain, masked = detected(a, b, c), detected(a, b, c, "--masks", str(masks))
    np.testing.assert_array_equal(masked[0], plain[0])  # It has no mask.
    for found, before, width in zip(masked[1:], plain[1:], (640, 300), strict=True):
        assert found[:, 0].max() < width // 2 < before[:, 0].max()
        assert len(found) == 80
    np.testing.assert_array_equal(detected(b, "--mask", str(masks / "b.jpg.png"))[0], masked[1])
    capsys.readouterr()
    assert main(["match", b, c, *shared, "--masks", str(masks), "--json", str(tmp_path / "m.json")]) == 0
    points = json.loads((tmp_path / "m.json").read_text())["points_b"]
    assert points
    assert max(x for x, _ in points) < 150
    detected(a, "--masks", str(masks))
    assert f"no photo has a mask in {masks}; that of {a} is {masks / 'a.png.png'}" in capsys.readouterr().err
    for wrong, message in (
        ([a, b, "--mask", a], "--mask is for one photo"),
        ([a, "--masks", str(tmp_path / "gone")], "no such folder"),
        ([a, "--mask", str(masks / "b.jpg.png")], "b.jpg.png has 640x480 pixels and"),
    ):
        assert main(["detect", *wrong, *shared]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert message in line
