"""Pictures: what is drawn lies where it should, in colours that can be told apart, and nothing else changes."""

import dataclasses
import io
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_rgba
from PIL import Image

from superpoint_jax.features import Keypoints
from superpoint_jax.matching import Matches
from superpoint_jax.tracking import Tracker
from superpoint_jax.visualization import (
    draw_descriptor_map,
    draw_keypoints,
    draw_matches,
    draw_score_map,
    draw_tracks,
    new_axes,
    save,
    to_pixels,
)
from superpoint_jax.visualization.canvas import BACKGROUND, CORRECT, WRONG
from superpoint_jax.visualization.maps import _oklab_to_srgb

GRAY = np.full((48, 96), 128, np.uint8)


def keypoints_at(points_xy, scores, *, padding: int = 0) -> Keypoints:
    """One image's keypoints, with rows of padding."""
    count = len(points_xy)
    mask = jnp.arange(count + padding) < count
    return Keypoints(
        keypoints=jnp.pad(jnp.asarray(points_xy, jnp.float32).reshape(-1, 2), ((0, padding), (0, 0))),
        scores=jnp.pad(jnp.asarray(scores, jnp.float32), (0, padding)),
        descriptors=jnp.zeros((count + padding, 4)),
        mask=mask,
        num_detected=jnp.asarray(count, jnp.int32),
        image_sizes=jnp.array([48, 96], jnp.int32),
    )


def pixels_of(axes) -> np.ndarray:
    """The picture as it would be saved."""
    buffer = io.BytesIO()
    axes.figure.savefig(buffer, format="png", dpi="figure")
    return np.asarray(Image.open(buffer).convert("RGB"))


def test_a_picture_is_the_image_without_a_frame():
    """Corner, border and middle have the image's own values: 96 pixels become 960, so each is a block of 10x10."""
    image = np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8)
    picture = pixels_of(draw_keypoints(image, keypoints_at([], [], padding=3)))
    assert picture.shape == (480, 960, 3)
    np.testing.assert_array_equal(picture[5::10, 5::10], image)


def test_a_keypoint_is_drawn_at_its_pixel_centre():
    before = pixels_of(draw_keypoints(GRAY, keypoints_at([], [])))
    after = pixels_of(draw_keypoints(GRAY, keypoints_at([(30, 20)], [0.5], padding=2)))
    rows, columns = np.nonzero((before != after).any(axis=-1))
    # The centre of pixel 30 of ten each is 305, between the samples 304 and 305.
    assert abs((columns.min() + columns.max()) / 2 - 304.5) <= 1
    assert abs((rows.min() + rows.max()) / 2 - 204.5) <= 1
    assert np.ptp(columns) > 5


def test_higher_scores_are_larger_and_brighter_and_on_top():
    axes = draw_keypoints(GRAY, keypoints_at([(70, 20), (10, 20), (40, 20)], [0.9, 0.4, 0.01]))
    (dots,) = axes.collections
    np.testing.assert_allclose(dots.get_offsets(), [(40, 20), (10, 20), (70, 20)])
    assert (np.diff(dots.get_sizes()) > 0).all()
    axes.figure.canvas.draw()
    lightness = dots.get_facecolors()[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0.1).all()


def test_the_view_stays_on_the_image_and_given_axes_are_used():
    axes = new_axes(48, 96)
    assert draw_keypoints(GRAY, keypoints_at([(0, 0), (95, 47)], [1, 1]), axes=axes) is axes
    assert axes.get_xlim() == (-0.5, 95.5)
    assert axes.get_ylim() == (47.5, -0.5)


@pytest.mark.parametrize(
    "image",
    [GRAY, GRAY[..., None], np.repeat(GRAY[..., None], 3, axis=2), GRAY / np.float32(255), jnp.asarray(GRAY)],
    ids=["h w", "h w 1", "h w 3", "float", "jax"],
)
def test_images_of_every_kind_look_the_same(image):
    picture = pixels_of(draw_keypoints(image, keypoints_at([], [])))
    assert (picture == 128).all()


