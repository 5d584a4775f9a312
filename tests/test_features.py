"""The pytrees that come out: indexing, iteration, numpy lists."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from superpoint_jax import DenseFeatures, Keypoints


@pytest.fixture
def features() -> Keypoints:
    """Three images, four rows, of which 4, 2 and 0 are valid."""
    mask = jnp.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
    count = jnp.arange(12.0).reshape(3, 4)
    return Keypoints(
        keypoints=jnp.stack([count, -count], axis=-1),
        scores=jnp.where(mask, 1 / (1 + count), 0),
        descriptors=jnp.repeat(count[..., None], 5, axis=-1),
        mask=mask,
        num_detected=jnp.array([9, 2, 0]),
        image_sizes=jnp.array([[8, 16], [24, 32], [40, 48]]),
    )


def test_integer_drops_the_batch_axis(features):
    one = features[1]
    assert one.keypoints.shape == (4, 2)
    assert one.num_detected == 2
    np.testing.assert_array_equal(one.image_sizes, [24, 32])


def test_slice_and_array_keep_it(features):
    np.testing.assert_array_equal(features[1:].num_detected, [2, 0])
    np.testing.assert_array_equal(features[jnp.array([2, 0])].num_detected, [0, 9])


def test_length_and_iteration_are_over_images(features):
    assert len(features) == 3
    assert [int(image.num_detected) for image in features] == [9, 2, 0]


def test_to_list_drops_padding(features):
    entries = features.to_list()
    assert [len(entry["keypoints"]) for entry in entries] == [4, 2, 0]
    assert all(isinstance(value, np.ndarray) for entry in entries for value in entry.values())
    np.testing.assert_array_equal(entries[1]["keypoints"], [[4, -4], [5, -5]])
    np.testing.assert_array_equal(entries[1]["descriptors"][:, 0], [4, 5])
    np.testing.assert_array_equal(entries[2]["image_size"], [40, 48])
    assert entries[2]["descriptors"].shape == (0, 5)


def test_to_list_of_one_image_says_what_to_do(features):
    with pytest.raises(ValueError, match=r"to_list needs a batch of images \[B,K\].*Index with a slice"):
        features[0].to_list()


def test_is_a_pytree(features):
    doubled = jax.jit(lambda f: jax.tree.map(lambda leaf: leaf * 2, f.scores))(features)
    np.testing.assert_array_equal(doubled, 2 * features.scores)
    assert len(jax.tree.leaves(features)) == 6  # hidden_states are None
    assert jax.tree.structure(features) == jax.tree.structure(features[:1])


def test_dense_features_index_alike():
    dense = DenseFeatures(logits=jnp.zeros((2, 3, 4, 65)), descriptors=jnp.ones((2, 3, 4, 7)))
    assert dense[0].logits.shape == (3, 4, 65)
    assert dense[1:].descriptors.shape == (1, 3, 4, 7)
    assert len(dense) == 2


def test_an_image_beyond_the_batch_is_an_error(features):
    with pytest.raises(IndexError, match="image 99 of a batch of"):
        features[99]


def test_one_image_has_no_length_and_no_index(features):
    for use in (len, list, lambda one: one[0]):
        with pytest.raises(TypeError, match="of one image"):
            use(features[0])
