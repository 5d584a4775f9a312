"""Tracks by hand, as a scan, and on moving points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from superpoint_jax import Keypoints, Tracker


def _frame(descriptors, points_xy, mask=None):
    """Keypoints whose descriptors are the unit vectors of those numbers, padded where the mask is False."""
    mask = np.ones(len(descriptors), bool) if mask is None else np.asarray(mask)
    return Keypoints(
        keypoints=jnp.where(mask[:, None], jnp.asarray(points_xy, jnp.float32), 0),
        scores=jnp.where(mask, 0.5, 0.0),
        descriptors=jnp.where(mask[:, None], jnp.eye(8)[jnp.asarray(descriptors)], 0),
        mask=jnp.asarray(mask),
        num_detected=jnp.asarray(mask.sum(), jnp.int32),
        image_sizes=jnp.array([60, 80], jnp.int32),
    )


FRAMES = [
    _frame([0, 1, 2], [[10, 10], [20, 20], [30, 30]]),
    _frame([2, 5, 0], [[31, 30], [50, 50], [11, 10]]),  # 1 is gone, 5 is new
    _frame([5, 1, 0], [[51, 50], [22, 20], [0, 0]], [True, True, False]),  # 2 and 0 are gone, 1 is a new track
]


def _follow(tracker, frames):
    tracks = tracker.start(frames[0])
    yield tracks
    for frame in frames[1:]:
        tracks = tracker.update(tracks, frame)
        yield tracks


def test_ids_ages_and_positions_by_hand():
    first, second, third = _follow(Tracker(length=3), FRAMES)
    np.testing.assert_array_equal(first.ids, [0, 1, 2])
    np.testing.assert_array_equal(first.ages, [0, 0, 0])
    np.testing.assert_array_equal(second.ids, [2, 3, 0])
    np.testing.assert_array_equal(second.ages, [1, 0, 1])
    np.testing.assert_array_equal(second.points_xy[0], [[31, 30], [30, 30], [30, 30]])
    np.testing.assert_array_equal(second.points_xy[1], [[50, 50]] * 3)
    np.testing.assert_array_equal(third.ids, [3, 4, -1])
    np.testing.assert_array_equal(third.ages, [1, 0, 0])
    np.testing.assert_array_equal(third.mask, [True, True, False])
    np.testing.assert_array_equal(third.matches.indices, [1, -1, -1])
    assert [int(tracks.next_id) for tracks in (first, second, third)] == [3, 4, 5]


def test_only_as_many_positions_as_asked_for_are_kept():
    frames = [_frame([0], [[x, 5]]) for x in range(6)]
    *_, last = _follow(Tracker(length=3), frames)
    assert int(last.ages[0]) == 5
    np.testing.assert_array_equal(last.points_xy[0], [[5, 5], [4, 5], [3, 5]])


def test_a_sequence_as_one_scan_is_frame_after_frame():
    tracker = Tracker(length=4)
    frames = jax.tree.map(lambda *leaves: jnp.stack(leaves), *FRAMES)
    together = jax.jit(tracker.track)(frames)
    assert len(together) == 3
    for i, tracks in enumerate(_follow(tracker, FRAMES)):
        for a, b in zip(jax.tree.leaves(together[i]), jax.tree.leaves(tracks), strict=True):
            np.testing.assert_array_equal(a, b)


def test_too_long_a_move_is_another_track():
    frames = [_frame([0, 1], [[10, 10], [20, 20]]), _frame([0, 1], [[13, 14], [25, 20.5]])]
    *_, last = _follow(Tracker(max_move_px=5.0), frames)
    np.testing.assert_array_equal(last.ids, [0, 2])  # 5 px, and 5.02
    np.testing.assert_array_equal(last.matches.mask, [True, False])


def test_descriptors_too_far_apart_are_another_track():
    turned = jnp.array([jnp.cos(0.6), jnp.sin(0.6)] + [0] * 6)  # distance 2 sin 0.3 = 0.59
    frame = _frame([0], [[5, 5]])
    later = Keypoints(**{**vars(frame), "descriptors": turned[None]})
    for limit, expected in ((0.6, 0), (0.58, 1)):
        *_, last = _follow(Tracker(max_distance=limit), [frame, later])
        assert int(last.ids[0]) == expected


def test_empty_frames_end_all_tracks_and_numbers_are_not_given_twice():
    empty = _frame([0, 0, 0], np.zeros((3, 2)), [False] * 3)
    tracks = list(_follow(Tracker(), [empty, FRAMES[0], empty, FRAMES[0]]))
    np.testing.assert_array_equal(tracks[0].ids, [-1] * 3)
    np.testing.assert_array_equal(tracks[1].ids, [0, 1, 2])
    assert not tracks[2].mask.any()
    np.testing.assert_array_equal(tracks[3].ids, [3, 4, 5])


def test_numbers_stay_unique_and_tracks_follow_their_descriptor():
    rng = np.random.default_rng(0)
    frames = [_frame(rng.permutation(8)[:5], rng.uniform(0, 60, (5, 2)), rng.random(5) < 0.8) for _ in range(20)]
    kinds: dict[int, int] = {}
    for frame, tracks in zip(frames, _follow(Tracker(), frames), strict=True):
        ids = np.asarray(tracks.ids)[np.asarray(tracks.mask)]
        assert len(set(ids.tolist())) == len(ids)
        assert (np.asarray(tracks.ids) == -1).sum() == (~np.asarray(frame.mask)).sum()
        for number, descriptor in zip(ids, np.asarray(frame.descriptors)[np.asarray(frame.mask)], strict=True):
            assert kinds.setdefault(int(number), int(descriptor.argmax())) == descriptor.argmax()


def test_one_compilation_for_all_frames():
    from superpoint_jax import tracking

    tracker, before = Tracker(length=7), tracking._update._cache_size()
    for _ in _follow(tracker, [*FRAMES, *FRAMES]):
        pass
    assert tracking._update._cache_size() == before + 1


def test_a_wrong_call_says_what_is_wrong():
    with pytest.raises(ValueError, match="length=0"):
        Tracker(length=0)
    with pytest.raises(ValueError, match=r"max_distance=0\.0"):
        Tracker(max_distance=0.0)
    tracks = Tracker().start(FRAMES[0])
    with pytest.raises(ValueError, match="the frame has 1 rows"):
        Tracker().update(tracks, _frame([0], [[1, 1]]))
    with pytest.raises(ValueError, match=r"one frame \[K\] is needed"):
        Tracker().start(jax.tree.map(lambda x: x[None], FRAMES[0]))
    with pytest.raises(ValueError, match=r"a sequence \[T,K\]"):
        Tracker().track(FRAMES[0])
