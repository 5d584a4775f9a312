"""Images that look alike, by their descriptors."""

import numpy as np
import pytest

import superpoint_jax as sp
from benchmarks.rendered import ring
from superpoint_jax.bulk import BulkOptions, extract_files
from superpoint_jax.bulk.hloc import ImageFeatures, write_features
from superpoint_jax.bulk.pairs import Pairing, pairs_of
from superpoint_jax.bulk.similar import similar_pairs
from tests.test_bulk import _verified

h5py = pytest.importorskip("h5py")

PLACES, FRAMES = 24, 30
"""Frames 24 to 29 are at the places of frames 0 to 5 again."""


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """Frames that see the descriptors of their place and of the next one, with noise; the last six are a return."""
    rng = np.random.default_rng(0)
    seen_at = rng.normal(size=(PLACES, 40, 64))
    path, names = tmp_path_factory.mktemp("walk") / "f.h5", [f"{frame}.png" for frame in range(FRAMES)]
    with h5py.File(path, "w") as file:
        for frame, name in enumerate(names):
            seen = np.concatenate([seen_at[frame % PLACES], seen_at[(frame + 1) % PLACES]])
            seen = seen + 0.2 * rng.normal(size=seen.shape)
            seen /= np.linalg.norm(seen, axis=1, keepdims=True)
            write_features(file, name, ImageFeatures(np.zeros((80, 2)), np.ones(80), seen, (100, 100), 1.0))
    return dict.fromkeys(names, path), names


def test_a_return_is_found(walk):
    features, names = walk
    near = set(map(frozenset, pairs_of(names, "sequential")))
    pairs = similar_pairs(features, names, 1, near)
    assert not near & set(map(frozenset, pairs))
    for frame in range(PLACES, FRAMES):
        assert (names[frame - PLACES], names[frame]) in pairs
    assert pairs == similar_pairs(features, names, 1, near)


def test_without_other_pairs_the_next_frames_are_most_similar(walk):
    features, names = walk
    pairs = similar_pairs(features, names, 2, ())
    assert len(pairs) == len(set(map(frozenset, pairs)))
    assert ("10.png", "11.png") in pairs
    assert ("11.png", "12.png") in pairs


def test_images_without_keypoints_are_similar_to_none(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        empty = ImageFeatures(np.zeros((0, 2)), np.zeros(0), np.zeros((0, 64)), (100, 100), 1.0)
        for name in ("a", "b"):
            write_features(file, name, empty)
    assert similar_pairs(dict.fromkeys("ab", tmp_path / "f.h5"), ["a", "b"], 3, ()) == []


def test_loops_are_pairs_too():
    assert Pairing(loops=2).wanted
    with pytest.raises(ValueError, match="loops=-1; 0 or more is needed"):
        BulkOptions(loops=-1)
    with pytest.raises(ValueError, match="loops=2; 0 or more is needed, and 0 where every image is matched"):
        BulkOptions(loops=2, matches="exhaustive")


@pytest.mark.slow
def test_loops_close_a_ring_of_views(tmp_path):
    pytest.importorskip("pycolmap")
    frames = np.arange(FRAMES)  # The second turn is 5 degrees further.
    ring(np.radians(frames * 360 / PLACES + 5 * (frames >= PLACES))).write(tmp_path / "views")
    report = extract_files(
        tmp_path / "views",
        tmp_path / "f.db",
        model=sp.from_pretrained(),
        processor=sp.SuperPointImageProcessor(),
        options=BulkOptions(max_keypoints=512, matches="sequential", loops=3, workers=0, devices=1),
    )
    sequential = sum(1 for _ in pairs_of([str(frame) for frame in range(FRAMES)], "sequential"))
    verified = _verified(tmp_path / "f.db")
    far = {pair: count for pair, count in verified.items() if int(pair[1][:2]) - int(pair[0][:2]) > 10}
    print(report.pairs_tried - sequential, far)
    for frame in range(PLACES, FRAMES):
        assert (f"{frame - PLACES:02}.png", f"{frame:02}.png") in far
    # Views more than a quarter turn apart share no side of the box that both see well. By chance, one such pair may
    # just reach the number of matches that COLMAP asks for.
    turns = {pair: (int(pair[1][:2]) - int(pair[0][:2])) % PLACES for pair in far}
    wrong = [far[pair] for pair, turn in turns.items() if min(turn, PLACES - turn) > PLACES / 4]
    assert len(wrong) <= 1
    assert all(count < 18 for count in wrong)
