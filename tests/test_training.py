"""The training step and the loop: views and labels agree, a run can be cut anywhere, a divergence stops it."""

import csv
import errno
import io
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import superpoint_jax as sp
from superpoint_jax.cli import main
from superpoint_jax.evaluation import photo_validator
from superpoint_jax.model import SuperPoint
from superpoint_jax.training.adaptation import corner_heat, homographic_adaptation, label_corners
from superpoint_jax.training.augmentation import (
    add_sensor_noise,
    compressed,
    compressed_randomly,
    defocus,
    photometric,
    quanta_of,
)
from superpoint_jax.training.labelled import Photos, load_photos
from superpoint_jax.training.labels import read_labels
from superpoint_jax.training.loop import (
    TrainConfig,
    create_state,
    mean_gradient,
    train,
    trained_model,
)
from superpoint_jax.training.metrics import Metrics
from superpoint_jax.training.pairs import PairConfig, sample_pairs
from superpoint_jax.training.refinement.head import without_head
from superpoint_jax.training.resuming import check_same_run, made_from
from superpoint_jax.training.runs import Diverged, data_mesh

TINY = TrainConfig(
    steps=4, photos=2, shapes=1, dtype="float32", pairs=PairConfig(shape=(48, 64), labelled_points=8, random_points=4)
)


@pytest.fixture(scope="module")
def labelled(gray_photos) -> Photos:
    """Two photos with the corners of Shi and Tomasi as labels."""
    images = np.zeros((2, 208, 304), np.uint8)
    sizes = np.array([[200, 300], [208, 304]], np.int32)
    for image, size, name in zip(images, sizes, ("coffee", "camera"), strict=True):
        image[: size[0], : size[1]] = (gray_photos[name][: size[0], : size[1]] * 255).astype(np.uint8)
    heat = jax.jit(corner_heat)(jnp.asarray(images)[..., None].astype(jnp.float32) / 255)
    label = jax.jit(partial(label_corners, threshold=0.5, max_corners=64))
    corners_xy, mask = label(heat, jnp.asarray(sizes))
    return Photos(images=jnp.asarray(images), sizes=jnp.asarray(sizes), corners_xy=corners_xy, corners_mask=mask)


def square_corners(low: int = 40, high: int = 80) -> jax.Array:
    image = jnp.zeros((1, 120, 120, 1))
    return image.at[:, low:high, low:high].set(1.0)


def test_corner_heat_finds_the_corners_of_a_square():
    heat = corner_heat(square_corners())
    corners_xy, mask = label_corners(heat, jnp.array([[120, 120]]), threshold=0.5, max_corners=16)
    found = np.sort(np.asarray(corners_xy[mask]), axis=0)
    # The square's corner lies between pixels 39 and 40; the structure tensor peaks up to its smoothing (1.5 px) inside.
    np.testing.assert_allclose(found, [[39.5, 39.5], [39.5, 39.5], [79.5, 79.5], [79.5, 79.5]], atol=1.5)


def test_homographic_adaptation_keeps_corners_in_place():
    sizes = jnp.array([[120, 120]])
    heat = homographic_adaptation(jax.random.key(0), square_corners(), sizes, detector=corner_heat, num_homographies=8)
    assert heat.min() >= 0
    corners_xy, mask = label_corners(heat, sizes, threshold=0.3, max_corners=16)
    assert int(mask.sum()) == 4
    np.testing.assert_allclose(np.sort(corners_xy[mask], axis=0)[[0, 3]], [[39.5] * 2, [79.5] * 2], atol=1.5)


@pytest.mark.parametrize("linear_noise", [False, True])
def test_photometric_of_strength_zero_changes_nothing(gray_photos, linear_noise):
    image = jnp.asarray(gray_photos["camera"])[None, :64, :96, None]
    changed = jax.jit(partial(photometric, strength=0.0, linear_noise=linear_noise))(jax.random.key(0), image)
    np.testing.assert_allclose(changed, image, atol=1e-6)


