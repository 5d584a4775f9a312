"""Synthetic shapes: what is drawn and what is labelled is the same geometry, and every label can be seen."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from superpoint_jax.training import synthetic_scenes as scenes
from superpoint_jax.training.synthetic import (
    KINDS,
    MIN_BORDER_PX,
    MIN_DISTANCE_PX,
    render_shapes,
    sample_scene,
    visible_corners,
)
from superpoint_jax.training.synthetic_drawing import Scene, draw, ellipse_distance, polygon_distance

SHAPE = (96, 128)
BATCH = 270


@pytest.fixture(scope="module")
def batch():
    """Thirty images a kind on average, as numpy."""
    return as_numpy(render_shapes(jax.random.key(7), batch=BATCH, shape=SHAPE))


@pytest.fixture(scope="module")
def sampled() -> Scene:
    """Thirty scenes of each kind, in order of kinds."""
    numbers = jax.random.uniform(jax.random.key(3), (BATCH, scenes.numbers_needed(SHAPE)))
    kind = jnp.arange(BATCH) * len(KINDS) // BATCH
    return jax.jit(jax.vmap(partial(sample_scene, shape=SHAPE)))(numbers, kind)


def as_numpy(tree, index: slice = slice(None)) -> SimpleNamespace:
    """The fields of a dataclass of arrays as numpy."""
    fields = dataclasses.fields(tree)
    return SimpleNamespace(**{field.name: np.asarray(getattr(tree, field.name))[index] for field in fields})


def of_kind(sampled: Scene, kind: str) -> SimpleNamespace:
    first = KINDS.index(kind) * BATCH // len(KINDS)
    return as_numpy(sampled, slice(first, first + BATCH // len(KINDS)))


def square(x: float, y: float, half: float) -> np.ndarray:
    """Corners of a square and four repetitions of the last, which makes eight vertices."""
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)] + [(-1, 1)] * 4)
    return np.array([x, y]) + half * corners


def test_every_kind_occurs_about_equally_often(batch):
    counts = np.bincount(batch.kind, minlength=len(KINDS))
    # Thirty on average; five standard deviations of the binomial distribution are 26.
    assert counts.min() >= 4
    assert counts.max() <= 56


def test_images_are_float32_in_the_unit_interval(batch):
    assert batch.images.shape == (BATCH, *SHAPE, 1)
    assert batch.images.dtype == np.float32
    assert batch.images.min() >= 0
    assert batch.images.max() <= 1


def test_ellipses_and_noise_have_no_corners_and_the_others_do(batch):
    counts = batch.corners_mask.sum(axis=1)
    for index, kind in enumerate(KINDS):
        if kind in ("ellipses", "noise"):
            assert not counts[batch.kind == index].any()
        else:
            # Now and then a shape's corners all lie outside the image.
            assert np.mean(counts[batch.kind == index] > 0) > 0.75, kind


def test_valid_rows_come_first_and_the_others_are_zero(batch):
    assert np.all(np.diff(batch.corners_mask.astype(int), axis=1) <= 0)
    assert not batch.corners_xy[~batch.corners_mask].any()


def test_corners_lie_inside_and_apart(batch):
    limit = np.array(SHAPE[::-1]) - 1 - MIN_BORDER_PX
    for corners, mask in zip(batch.corners_xy, batch.corners_mask, strict=True):
        points = corners[mask]
        assert np.all((points >= MIN_BORDER_PX) & (points <= limit))
        apart = np.linalg.norm(points[:, None] - points[None], axis=-1) + 1e3 * np.eye(len(points))
        assert np.all(apart >= MIN_DISTANCE_PX)


def test_every_labelled_corner_has_contrast(batch):
    # A line of 1.5 px between two pixel centres under the softest edge keeps 0.62 of its contrast; 0.5 leaves room for
    # the background's own slope in the window.
    floor = 0.5 * scenes.MIN_CONTRAST
    for image, corners, mask in zip(batch.images[..., 0], batch.corners_xy, batch.corners_mask, strict=True):
        for x, y in np.rint(corners[mask]).astype(int):
            window = image[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4]
            assert window.max() - window.min() >= floor


@pytest.mark.parametrize("kind", ["polygon", "checkerboard", "cube"])
def test_corners_lie_where_the_gradients_of_the_image_meet(batch, kind):
    """OpenCV's sub-pixel refinement, which knows only the image, comes back to the labelled position."""
    errors = []
    radius = 4
    for i in np.flatnonzero(batch.kind == KINDS.index(kind)):
        points = batch.corners_xy[i][batch.corners_mask[i]]
        apart = np.linalg.norm(points[:, None] - points[None], axis=-1) + 1e3 * np.eye(len(points))
        clear = np.minimum(points, np.array(SHAPE[::-1]) - 1 - points).min(axis=1) > radius + 2
        start = points[clear & (apart.min(axis=1, initial=1e3) > 2 * radius)]
        if not len(start):
            continue
        criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-3)
        guess = np.rint(start).astype(np.float32).reshape(-1, 1, 2)
        refined = cv2.cornerSubPix(batch.images[i, ..., 0].copy(), guess, (radius, radius), (-1, -1), criteria)
        errors.extend(refined[:, 0] - start)
    assert len(errors) >= 20
    # On wedges of 40 to 120 degrees that are drawn by 16-fold supersampling, this refinement is itself 0.16 to 0.34 px
    # off (median), along the bisector; on the saddles of a checkerboard symmetry leaves nothing of that.
    assert np.median(np.linalg.norm(errors, axis=-1)) < (0.1 if kind == "checkerboard" else 0.3)
    # Over many orientations that cancels; pixel centres at halves would leave 0.5 in both axes.
    assert np.abs(np.mean(errors, axis=0)).max() < 0.15


