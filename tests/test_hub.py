"""Weights from the hub: the real client in a process of its own, against a server on loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from superpoint_jax import SuperPointConfig
from superpoint_jax.hub import is_hub_id
from superpoint_jax.weights import from_state_dict, save_pretrained, state_dict
from tests import foreign_weights
from tests.conftest import SMALL
from tests.hub_server import COMMIT, Hub, serve

CONFIG = SuperPointConfig.preset("huggingface", **SMALL, nms_radius=3)
OWNED = SuperPointConfig.preset("rpautrat", **SMALL)

PROGRAM = """
import json, sys
# Each source in turn: a line of JSON with what came of it.
import superpoint_jax as sp
from superpoint_jax.weights import state_dict

torch = pytest.importorskip("torch")
for source in sys.argv[1:]:
    name, _, revision = source.partition("@")
    try:
        model = sp.from_pretrained(name, revision=revision or None)
    except sp.HubError as error:
        print(json.dumps({"error": str(error)}))
    else:
        total = sum(float(abs(value).sum()) for value in state_dict(model).values())
        config = model.config
        print(json.dumps({"sum": total, "nms_radius": config.nms_radius, "batch_norm": config.batch_norm}))
"""


def load(sources: list[str], home: Path, *, url: str, **environment: str) -> tuple[list[dict], str]:
    """What came of each source, and the standard error of the process."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE", "XLA_"))}
    # No proxy: loopback is reached directly.
    settings = {"HF_HOME": str(home), "HF_ENDPOINT": url, "NO_PROXY": "127.0.0.1", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *sources],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**clean, **settings, **environment},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.fixture(scope="module")
def repositories(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("repositories")
    plain = from_state_dict(foreign_weights.own(0, CONFIG), config=CONFIG)
    owned = from_state_dict(foreign_weights.own(0, OWNED), config=OWNED)
    save_pretrained(plain, folder / "plain")
    save_pretrained(owned, folder / "owned")
    (folder / "pickled").mkdir()
    torch.save(
        {n: torch.from_numpy(np.array(v)) for n, v in state_dict(plain).items()},
        folder / "pickled" / "pytorch_model.bin",
    )
    (folder / "empty").mkdir()
    (folder / "empty" / "README.md").write_text("nothing")
    contents = {
        f"someone/{path.name}": {file.name: file.read_bytes() for file in path.iterdir()} for path in folder.iterdir()
    }
    return {**contents, "magic-leap-community/superpoint": contents["someone/plain"]}


@pytest.fixture(scope="module")
def expected_sum() -> float:
    return sum(float(np.abs(value).sum()) for value in foreign_weights.own(0, CONFIG).values())


@pytest.fixture
def hub(repositories):
    with serve(repositories) as hub:
        yield hub


def downloads(hub: Hub) -> list[str]:
    return [request.rsplit("/", 1)[-1] for request in asked_for_files(hub) if request.startswith("GET")]


def asked_for_files(hub: Hub) -> list[str]:
    # The client also asks for a list of its own, once a day, that has nothing to do with repositories.
    return [request for request in hub.requests if "/resolve/" in request]


@pytest.mark.slow
def test_download_then_cache_then_offline(hub, tmp_path, expected_sum):
    (first,), _ = load(["someone/plain"], tmp_path, url=hub.url)
    assert first == {"sum": pytest.approx(expected_sum, rel=1e-6), "nms_radius": 3, "batch_norm": False}
    assert sorted(downloads(hub)) == ["config.json", "model.safetensors"]

    # A second process asks whether anything changed, and downloads nothing.
    hub.requests.clear()
    (second,), _ = load(["someone/plain"], tmp_path, url=hub.url)
    assert second == first
    assert asked_for_files(hub)
    assert downloads(hub) == []

    # A commit cannot change: not even asked.
    hub.requests.clear()
    (by_commit,), _ = load([f"someone/plain@{COMMIT}"], tmp_path, url=hub.url)
    assert by_commit == first
    assert asked_for_files(hub) == []

    # Told to be offline: the cache answers, the server hears nothing.
    hub.requests.clear()
    (offline, absent), _ = load(["someone/plain", "someone/owned"], tmp_path, url=hub.url, HF_HUB_OFFLINE="1")
    assert offline == first
    assert "HF_HUB_OFFLINE is set: unset it to download" in absent["error"]
    assert str(tmp_path) in absent["error"]
    assert "superpoint_jax.from_pretrained()" in absent["error"]
    assert hub.requests == []


@pytest.mark.slow
def test_an_unreachable_hub_with_and_without_a_cache(repositories, tmp_path, expected_sum):
    with serve(repositories) as hub:
        load(["someone/plain"], tmp_path, url=hub.url)
    # The port is closed now.
    (cached, absent), _ = load(["someone/plain", "someone/owned"], tmp_path, url=hub.url)
    assert cached["sum"] == pytest.approx(expected_sum, rel=1e-6)
    assert f"{hub.url} cannot be reached: check the network and HF_ENDPOINT" in absent["error"]


@pytest.mark.slow
def test_every_kind_of_repository(hub, tmp_path, expected_sum):
    hub.gated.add("someone/pickled")
    sources = ["someone/owned", "someone/empty", "nobody/nothing", "someone/plain@v9", "someone/pickled"]
    (owned, empty, nothing, revision, gated), _ = load(sources, tmp_path, url=hub.url)
    assert owned["batch_norm"] is True
    assert "has none of model.safetensors" in empty["error"]
    assert "'nobody/nothing' is neither a file or folder here nor a repository of the hub" in nothing["error"]
    assert "'someone/plain' has no revision 'v9'" in revision["error"]
    assert "accept it on its page" in gated["error"]


@pytest.mark.slow
def test_a_repository_with_a_pickle_and_no_config_works_offline_too(hub, tmp_path, expected_sum):
    expected = {"sum": pytest.approx(expected_sum, rel=1e-6), "nms_radius": 4, "batch_norm": False}
    assert load(["someone/pickled"], tmp_path, url=hub.url)[0] == [expected]
    assert load(["someone/pickled"], tmp_path, url=hub.url, HF_HUB_OFFLINE="1")[0] == [expected]


@pytest.mark.slow
def test_magic_leaps_repository_shows_the_licence_once_and_others_do_not(hub, tmp_path):
    sources = ["someone/plain", "magic-leap-community/superpoint", "magic-leap-community/superpoint"]
    _, stderr = load(sources, tmp_path, url=hub.url)
    assert stderr.count("non-commercial research only") == 1
    _, stderr = load(["someone/plain"], tmp_path, url=hub.url)
    assert "non-commercial" not in stderr


@pytest.mark.parametrize(
    ("name", "is_id"),
    [
        ("magic-leap-community/superpoint", True),
        ("superpoint", False),
        ("./superpoint", False),
        ("/tmp/superpoint", False),
        ("a/b/c", False),
        ("weights/superpoint_v1.pth", False),
        ("model.safetensors", False),
        ("../weights", False),
        ("~/weights", False),
        ("", False),
    ],
)
def test_what_can_be_a_hub_id(name, is_id):
    assert is_hub_id(name) is is_id
