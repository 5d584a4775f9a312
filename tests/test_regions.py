"""Regions: keypoints only where a mask allows them, in arrays, lists, files and folders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import superpoint_jax as sp
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
