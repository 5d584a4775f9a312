"""The steps that hloc takes with a file of features, written anew by its layout: match pairs, make a database, map.

hloc itself is in no package index. It reads every dataset of an image as floats, and takes the size from `image_size`;
it lists names as the groups that hold datasets; its matches are a group per pair, whose name has - in the place of /.
"""

import h5py
import numpy as np
import pytest

from superpoint_jax.cli import main
from tests.room import CAMERA, render_views, similarity

pycolmap = pytest.importorskip("pycolmap")
pytestmark = pytest.mark.slow


def names_of(features) -> list[str]:
    """The images in a file."""
    found = set()

    def visit(_, item) -> None:
        if isinstance(item, h5py.Dataset):
            found.add(item.parent.name.strip("/"))

    with h5py.File(features, "r", libver="latest") as file:
        file.visititems(visit)
    return sorted(found)


def pair_name(a: str, b: str) -> str:
    return "/".join(name.replace("/", "-") for name in (a, b))


def read(features, name: str) -> dict[str, np.ndarray]:
    """All that the file has of an image, as a matcher gets it, and the shape of its image (channels, height, width)."""
    with h5py.File(features, "r") as file:
        data = {key: value.__array__().astype(np.float32) for key, value in file[name].items()}
        data["shape"] = np.empty((1, *tuple(file[name]["image_size"])[::-1])).shape
    return data


def match_pairs(features, pairs, matches, ratio: float = 0.8) -> None:
    """Mutual nearest neighbours with a ratio test; -1 where there is none."""
    with h5py.File(matches, "a", libver="latest") as file:
        for a, b in pairs:
            one, other = (read(features, name)["descriptors"] for name in (a, b))
            cosines = one.T @ other
            near = cosines.argmax(1)
            top = np.sort(cosines, axis=1)[:, :-3:-1]
            good = (cosines.argmax(0)[near] == np.arange(len(near))) & ((1 - top[:, 0]) < ratio**2 * (1 - top[:, 1]))
            group = file.create_group(pair_name(a, b))
            group.create_dataset("matches0", data=np.where(good, near, -1).astype(np.int16))
            group.create_dataset("matching_scores0", data=np.where(good, top[:, 0], 0).astype(np.float16))


def test_features_go_through_matching_database_and_mapper_as_hloc_does_it(photos, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    centres = {f"seq/{name}": centre for name, centre in render_views(folder / "seq", photos).items()}
    features, matches, path = (tmp_path / name for name in ("features.h5", "matches.h5", "database.db"))
    assert main(["extract", str(folder), "-o", str(features), "--max-keypoints", "600", "--workers", "0"]) == 0
    names = names_of(features)
    assert names == sorted(centres)
    one = read(features, names[0])
    assert one["shape"] == (1, 360, 480)
    assert one["image_size"].tolist() == [480, 360]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 : i + 4]]
    match_pairs(features, pairs, matches)

    focal, cx, cy = CAMERA[0, 0], CAMERA[0, 2] + 0.5, CAMERA[1, 2] + 0.5
    reader = pycolmap.ImageReaderOptions(camera_model="PINHOLE", camera_params=f"{focal},{focal},{cx},{cy}")
    pycolmap.Database.open(path).close()
    pycolmap.import_images(path, folder, pycolmap.CameraMode.SINGLE, names, reader)
    database = pycolmap.Database.open(path)
    ids = {image.name: image.image_id for image in database.read_all_images()}
    with h5py.File(features, "r") as file:
        for name, number in ids.items():
            database.write_keypoints(number, file[name]["keypoints"].__array__() + 0.5)  # COLMAP's origin.
    with h5py.File(matches, "r") as file:
        for a, b in pairs:
            partners = file[pair_name(a, b)]["matches0"].__array__()
            rows = np.flatnonzero(partners != -1)
            database.write_matches(ids[a], ids[b], np.stack([rows, partners[rows]], -1).astype(np.uint32))
    database.close()
    (tmp_path / "pairs.txt").write_text("".join(f"{a} {b}\n" for a, b in pairs))
    pycolmap.verify_matches(path, tmp_path / "pairs.txt")
    options = pycolmap.IncrementalPipelineOptions(ba_refine_focal_length=False, ba_refine_extra_params=False)
    options.random_seed = 0
    (tmp_path / "models").mkdir()
    models = pycolmap.incremental_mapping(path, folder, tmp_path / "models", options)
    model = max(models.values(), key=lambda one: one.num_reg_images())
    assert model.num_reg_images() == 8
    images = [model.image(number) for number in model.reg_image_ids()]
    found = np.array([image.projection_center() for image in images])
    truth = np.array([centres[image.name] for image in images])
    scale, turn, shift = similarity(found, truth)
    # The cameras stand on an arc of radius 2.7.
    assert np.linalg.norm(scale * found @ turn.T + shift - truth, axis=1).max() < 0.03
