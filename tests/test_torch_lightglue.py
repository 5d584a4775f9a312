"""What LightGlue gets from us is what it gets from transformers' own SuperPoint."""

import jax.numpy as jnp
import numpy as np
import pytest

import superpoint_jax as sp
from superpoint_jax import from_torch_lightglue, to_torch_lightglue, to_torch_lightglue_pairs

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def lightglue(weights_like_trained):
    """Transformers' LightGlue with random weights over the weights of `weights_like_trained`."""
    from transformers import LightGlueConfig, LightGlueForKeypointMatching, SuperPointConfig

    torch.manual_seed(0)
    detector = SuperPointConfig(keypoint_threshold=0.005, max_keypoints=-1)
    # Neither stops early nor prunes: both depend on weights that are trained for it.
    config = LightGlueConfig(
        keypoint_detector_config=detector,
        num_hidden_layers=3,
        depth_confidence=-1.0,
        width_confidence=-1.0,
        filter_threshold=0.0,
    )
    model = LightGlueForKeypointMatching(config).eval()
    model.keypoint_detector.load_state_dict(weights_like_trained)
    return model


@pytest.fixture(scope="module")
def weights_like_trained():
    """The package's weights, as transformers names them: random ones find nothing or everything."""
    import tempfile

    from transformers import SuperPointForKeypointDetection

    with tempfile.TemporaryDirectory() as folder:
        sp.save_pretrained(sp.from_pretrained(), folder)
        return SuperPointForKeypointDetection.from_pretrained(folder).state_dict()


@pytest.fixture(scope="module")
def images(photos):
    photo = np.asarray(photos["camera"], np.float32) / 255
    return jnp.asarray(np.stack([photo[:160, :200], photo[20:180, 30:230]]))[..., None]


@pytest.fixture(scope="module")
def features(images):
    model = sp.from_pretrained(config="huggingface")
    return sp.extract(model, images, keypoint_threshold=0.005, max_keypoints=-1)


def _torch(x):
    return torch.from_dlpack(x) if hasattr(x, "__dlpack__") else x


def test_lightglue_finds_what_it_finds_with_transformers_superpoint(lightglue, images, features):
    with torch.no_grad():
        pixels = torch.from_numpy(np.array(images).transpose(0, 3, 1, 2)).repeat(1, 3, 1, 1)[None]
        expected = lightglue(pixels)
        tensors = {name: _torch(x) for name, x in to_torch_lightglue_pairs(features[:1], features[1:]).items()}
        matches, scores, *_ = lightglue._match_image_pair(**tensors)
    counts = expected.mask.sum(-1)[0].tolist()
    assert min(counts) > 20
    assert counts == np.asarray(features.mask.sum(1)).tolist()
    ours = from_torch_lightglue(
        matches.reshape(1, 2, -1)[:, 0], scores.reshape(1, 2, -1)[:, 0], features[:1], features[1:]
    )

    # Transformers lists keypoints in raster order, we by score: compare the points that are matched.
    def pairs(points_a, points_b, rows, partners, scores):
        order = np.lexsort(points_a[rows].T)
        return np.concatenate([points_a[rows], points_b[partners]], axis=1)[order], scores[rows][order]

    valid = [np.flatnonzero(mask) for mask in expected.mask[0].numpy()]
    indices = expected.matches.reshape(2, -1)[0].numpy()
    rows = np.array([row for row in valid[0] if indices[row] in valid[1]])
    points = np.round(expected.keypoints[0].numpy() * [images.shape[2], images.shape[1]])
    theirs = pairs(*points, rows, indices[rows], expected.matching_scores.reshape(2, -1)[0].numpy())
    rows = np.flatnonzero(ours.mask[0])
    found = pairs(*np.asarray(features.keypoints), rows, np.asarray(ours.indices)[0, rows], np.asarray(ours.scores)[0])
    assert len(theirs[0]) > 50
    np.testing.assert_array_equal(found[0], theirs[0])
    np.testing.assert_allclose(found[1], theirs[1], rtol=1e-3, atol=1e-6)