def three_matches() -> tuple[Keypoints, Keypoints, Matches]:
    a = keypoints_at([(10, 10), (20, 20), (30, 30), (40, 40)], [1, 1, 1, 1])
    b = keypoints_at([(5, 30), (5, 20), (5, 10)], [1, 1, 1])
    indices = jnp.array([2, -1, 0, 1], jnp.int32)
    return a, b, Matches(indices, jnp.array([0.9, 0.0, 0.7, 0.8]), indices >= 0)


def lines_of(axes) -> tuple[list, list]:
    """Segments and colours of the match lines."""
    lines = next(collection for collection in axes.collections if hasattr(collection, "get_segments"))
    return [np.round(segment, 3).tolist() for segment in lines.get_segments()], [tuple(c) for c in lines.get_colors()]


def test_matches_are_lines_to_the_second_image_beside_the_first():
    a, b, matches = three_matches()
    axes = draw_matches(GRAY, GRAY[:24], a, b, matches)
    segments, colors = lines_of(axes)
    # In the order of the scores, the best on top; the second image begins at x = 96.
    assert segments == [[[30, 30], [101, 30]], [[40, 40], [101, 20]], [[10, 10], [101, 10]]]
    assert len(set(colors)) == 3
    assert axes.get_xlim() == (-0.5, 191.5)
    picture = pixels_of(axes)
    assert picture.shape == (240, 960, 3)
    assert picture[-3, -3].tolist() == [int(BACKGROUND[1:3], 16)] * 3  # under the lower second image


def test_correct_and_wrong_matches_differ_in_colour_and_are_counted():
    a, b, matches = three_matches()
    axes = draw_matches(GRAY, GRAY, a, b, matches, correct=np.array([True, True, False, True]))
    segments, colors = lines_of(axes)
    by_start = {segment[0][0]: color[:3] for segment, color in zip(segments, colors, strict=True)}
    assert by_start == {10: to_rgba(CORRECT)[:3], 30: to_rgba(WRONG)[:3], 40: to_rgba(CORRECT)[:3]}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["2 correct", "1 wrong"]


def test_inliers_are_coloured_by_score_and_the_others_gray_behind_them():
    a, b, matches = three_matches()
    axes = draw_matches(GRAY, GRAY, a, b, matches, inliers=np.array([False, True, True, True]))
    segments, colors = lines_of(axes)
    # The match of the highest score, at x = 10, is an outlier: behind the others, and gray.
    assert [segment[0][0] for segment in segments] == [10, 30, 40]
    assert [len(set(color[:3])) == 1 for color in colors] == [True, False, False]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["2 inliers", "1 others"]


def test_tracks_are_lines_from_where_they_were():
    def frame(xs):
        points = keypoints_at([(x, 5.0) for x in xs], [1.0] * len(xs))
        return dataclasses.replace(points, descriptors=jnp.eye(4)[: len(xs)])

    tracker = Tracker(length=3)
    tracks = tracker.start(frame([2.0, 20.0]))
    for step in range(1, 5):
        tracks = tracker.update(tracks, frame([2.0 + step, 20.0 + 2 * step]))
    axes = draw_tracks(GRAY, tracks)
    _, lines = axes.collections[:2]
    np.testing.assert_allclose(
        [line.vertices for line in lines.get_paths()], [[[6, 5], [5, 5], [4, 5]], [[28, 5], [26, 5], [24, 5]]]
    )
    assert not draw_tracks(GRAY, tracks, min_age=5).collections[1].get_paths()
    pixels = to_pixels(axes)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3


def test_max_lines_keeps_the_best():
    a, b, matches = three_matches()
    segments, _ = lines_of(draw_matches(GRAY, GRAY, a, b, matches, max_lines=1))
    assert [segment[0] for segment in segments] == [[10, 10]]


def test_no_match_is_two_images_and_no_line():
    a, b, _ = three_matches()
    nothing = Matches(jnp.full(4, -1, jnp.int32), jnp.zeros(4), jnp.zeros(4, bool))
    for correct in (None, np.zeros(4, bool)):
        assert lines_of(draw_matches(GRAY, GRAY, a, b, nothing, correct=correct))[0] == []


