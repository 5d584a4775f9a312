"""The settings of all tests: types and shapes are checked, float32 is exact, and there are eight host devices."""

import gc
import os
import sys
import time
from pathlib import Path

# These must be set before jax is imported.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import install_import_hook
from PIL import Image
from skimage import data

import tests.type_checker

# Some tests import openvino themselves, whose telemetry would fork this process.
sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

# From here on, every function of the library checks the shapes and types in its signature at every call.
install_import_hook("superpoint_jax", f"{tests.type_checker.__name__}.check")

from superpoint_jax import SuperPoint, SuperPointConfig  # noqa: E402
from tests.random_weights import model_of, random_state  # noqa: E402

# There is no deadline, because the first example of a property compiles for seconds. Every run has the same examples.
settings.register_profile("superpoint_jax", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("superpoint_jax")

SMALL = dict(encoder_hidden_sizes=(8, 8, 16, 16), decoder_hidden_size=16, descriptor_decoder_dim=16)
"""Sizes of a network that a laptop runs in a millisecond. Its rules are those of the large network."""


def pytest_configure(config: pytest.Config) -> None:
    """Keep compiled programs in pytest's cache folder, so that the second run of the suite takes half the time."""
    if config.cache is not None:
        # A command under test must not write into the user's cache folder.
        os.environ["XDG_CACHE_HOME"] = str(config.cache.mkdir("xdg"))
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    CACHE_OPTIONS.update({name: jax.config.values[name] for name in CACHE_OPTIONS})


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip long tests after the time in TESTS_END (seconds since 1970), so that CI reports within its own limit."""
    if item.get_closest_marker("slow") and time.time() > float(os.environ.get("TESTS_END", "inf")):
        pytest.skip("the time for the tests is over (TESTS_END)")


CACHE_OPTIONS: dict = dict.fromkeys(("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"))
"""JAX's cache options at the start of every test."""


@pytest.fixture(autouse=True)
def compilations_as_before():
    """Undo changes of JAX's cache options after each test."""
    yield
    if any(jax.config.values[name] != value for name, value in CACHE_OPTIONS.items()):
        for name, value in CACHE_OPTIONS.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Forget compiled programs after a module where there are many.

    Each takes several of the 65530 memory maps that Linux allows a process; beyond, it crashes.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def nothing_kept():
    """JAX keeps no compilations on disk, as in a process without a cache folder."""
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()


def _photo(name: str, rows: slice, columns: slice, size: tuple[int, int]) -> np.ndarray:
    """A crop of one of scikit-image's photos, resized to (height, width)."""
    pixels = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
    return np.asarray(Image.fromarray(pixels[rows, columns]).resize(size[::-1], Image.Resampling.BILINEAR))


@pytest.fixture(scope="session")
def photos() -> dict[str, np.ndarray]:
    """Real photos, uint8, gray [H,W] or RGB [H,W,3]. None is square, and most sizes are not multiples of 8."""
    everything = slice(None)
    return {
        "camera": _photo("camera", slice(60, 300), slice(100, 420), (240, 320)),
        "coffee": _photo("coffee", everything, everything, (200, 300)),
        "astronaut": _photo("astronaut", slice(0, 340), slice(100, 360), (255, 196)),
        "chelsea": _photo("chelsea", everything, everything, (300, 451)),
        "rocket": _photo("rocket", everything, everything, (213, 320)),
        "coins": _photo("coins", everything, everything, (303, 384)),
        "page": _photo("page", everything, everything, (191, 384)),
        "motorcycle": _photo("motorcycle", slice(0, 480), slice(0, 640), (480, 640)),
    }


@pytest.fixture(scope="session")
def gray_photos(photos: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same photos as float32 gray images [H,W] in [0, 1]."""
    return {
        name: np.asarray(Image.fromarray(pixels).convert("L"), np.float32) / np.float32(255)
        for name, pixels in photos.items()
    }


@pytest.fixture(scope="session")
def random_model():
    """A function (seed, **options) that returns a small SuperPoint whose random weights find keypoints in photos."""

    def build(seed: int = 0, **options) -> SuperPoint:
        config = SuperPointConfig(**{**SMALL, **options})
        return model_of(random_state(seed, config), config)

    return build


@pytest.fixture(scope="session")
def model(random_model) -> SuperPoint:
    return random_model(0)


@pytest.fixture(scope="session")
def images(gray_photos: dict[str, np.ndarray]) -> jax.Array:
    """Two float images [2,72,104,1]."""
    crops = [gray_photos["camera"][40:112, 60:164], gray_photos["coffee"][60:132, 100:204]]
    return jnp.asarray(np.stack(crops)[..., None])