def test_checkerboard_corners_are_a_lattice_under_a_homography(sampled):
    boards = of_kind(sampled, "checkerboard")
    for points, mask in zip(boards.corners_xy, boards.corners_mask, strict=True):
        used = mask.reshape(scenes.LINES, scenes.LINES)
        rows, columns = used.any(axis=1).sum(), used.any(axis=0).sum()
        lattice = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2)
        found = points[mask].astype(np.float64)
        ends = [0, columns - 1, -columns, -1]
        homography = cv2.getPerspectiveTransform(lattice[ends].astype(np.float32), found[ends].astype(np.float32))
        mapped = np.column_stack([lattice, np.ones(len(lattice))]) @ homography.T
        # float32 of some hundred pixels, and the homography is computed from four such points.
        np.testing.assert_allclose(mapped[:, :2] / mapped[:, 2:], found, atol=5e-3)


@pytest.mark.parametrize("kind", ["checkerboard", "stripes"])
def test_lattice_corners_lie_on_the_lines_that_are_drawn(sampled, kind):
    lattice = of_kind(sampled, kind)
    points = lattice.corners_xy.reshape(-1, scenes.LINES, scenes.LINES, 2)
    used = lattice.corners_mask.reshape(-1, scenes.LINES, scenes.LINES)
    for lines, axes in ((lattice.u_lines, "bkl,bk->bkl"), (lattice.v_lines, "bkl,bl->bkl")):
        distance = (
            np.einsum(axes, points[..., 0], lines[..., 0])
            + np.einsum(axes, points[..., 1], lines[..., 1])
            + np.einsum(axes, np.ones_like(points[..., 0]), lines[..., 2])
        )
        assert np.abs(distance[used]).max() < 5e-3
        np.testing.assert_allclose(np.hypot(lines[..., 0], lines[..., 1]), 1, atol=1e-5)


def test_shades_keep_clear_of_the_background_and_of_what_they_lie_upon(sampled):
    floor = scenes.MIN_CONTRAST - 1e-5  # float32
    everything = as_numpy(sampled)
    reach = (everything.amplitude + floor)[:, None]
    apart = np.abs(everything.shades - everything.level[:, None]) - reach
    assert apart[everything.active].min() >= 0
    stripes = of_kind(sampled, "stripes")
    assert np.abs(np.diff(stripes.u_shades, axis=1)).min() >= floor
    assert np.abs(stripes.u_shades - stripes.level[:, None]).min() >= floor
    boards = of_kind(sampled, "checkerboard")
    # Neighbours differ by twice `chess`, and the jitter of a row or column takes 0.02 of that.
    assert 2 * np.abs(boards.chess).min() - 0.02 >= floor


