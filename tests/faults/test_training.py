"""A training run that goes on: with what it was begun with, from a checkpoint that is whole, under its licence."""

import random
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from PIL import Image

from superpoint_jax.cli import main
from superpoint_jax.training.labels import Labelling, check_labels, labels_source
from superpoint_jax.training.loop import TrainConfig, train
from superpoint_jax.training.pairs import PairConfig
from superpoint_jax.training.resuming import restored, save, set_damaged_aside
from superpoint_jax.weights import save_pretrained
from tests.faults.test_outputs import flip

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
    for _ in range(2):  # They keep their names, so that a second attempt does not begin again unasked.
        with pytest.raises(ValueError, match="no checkpoint can be read; move this folder away to begin again"):
            train(first, None, tmp_path, config=CONFIG)


@pytest.fixture
def sealed(tmp_path):
    """A folder with two small checkpoints, and their states by step."""
    states = {step: {"a": jnp.arange(600.0).reshape(20, 30) * step, "step": jnp.int32(step)} for step in (1, 2)}
    with opened(tmp_path / "checkpoints") as manager:
        for step, state in states.items():
            save(manager, step, state)
    return tmp_path / "checkpoints", states


def opened(folder):
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    return ocp.CheckpointManager(folder, options=options)


def test_every_flipped_bit_of_a_checkpoint_is_found_and_the_one_before_is_used(sealed, tmp_path, caplog):
    folder, states = sealed
    files = sorted(path.relative_to(folder) for path in (folder / "2").rglob("*") if path.is_file())
    assert len(files) > 5
    chance = random.Random(0)
    for number, name in enumerate(files * 3):
        run = tmp_path / str(number)
        shutil.copytree(folder, run)
        flip(run / name, chance.randrange((run / name).stat().st_size), chance.randrange(8))
        set_damaged_aside(run)
        with opened(run) as manager:
            found = restored(manager, jax.tree.map(jnp.zeros_like, states[1]))
        jax.tree.map(np.testing.assert_array_equal, found, states[1])
        assert (run / "2.damaged").is_dir()
        assert f"{run / '2'} does not agree with its checksum; it is kept as {run / '2.damaged'}" in caplog.text


def test_whole_checkpoints_are_used_with_a_checksum_and_without_one(sealed):
    folder, states = sealed
    for _ in range(2):
        set_damaged_aside(folder)
        with opened(folder) as manager:
            jax.tree.map(np.testing.assert_array_equal, restored(manager, states[1]), states[2])
        (folder / "2" / "sha256").unlink(missing_ok=True)
    with opened(folder) as manager:
        save(manager, 3, states[2])
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3"]


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


def test_labels_by_other_weights_of_the_same_name_are_not_used(photos, tmp_path, random_model):
    (tmp_path / "photos").mkdir()
    Image.fromarray(photos["camera"]).save(tmp_path / "photos" / "a.png")
    network = str(tmp_path / "network")

    def source() -> str:
        options: Any = dict(labelling=Labelling(homographies=16), dtype="float32", seed=0)
        return labels_source(tmp_path / "photos", detector=network, **options)

    save_pretrained(random_model(0), network)
    np.savez(tmp_path / "labels.npz", source=source())
    check_labels(tmp_path / "labels.npz", source())
    save_pretrained(random_model(1), network)
    with pytest.raises(ValueError, match="made from other photos or with other options"):
        check_labels(tmp_path / "labels.npz", source())