def test_padding_rows_change_nothing(lightglue, features):
    padded = sp.Keypoints(
        **{
            name: jnp.pad(value, [(0, 0), (0, 7)] + [(0, 0)] * (value.ndim - 2))
            if name in ("keypoints", "scores", "descriptors", "mask")
            else value
            for name, value in vars(features).items()
        }
    )
    with torch.no_grad():
        plain, padded = (
            lightglue._match_image_pair(
                **{name: _torch(x) for name, x in to_torch_lightglue_pairs(f[:1], f[1:]).items()}
            )
            for f in (features, padded)
        )

    def answer(result):
        matches, scores = (x.reshape(1, 2, -1)[:, 0] for x in result[:2])
        return from_torch_lightglue(matches, scores, features[:1], features[1:])

    np.testing.assert_array_equal(answer(padded).indices, answer(plain).indices)
    np.testing.assert_allclose(answer(padded).scores, answer(plain).scores, atol=1e-5)


def test_cvg_s_dictionary_has_its_shapes_and_no_padding(features):
    one = to_torch_lightglue(features[0])
    count = int(features.mask[0].sum())
    assert one["keypoints"].shape == (1, count, 2)
    assert one["descriptors"].shape == (1, count, 256)
    np.testing.assert_array_equal(one["image_size"], [[200, 160]])  # (width, height)
    np.testing.assert_array_equal(to_torch_lightglue(features[0], (480, 640))["image_size"], [[640, 480]])
    np.testing.assert_array_equal(one["keypoints"][0], features.keypoints[0, :count])
    assert {str(value.dtype) for value in one.values()} == {"float32"}


def test_dlpack_copies_nothing(features):
    keypoints = to_torch_lightglue(features[0])["keypoints"]
    assert torch.from_dlpack(keypoints).data_ptr() == keypoints.unsafe_buffer_pointer()


def _keypoints(*masks):
    mask = jnp.array(masks)
    return sp.Keypoints(
        keypoints=jnp.zeros((*mask.shape, 2)),
        scores=jnp.zeros(mask.shape),
        descriptors=jnp.zeros((*mask.shape, 4)),
        mask=mask,
        num_detected=mask.sum(-1),
        image_sizes=jnp.full((len(masks), 2), 32),
    )


def test_the_answer_becomes_matches_and_padding_none():
    a = _keypoints([True, True, True, False, False])
    b = _keypoints([True, True, True, False])
    indices, scores = torch.tensor([[2, -1, 3]]), torch.tensor([[0.9, 0.1, 0.4]])
    matches = from_torch_lightglue(indices, scores, a, b)
    np.testing.assert_array_equal(matches.indices, [[2, -1, -1, -1, -1]])
    np.testing.assert_array_equal(matches.mask, [[True, False, False, False, False]])
    np.testing.assert_allclose(matches.scores, [[0.9, 0, 0, 0, 0]], rtol=1e-6)
    np.testing.assert_array_equal(from_torch_lightglue(indices, scores, a[0], b[0]).indices, matches.indices[0])


def test_a_wrong_call_says_what_is_wrong(features):
    assert int(features.mask[0].sum()) != int(features.mask[1].sum())
    with pytest.raises(ValueError, match="LightGlue takes no mask; give one image at a time"):
        to_torch_lightglue(features)
    with pytest.raises(ValueError, match="a has 2 images and b has 1"):
        to_torch_lightglue_pairs(features, features[:1])
    other = sp.Keypoints(**{**vars(features[:1]), "image_sizes": jnp.array([[100, 100]])})
    with pytest.raises(ValueError, match="give image_size"):
        to_torch_lightglue_pairs(features[:1], other)
    assert to_torch_lightglue_pairs(features[:1], other, (160, 200))["width"] == 200
    with pytest.raises(ValueError, match=r"indices have shape \(2, 3\)"):
        from_torch_lightglue(torch.zeros((2, 3), dtype=torch.int32), torch.zeros((2, 3)), features[:1], features[1:])


def test_the_old_names_still_work_and_say_the_new_ones(features):
    with pytest.warns(DeprecationWarning, match="to_torch_lightglue"):
        old = sp.to_lightglue(features[0])
    assert np.array_equal(old["keypoints"], sp.to_torch_lightglue(features[0])["keypoints"])
    with pytest.warns(DeprecationWarning, match="to_torch_lightglue_pairs"):
        tensors = sp.to_lightglue_pairs(features[:1], features[1:])
    assert tensors["mask"].shape[:2] == (1, 2)
    nothing = np.full((1, 4), -1), np.zeros((1, 4))
    with pytest.warns(DeprecationWarning, match="from_torch_lightglue"):
        assert not sp.from_lightglue(*nothing, features[:1], features[1:]).mask.any()