def test_the_noise_of_a_sensor_has_a_constant_variance_and_one_that_grows_with_the_light():
    """In linear light, over many images and therefore many levels, each drawn as 0.01 u^2 and 0.13 u^2."""
    light = np.array([0.2, 0.4, 0.6])
    images = jnp.broadcast_to(jnp.asarray(light, jnp.float32)[None, None, :, None] ** (1 / 2.2), (4000, 64, 3, 1))
    noisy = np.asarray(jax.jit(add_sensor_noise)(jax.random.key(0), images), np.float64) ** 2.2
    # The mean of u^4 is 1 / 5.
    expected = (0.01**2 + 0.13**2 * light) / 5
    np.testing.assert_allclose(np.mean((noisy - light[:, None]) ** 2, axis=(0, 1))[:, 0], expected, rtol=0.08)
    np.testing.assert_allclose(np.mean(noisy, axis=(0, 1))[:, 0], light, rtol=2e-3)


def test_photometric_stays_in_range_and_depends_on_the_key(gray_photos):
    images = jnp.broadcast_to(jnp.asarray(gray_photos["camera"])[None, :64, :96, None], (4, 64, 96, 1))
    jitted = jax.jit(photometric)
    changed = jitted(jax.random.key(0), images)
    assert 0 <= changed.min() <= changed.max() <= 1
    assert not jnp.array_equal(changed[0], changed[1])
    assert not jnp.array_equal(changed, jitted(jax.random.key(1), images))


def test_degraded_images_are_some_of_all_and_the_others_stay_as_they_are(gray_photos):
    images = jnp.broadcast_to(jnp.asarray(gray_photos["camera"])[None, 100:164, 200:290, None], (32, 64, 90, 1))
    changed = jax.jit(partial(photometric, strength=0.0, degraded=0.5))(jax.random.key(0), images)
    blurred, coarse = (
        jax.jit(partial(change, fraction=0.5))(jax.random.fold_in(jax.random.key(0), part), images)
        for change, part in ((defocus, 4), (compressed_randomly, 5))
    )

    def touched(found):
        return np.abs(np.asarray(found - images)).max(axis=(1, 2, 3)) > 1e-3

    for found in (blurred, coarse):
        assert 8 <= touched(found).sum() <= 24
    assert (touched(blurred) != touched(coarse)).any()
    np.testing.assert_array_equal(touched(changed), touched(blurred) | touched(coarse))
    assert 0 <= changed.min() <= changed.max() <= 1


def test_compression_moves_nothing_and_knows_nothing_of_the_opposite_border(gray_photos):
    photo = np.asarray(gray_photos["camera"])[100:164, 200:290]
    ramp = np.broadcast_to(np.linspace(0, 1, 90, dtype=np.float32), (64, 90))
    images = jnp.asarray(np.stack([photo] * 16 + [ramp] * 16)[..., None])
    found = np.asarray(jax.jit(partial(compressed_randomly, fraction=1.0))(jax.random.key(2), images))[..., 0]
    for image in found[:16]:
        here = np.mean(np.abs(image - photo)[1:-1, 1:-1])
        for axis in (0, 1):
            for step in (-1, 1):
                assert here < np.mean(np.abs(image - np.roll(photo, step, axis))[1:-1, 1:-1])
    errors = np.abs(found[16:] - ramp).mean(axis=(0, 1))
    assert errors[:5].max() < 2 * errors[10:80].max()
    assert errors[-5:].max() < 2 * errors[10:80].max()


@pytest.mark.parametrize("quality", [5, 20, 30, 75])
def test_compression_is_that_of_an_encoder(gray_photos, quality):
    photo = np.round(gray_photos["camera"][100:161, 200:283] * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=quality)
    expected = np.asarray(Image.open(file)).astype(np.float32)
    given = jnp.asarray(photo, jnp.float32)[None, ..., None] / 255
    found = np.asarray(jax.jit(compressed)(given, jnp.array([float(quality)])))[0, ..., 0] * 255
    # The encoder computes with integers, so a coefficient in the middle of two steps may be rounded the other way.
    assert np.mean(np.abs(found - expected)) < 0.1 * np.mean(np.abs(photo - expected))


