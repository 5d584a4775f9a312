"""A few photos of one size, and an extraction that compiles one program for all tests of this folder."""

from collections.abc import Callable

import pytest
from PIL import Image

import superpoint_jax as sp
from superpoint_jax.bulk import BulkOptions, BulkReport, extract_files

OPTIONS = dict(max_keypoints=30, batch=2, part=2, max_shapes=1, workers=0, devices=1, engine="xla")


@pytest.fixture
def folder(photos, tmp_path):
    """Six photos of 64x64 pixels: 1.png, 2.png, 10.png, and the same names in a folder `sub`."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for i, name in enumerate(("1.png", "2.png", "10.png", "sub/1.png", "sub/2.png", "sub/10.png")):
        Image.fromarray(photos["camera"][20 * i : 20 * i + 64, 30 * i : 30 * i + 64]).save(folder / name)
    return folder


@pytest.fixture(scope="session")
def extracted(model) -> Callable[..., BulkReport]:
    """A function (source, output, root=, **options) that extracts; `tell` collects what is told, if it is given."""

    def run(source, output, tell=lambda _: None, root=None, **options) -> BulkReport:
        return extract_files(
            source,
            output,
            model=model,
            processor=sp.SuperPointImageProcessor(),
            options=BulkOptions(**{**OPTIONS, **options}),
            root=root,
            tell=tell,
        )

    return run