def test_a_batch_of_one_is_drawn_and_a_larger_one_refused():
    one = keypoints_at([(10, 10)], [1])
    batch = Keypoints(*(jnp.stack([leaf] * 2) for leaf in (one.keypoints, one.scores, one.descriptors, one.mask)),
                      jnp.array([1, 1], jnp.int32), jnp.full((2, 2), 48, jnp.int32))  # fmt: skip
    assert len(draw_keypoints(GRAY, batch[:1]).collections[0].get_offsets()) == 1
    with pytest.raises(ValueError, match="one image is drawn at a time"):
        draw_keypoints(GRAY, batch)
    with pytest.raises(ValueError, match="a single image"):
        draw_keypoints(GRAY[None, ..., None], one)


def test_a_score_map_is_brightest_at_its_peak():
    scores = np.zeros((48, 96), np.float32)
    scores[20, 30] = 0.5
    for image in (None, GRAY):
        picture = pixels_of(draw_score_map(scores, image=image)).astype(int)
        assert picture[205, 305].tolist() == [253, 231, 37]  # the last colour of viridis
        assert picture[400, 800].sum() < 300
    # On a photo the peak fills 3x3 pixels, so that it outlives the reduction to a small picture.
    assert picture[195, 295].tolist() == [253, 231, 37]
    assert (pixels_of(draw_score_map(np.zeros((48, 96), np.float32))) == [68, 1, 84]).all()


def test_equal_descriptors_have_equal_colours_and_others_do_not():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 16))
    descriptors = np.where((np.arange(12) < 6)[None, :, None], left, right) * np.ones((6, 1, 1))
    axes = draw_descriptor_map(descriptors.astype(np.float32))
    assert axes.get_xlim() == (-0.5, 95.5)
    picture = pixels_of(axes).astype(int)
    assert np.ptp(picture[:, :300].reshape(-1, 3), axis=0).max() <= 2  # bicubic interpolation rounds
    assert np.abs(picture[100, 100] - picture[100, 900]).max() > 100


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_descriptor_maps_of_few_dimensions_and_of_one_cell(dim):
    constant = draw_descriptor_map(np.ones((1, 1, dim), np.float32))
    assert len(np.unique(pixels_of(constant).reshape(-1, 3), axis=0)) == 1
    varied = draw_descriptor_map(np.random.default_rng(0).normal(size=(4, 6, dim)).astype(np.float32))
    assert len(np.unique(pixels_of(varied).reshape(-1, 3), axis=0)) > 10


def test_oklab_of_white_black_and_red():
    """White and black by definition, and Ottosson's published value for sRGB red."""
    lab = np.array([[1.0, 0, 0], [0, 0, 0], [0.62796, 0.22486, 0.12585]])
    np.testing.assert_allclose(_oklab_to_srgb(lab), [[1, 1, 1], [0, 0, 0], [1, 0, 0]], atol=2e-3)


def test_huge_and_tiny_images_become_pictures_of_ordinary_size(tmp_path):
    for shape, size in (((3000, 4000), (1920, 1440)), ((8, 4096), (1920, 16)), ((8, 8), (960, 960))):
        axes = draw_keypoints(np.zeros(shape, np.uint8), keypoints_at([(4, 4)], [1]))
        save(axes, tmp_path / "picture.png")
        with Image.open(tmp_path / "picture.png") as picture:
            assert picture.size == size
        assert axes.get_xlim() == (-0.5, shape[1] - 0.5)


def test_save_says_what_it_cannot_write(tmp_path):
    axes = new_axes(8, 8)
    for suffix in ("jpg", "pdf", "svg"):
        save(axes, tmp_path / f"a.{suffix}")
        assert (tmp_path / f"a.{suffix}").stat().st_size > 500
    with pytest.raises(ValueError, match="not supported"):
        save(axes, tmp_path / "a.xyz")
    with pytest.raises(FileNotFoundError):
        save(axes, tmp_path / "missing" / "a.png")


@pytest.mark.slow
def test_drawing_leaves_pyplot_alone():
    """In a fresh interpreter, since pytest's own has pyplot."""
    program = """
import sys
import superpoint_jax.visualization as v
import numpy as np
assert "matplotlib" not in sys.modules
v.draw_score_map(np.ones((8, 8), np.float32))
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
