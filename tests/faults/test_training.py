"""A training run that goes on: with what it was begun with, from a checkpoint that is whole, under its licence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from superpoint_jax.cli import main
from superpoint_jax.training.labels import Labelling, check_labels, labels_source
from superpoint_jax.training.loop import TrainConfig, train
from superpoint_jax.training.pairs import PairConfig

CONFIG = TrainConfig(steps=4, photos=0, shapes=1, pairs=PairConfig(shape=(64, 64)), dtype="float32")


@pytest.fixture
def first(random_model):
    """Weights that Magic Leap's licence applies to."""
    model = random_model(0)
    model.magic_leap[...] = jnp.float32(1)
    return model


@pytest.mark.slow
def test_a_run_that_goes_on_keeps_its_licence_and_survives_a_damaged_checkpoint(first, random_model, tmp_path):
    whole = train(first, None, tmp_path / "whole", config=CONFIG, checkpoint_every=1)
    run = tmp_path / "run"
    train(first, None, run, config=CONFIG, checkpoint_every=1, stop_after=3)
    with pytest.raises(ValueError, match=r"a run with other first weights \(--from\)"):
        train(random_model(1), None, run, config=CONFIG)
    unmarked = random_model(0)
    with pytest.raises(ValueError, match="other first weights"):
        train(unmarked, None, run, config=CONFIG)
    for path in (run / "checkpoints" / "3").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    resumed = train(first, None, run, config=CONFIG, checkpoint_every=1)
    assert resumed.origin == "magicleap"
    for a, b in zip(jax.tree.leaves(nnx.state(whole)), jax.tree.leaves(nnx.state(resumed)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (run / "checkpoints" / "3.damaged").is_dir()
    assert train(first, None, run, config=CONFIG).origin == "magicleap"  # With the damaged one beside the others.


def test_a_run_whose_checkpoints_are_all_damaged_says_so(first, tmp_path):
    train(first, None, tmp_path, config=CONFIG, stop_after=1)
    for path in (tmp_path / "checkpoints" / "1").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(ValueError, match="no checkpoint can be read; move this folder away to begin again"):
        train(first, None, tmp_path, config=CONFIG)


def test_labels_of_other_photos_are_not_used(photos, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    Image.fromarray(photos["camera"]).save(tmp_path / "photos" / "a.png")
    options = dict(labelling=Labelling(homographies=16), detector="ours", dtype="float32", seed=0)
    source = labels_source(tmp_path / "photos", **options)
    np.savez(tmp_path / "labels.npz", source=source)
    check_labels(tmp_path / "labels.npz", source)
    Image.fromarray(photos["coffee"]).save(tmp_path / "photos" / "a.png")
    command = ["train", "superpoint", "--data", str(tmp_path / "photos"), "--out", str(tmp_path)]
    assert main(command) == 2
    assert "labels.npz was made from other photos or with other options" in capsys.readouterr().err