def test_the_steps_of_compression_are_those_of_an_encoder():
    for quality in range(1, 101):
        file = io.BytesIO()
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(file, "JPEG", quality=quality)
        steps = np.reshape(Image.open(file).quantization[0], (8, 8))
        np.testing.assert_array_equal(quanta_of(jnp.array([float(quality)]))[0], steps, err_msg=str(quality))


def test_a_point_out_of_focus_is_a_disc():
    point = jnp.zeros((64, 15, 15, 1)).at[:, 7, 7].set(1)
    seen = np.asarray(jax.jit(partial(defocus, fraction=1.0))(jax.random.key(1), point))[..., 0]
    np.testing.assert_allclose(seen.sum(axis=(1, 2)), 1, atol=1e-5)
    np.testing.assert_allclose(seen, seen[:, ::-1, ::-1], atol=1e-7)
    y, x = np.mgrid[-7:8, -7:8]
    assert (seen[:, np.hypot(y, x) > 3.5] == 0).all()
    assert (seen <= seen[:, 7:8, 7:8] + 1e-6).all()
    # The area of a disc of this radius is 1 over its height.
    widths = 1 / np.sqrt(seen[:, 7, 7] * np.pi)
    assert widths.min() < 1.5
    assert widths.max() > 2.5


def test_points_of_a_pair_show_the_same_place(labelled):
    sample = jax.jit(partial(sample_pairs, batch=4, config=PairConfig(shape=(96, 128), strength=0.0)))
    pairs = sample(jax.random.key(3), labelled)
    assert int(pairs.points_mask.sum()) > 20

    def value(image: np.ndarray, point: np.ndarray) -> float:
        x, y = np.round(point).astype(int)
        return float(image[y - 1 : y + 2, x - 1 : x + 2].mean())

    differences = [
        abs(value(np.asarray(pairs.images[i, ..., 0]), np.asarray(pairs.points[i, j]))
            - value(np.asarray(pairs.images[i + 4, ..., 0]), np.asarray(pairs.points[i + 4, j])))
        for i, j in np.argwhere(np.asarray(pairs.points_mask))
    ]  # fmt: skip
    # Means of 3x3 windows at two scales: most agree; points at random would differ by the photos' contrast, 0.2.
    assert np.median(differences) < 0.05


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(random_model, labelled, tmp_path):
    model = random_model(0)

    def interrupt(_: SuperPoint) -> dict[str, float]:
        raise KeyboardInterrupt

    whole = train(model, labelled, tmp_path / "whole", config=TINY, log_every=1, checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        train(
            model, labelled, tmp_path / "cut", config=TINY, log_every=1, checkpoint_every=2,
            validate=interrupt, validate_every=3,
        )  # fmt: skip
    train(model, labelled, tmp_path / "stopped", config=TINY, log_every=1, stop_after=3)
    for name in ("cut", "stopped"):
        resumed = train(model, labelled, tmp_path / name, config=TINY, log_every=1, checkpoint_every=2)
        for a, b in zip(jax.tree.leaves(nnx.state(whole)), jax.tree.leaves(nnx.state(resumed)), strict=True):
            np.testing.assert_array_equal(a, b)
    tables = []
    for name in ("whole", "cut", "stopped"):
        with (tmp_path / name / "metrics.csv").open(newline="") as file:
            tables.append([row for row in csv.reader(file) if row[1] != "steps_per_s"])
    assert tables[0] == tables[1] == tables[2]
    with pytest.raises(ValueError, match="another configuration"):
        train(model, labelled, tmp_path / "cut", config=TrainConfig(steps=9), log_every=1)


@pytest.mark.slow
def test_accumulated_gradient_is_the_mean_over_the_micro_batches(random_model, labelled):
    model, key = random_model(0), jax.random.key(5)
    params = create_state(model, TINY).params
    of = jax.jit(mean_gradient, static_argnames="config")
    keys = [jax.random.fold_in(key, i) for i in range(3)]
    singles = [of(params, model, labelled, k, config=TINY) for k in keys]
    assert not np.array_equal(singles[0][1]["loss"], singles[1][1]["loss"])
    accumulated = of(params, model, labelled, key, config=replace(TINY, accumulate=3))
    expected = jax.tree.map(lambda *leaves: np.mean(np.stack(leaves), axis=0), *singles)
    for a, b in zip(jax.tree.leaves(accumulated), jax.tree.leaves(expected), strict=True):
        # Inside a scan XLA sums in another order: rounding relative to the largest entry of the leaf.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


@pytest.mark.slow
def test_several_devices_make_the_step_of_one(random_model, tmp_path):
    model = random_model(0)
    config = replace(TINY, photos=0, steps=2, accumulate=4)
    assert data_mesh(config.accumulate).size == 4, "the tests run with eight devices"
    runs = {
        count: train(model, None, tmp_path / str(count), config=config, log_every=1, devices=jax.devices()[:count])
        for count in (1, 4)
    }
    for a, b, start in zip(*(jax.tree.leaves(nnx.state(m)) for m in (*runs.values(), model)), strict=True):
        # Adam's first steps are about the learning rate whatever the gradient: compare with how far they went.
        assert np.abs(a - b).max() <= 0.02 * np.abs(np.asarray(a) - np.asarray(start)).max() + 1e-7
    tables = []
    for count in (1, 4):
        with (tmp_path / str(count) / "metrics.csv").open(newline="") as file:
            tables.append([float(value) for _, name, value in list(csv.reader(file))[1:] if name != "steps_per_s"])
    np.testing.assert_allclose(tables[0], tables[1], rtol=1e-4)
    # What one device began, several go on with.
    config = tmp_path / "1" / "config.txt"
    assert config.read_text() == (tmp_path / "4" / "config.txt").read_text()


def test_devices_share_the_micro_batches_evenly(caplog):
    caplog.set_level("INFO", logger="superpoint_jax")
    devices = jax.devices()[:3]
    sizes = {n: data_mesh(n, devices) for n in (1, 2, 3, 6, 7)}
    assert {n: 1 if mesh is None else mesh.size for n, mesh in sizes.items()} == {1: 1, 2: 2, 3: 3, 6: 3, 7: 1}
    assert "2 of 3 devices train, so that the 2 parts of a step" in caplog.text


@pytest.mark.slow
def test_a_full_disk_is_told_and_the_same_call_goes_on(random_model, tmp_path, monkeypatch):
    model, config = random_model(0), replace(TINY, photos=0)
    add = Metrics.add

    def full(self: Metrics, step: int, values: dict[str, float]) -> None:
        if step == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, step, values)

    whole = train(model, None, tmp_path / "whole", config=config, log_every=1, checkpoint_every=1)
    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "add", full)
        with pytest.raises(OSError, match="make room, and the same command continues from the last good checkpoint"):
            train(model, None, tmp_path / "full", config=config, log_every=1, checkpoint_every=1)
    resumed = train(model, None, tmp_path / "full", config=config, log_every=1, checkpoint_every=1)
    for a, b in zip(jax.tree.leaves(nnx.state(whole)), jax.tree.leaves(nnx.state(resumed)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_folder_of_photos_is_all_that_fine_tuning_needs(tmp_path, photos, capsys):
    for name in ("coffee", "astronaut"):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(photos[name]).save(tmp_path / "photos" / f"{name}.png")
    options = [
        "--steps",
        "2",
        "--photos",
        "2",
        "--shapes",
        "1",
        "--shape",
        "48",
        "64",
        "--side",
        "160",
        "--homographies",
        "2",
    ]
    command = ["train", "superpoint", "-o", str(tmp_path / "run"), "--from", "ours", *options]
    data = ["--data", str(tmp_path / "photos")]
    assert main([*command, *data, "--stop-after", "1"]) == 0
    labels = (tmp_path / "run" / "labels.npz").stat().st_mtime_ns
    assert main([*command, *data]) == 0
    assert (tmp_path / "run" / "labels.npz").stat().st_mtime_ns == labels, "labels are made once"
    # The refinement head belonged to the keypoints of the weights before.
    tuned, ours = sp.from_pretrained(tmp_path / "run" / "weights"), without_head(sp.from_pretrained())
    differences = [
        np.abs(a - b).max() for a, b in zip(*(jax.tree.leaves(nnx.state(m)) for m in (tuned, ours)), strict=True)
    ]
    assert 0 < max(differences) < 0.01
    for wrong in ([], [*data, "--labels", "x.npz"]):
        assert main([*command, *wrong]) == 2
        assert "either --data" in capsys.readouterr().err


def test_a_run_from_before_accumulation_goes_on(model, tmp_path):
    assert "accumulate" in str(TINY)
    check_same_run(tmp_path, TINY, model, None)
    assert "accumulate" not in (tmp_path / "config.txt").read_text()
    with pytest.raises(ValueError, match="another configuration"):
        check_same_run(tmp_path, replace(TINY, accumulate=2), model, None)


def test_a_step_of_no_micro_batch_is_refused():
    with pytest.raises(ValueError, match="accumulate=0"):
        TrainConfig(accumulate=0)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(random_model, labelled, tmp_path):
    model = random_model(0)
    model.keypoint_decoder.conv_score_b.bias[...] = jnp.full(65, jnp.nan)
    with pytest.raises(Diverged, match="learning_rate"):
        train(model, labelled, tmp_path, config=TINY, log_every=1)


def test_a_run_of_no_steps_is_the_model_itself(model):
    state = create_state(model, TINY)
    for a, b in zip(jax.tree.leaves(trained_model(model, state)), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_photos_that_cannot_be_read_are_named_and_skipped(tmp_path, photos, caplog):
    from PIL import Image

    Image.fromarray(photos["coffee"]).save(tmp_path / "good.png")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    images, sizes, paths = load_photos(tmp_path, side=160)
    assert [path.name for path in paths] == ["good.png"]
    assert sizes.tolist() == [[107, 160]]
    assert images.shape == (1, 160, 160)
    assert "broken.jpg" in caplog.text


def test_photos_are_read_in_gray_or_in_colours(tmp_path, photos):
    from PIL import Image

    Image.fromarray(photos["coffee"]).save(tmp_path / "coffee.png")
    (grays, sizes, _), (colours, colour_sizes, _) = (
        load_photos(tmp_path, side=640, colours=colours) for colours in (False, True)
    )
    np.testing.assert_array_equal(colour_sizes, sizes)
    height, width = sizes[0]
    np.testing.assert_array_equal(colours[0, :height, :width], photos["coffee"])
    np.testing.assert_allclose(colours[0] @ np.array([0.299, 0.587, 0.114]), grays[0], atol=0.51)


def test_folders_without_photos_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no photos"):
        load_photos(tmp_path)
    with pytest.raises(ValueError, match="not a folder"):
        load_photos(tmp_path / "missing")


def test_a_foreign_file_of_labels_is_refused(tmp_path):
    np.savez(tmp_path / "labels.npz", images=np.zeros(1))
    with pytest.raises(ValueError, match="corners_mask"):
        read_labels(tmp_path / "labels.npz")


def test_metrics_of_a_killed_run_are_dropped_and_tensorboard_has_the_rest(tmp_path):
    from tensorboardX.event_file_writer import EventsWriter  # noqa: F401  (the events are real, not skipped)

    metrics = Metrics(tmp_path, 0)
    for step in (10, 20, 30):
        metrics.add(step, {"loss": step / 10})
    metrics.close()
    metrics = Metrics(tmp_path, 20)  # resumed from the checkpoint of step 20
    metrics.add(30, {"loss": 7.0, "validation_repeatability": 0.5})
    metrics.close()
    rows = (tmp_path / "metrics.csv").read_text().split()
    assert rows == ["step,name,value", "10,loss,1", "20,loss,2", "30,loss,7", "30,validation_repeatability,0.5"]
    written = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert b"loss" in written
    assert b"validation/repeatability" in written


def test_validation_photos_of_any_size_become_figures(tmp_path, photos, model, caplog):
    for name in ("camera", "coffee", "astronaut"):
        Image.fromarray(photos[name]).save(tmp_path / f"{name}.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    validate = photo_validator(tmp_path)
    assert validate.keywords["images"].shape == (3, 240, 320, 1)
    assert "bad.png" in caplog.text
    figures = validate(model)
    assert figures == validate(model)
    assert 0 <= figures["repeatability"] <= 1
    assert {"matching_score", "homography_accuracy_3px"} <= set(figures)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the photos can be read"):
        photo_validator(tmp_path / "empty")


@pytest.mark.slow
def test_killed_at_random_moments_a_run_ends_in_the_same_bits(tmp_path):
    """SIGKILL, and the same command again, until it is through; the weights are those of an undisturbed run."""
    options = ["--steps", "12", "--shapes", "2", "--shape", "32", "48", "--checkpoint-every", "1", "--seed", "3"]
    program = "import sys; from superpoint_jax.cli import main; sys.exit(main())"
    environment = os.environ | {
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }

    def start(folder):
        command = [sys.executable, "-c", program, "train", "magicpoint", "-o", str(tmp_path / folder), *options]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)

    assert start("whole").wait(timeout=300) == 0
    chance, kills = random.Random(1), 0
    for _ in range(12):
        process = start("killed")
        checkpoints = tmp_path / "killed" / "checkpoints"
        before = len(list(checkpoints.glob("*"))) if kills else 0
        # Once it has begun to write checkpoints, at any moment: in the middle of one, too.
        while process.poll() is None and not (checkpoints.exists() and len(list(checkpoints.glob("*"))) > before):
            time.sleep(0.005)
        try:
            process.wait(timeout=chance.uniform(0, 0.3))
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    else:
        assert start("killed").wait(timeout=300) == 0
    print(f"{kills} kills")
    assert kills >= 1
    whole, killed = (sp.from_pretrained(tmp_path / name / "weights") for name in ("whole", "killed"))
    jax.tree.map(np.testing.assert_array_equal, *(nnx.to_pure_dict(nnx.state(model)) for model in (whole, killed)))
    tables = [
        [row for row in (tmp_path / name / "metrics.csv").read_text().splitlines() if "per_s" not in row]
        for name in ("whole", "killed")
    ]
    assert tables[0] == tables[1]


def test_what_is_made_from_photos_depends_on_their_names_and_contents_alone(tmp_path):
    for folder, seconds in (("here", 1e9), ("there", 1.5e9)):
        (tmp_path / folder / "deep").mkdir(parents=True)
        for name in ("a.png", "deep/b.png"):
            Image.new("L", (16, 8), len(name)).save(tmp_path / folder / name)
            os.utime(tmp_path / folder / name, (seconds, seconds))
    of_here = made_from(tmp_path / "here", seed=0)
    assert made_from(tmp_path / "there", seed=0) == of_here
    assert made_from(tmp_path / "there", seed=1) != of_here
    Image.new("L", (16, 8), 9).save(tmp_path / "there" / "a.png")
    assert made_from(tmp_path / "there", seed=0) != of_here
    (tmp_path / "here" / "a.png").rename(tmp_path / "here" / "c.png")
    assert made_from(tmp_path / "here", seed=0) != of_here
