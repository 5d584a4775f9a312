"""What it means that two programs find the same keypoints."""

import numpy as np

from superpoint_jax import Keypoints


def assert_same_keypoints(a: Keypoints, b: Keypoints, *, within: float = 1e-5) -> None:
    """Equal up to rounding: scores and descriptors are `within` of each other.

    Two keypoints whose scores are equal up to rounding may have changed rows, and a soft-argmax moves by a little more.
    """
    assert np.asarray(b.mask).any()
    np.testing.assert_array_equal(a.mask, b.mask)
    np.testing.assert_array_equal(a.num_detected, b.num_detected)
    np.testing.assert_array_equal(a.image_sizes, b.image_sizes)
    np.testing.assert_allclose(a.scores, b.scores, rtol=0, atol=within)
    close = np.abs(np.asarray(a.keypoints) - np.asarray(b.keypoints)).max(axis=-1) < 1e-2
    assert close.mean() > 0.99
    np.testing.assert_allclose(np.asarray(a.descriptors)[close], np.asarray(b.descriptors)[close], rtol=0, atol=within)