def test_polygon_vertices_turn_and_keep_apart(sampled):
    found = 0
    for kind in ("polygon", "polygons"):
        shapes = of_kind(sampled, kind)
        for polygons, active in zip(shapes.polygons, shapes.active, strict=True):
            for polygon in polygons[active]:
                distinct = polygon[np.any(polygon != np.roll(polygon, 1, axis=0), axis=1)].astype(np.float64)
                assert len(distinct) >= 3
                before, after = distinct - np.roll(distinct, 1, axis=0), np.roll(distinct, -1, axis=0) - distinct
                cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
                turn = np.abs(np.degrees(np.arctan2(cross, np.sum(before * after, axis=1))))
                assert np.all((turn > 24.9) & (turn < 155.1))
                assert np.linalg.norm(before, axis=1).min() > 4.99
                found += 1
    assert found > 50


def test_lines_and_ellipses_keep_clear_of_each_other(sampled):
    y, x = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    for kind, distance in (("lines", polygon_distance), ("ellipses", ellipse_distance)):
        shapes = of_kind(sampled, kind)
        outlines = shapes.polygons if kind == "lines" else shapes.ellipses
        over_layers = jax.jit(jax.vmap(distance, in_axes=(None, None, 0)))
        for i in range(5):
            covered = np.asarray(over_layers(jnp.float32(x), jnp.float32(y), outlines[i])) < 0
            assert covered[shapes.active[i]].sum(axis=0).max(initial=0) <= 1


def test_distance_to_a_square_by_hand():
    x, y = jnp.array([0.0, 0, 3, 5, 0]), jnp.array([0.0, 3, 0, 6, 2])
    distance = jax.jit(polygon_distance)(x, y, jnp.asarray(square(0, 0, 2), jnp.float32))
    np.testing.assert_allclose(distance, [-2, 1, 1, 5, 0], atol=1e-6)


def test_distance_to_a_polygon_with_a_dent_by_hand():
    arrow = jnp.array([(0, 0), (4, 4), (0, 2), (-4, 4)], jnp.float32)
    distance = jax.jit(polygon_distance)(jnp.array([0.0, 0, 0]), jnp.array([3.0, 1, -1]), arrow)
    assert distance[0] > 0
    assert distance[1] < 0
    assert distance[2] == pytest.approx(1)


def test_distance_to_a_circle_is_exact_everywhere_and_to_an_ellipse_on_its_outline():
    x, y = jnp.array([3.0, 9, 1]), jnp.array([1.0, 1, 1])
    np.testing.assert_allclose(jax.jit(ellipse_distance)(x, y, jnp.array([1.0, 1, 4, 4, 0.3]))[:2], [-2, 4], atol=1e-5)
    turned = jax.jit(ellipse_distance)(
        jnp.array([0.0, 2.0]), jnp.array([5.0, 0.0]), jnp.array([0, 0, 5, 2, np.pi / 2], jnp.float32)
    )
    np.testing.assert_allclose(turned, 0, atol=1e-5)


@pytest.fixture(scope="module")
def two_squares() -> Scene:
    """A dark square and a light one over its lower right corner, on grey: vertices and crossings are known."""
    return jax.jit(_two_squares)()


def _two_squares() -> Scene:
    draws = scenes.Draws(jnp.full(scenes.numbers_needed(SHAPE), 0.5))
    empty = scenes.empty_scene(draws, SHAPE)
    polygons = jnp.zeros((8, 8, 2)).at[0].set(square(40, 40, 20)).at[1].set(square(60, 60, 20))
    active = jnp.arange(8) < 2
    crossings, mask, lower, upper = scenes._crossings(polygons[:2], active[:2])
    corners = jnp.concatenate([polygons[0, :4], polygons[1, :4], crossings])
    layers = jnp.repeat(jnp.arange(2), 4)
    scene = scenes._with_corners(
        empty,
        corners,
        jnp.append(jnp.ones(8, bool), mask),
        jnp.append(layers, lower),
        jnp.append(layers, upper),
    )
    return dataclasses.replace(
        scene,
        level=jnp.float32(0.5),
        amplitude=jnp.float32(0),
        polygons=polygons,
        active=active,
        shades=jnp.array([0.0, 1.0] + [0.0] * 6),
    )


find_visible = jax.jit(partial(visible_corners, shape=SHAPE))


def test_a_covered_vertex_is_left_out_and_crossings_are_corners(two_squares):
    corners, mask = find_visible(two_squares)
    visible = {tuple(point) for point in np.asarray(corners)[np.asarray(mask)].tolist()}
    lower = {(20, 20), (60, 20), (20, 60)}  # not (60, 60)
    upper = {(40, 40), (80, 40), (80, 80), (40, 80)}
    assert visible == lower | upper | {(60, 40), (40, 60)}


def test_corners_outside_and_doubles_are_left_out(two_squares):
    scene = two_squares
    near = dataclasses.replace(scene, corners_xy=scene.corners_xy.at[1].set(jnp.array([20.0, 22.5])))
    outside = dataclasses.replace(scene, corners_xy=scene.corners_xy.at[1].set(jnp.array([60.0, 1.5])))
    for changed in (near, outside):
        corners, mask = find_visible(changed)
        assert int(mask.sum()) == 8
        assert (60, 20) not in {tuple(point) for point in np.asarray(corners).tolist()}


def test_layers_are_painted_in_order_with_half_covered_edges(two_squares):
    image = np.asarray(jax.jit(draw)(two_squares, jnp.zeros(SHAPE)))
    assert image[30, 30] == 0  # the lower square
    assert image[50, 50] == 1  # the upper one over it
    assert image[5, 5] == pytest.approx(0.5)
    # The outline runs through the pixel's centre.
    assert image[30, 20] == pytest.approx(0.25)


def test_the_same_key_draws_the_same_and_another_does_not(batch):
    again = as_numpy(render_shapes(jax.random.key(7), batch=BATCH, shape=SHAPE))
    for name, values in vars(batch).items():
        np.testing.assert_array_equal(getattr(again, name), values)
    other = render_shapes(jax.random.key(8), batch=BATCH, shape=SHAPE)
    assert np.mean(np.abs(np.asarray(other.images) - batch.images)) > 0.1


def test_only_the_chosen_kinds_occur():
    chosen = render_shapes(jax.random.key(0), batch=BATCH, shape=SHAPE, kinds=("cube", "star"))
    assert set(np.asarray(chosen.kind).tolist()) == {KINDS.index("cube"), KINDS.index("star")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["polygons", "checkerboard", "cube"])
def test_eager_equals_jit(sampled, kind):
    index = KINDS.index(kind) * BATCH // len(KINDS)
    numbers = jax.random.uniform(jax.random.key(3), (BATCH, scenes.numbers_needed(SHAPE)))[index]
    with jax.disable_jit():
        eager = sample_scene(numbers, jnp.int32(KINDS.index(kind)), shape=SHAPE)
        corners, mask = visible_corners(eager, shape=SHAPE)
    jitted = jax.tree.map(lambda leaf: leaf[index], sampled)
    expected, expected_mask = find_visible(jitted)
    np.testing.assert_array_equal(mask, expected_mask)
    # Fused multiply-adds round once where two operations round twice.
    np.testing.assert_allclose(corners, expected, atol=1e-3)


def test_refused_arguments_say_what_is_needed():
    with pytest.raises(ValueError, match=r"kinds \['circle'\] are not known; choose from lines, polygon"):
        render_shapes(jax.random.key(0), batch=1, shape=SHAPE, kinds=("circle",))
    with pytest.raises(ValueError, match="kinds is empty"):
        render_shapes(jax.random.key(0), batch=1, shape=SHAPE, kinds=())
    with pytest.raises(ValueError, match="32 px"):
        render_shapes(jax.random.key(0), batch=1, shape=(16, 64))
