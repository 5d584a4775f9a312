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


def run(program: str, home: Path, *arguments: str, url: str, **environment: str) -> tuple[str, str]:
    """Standard output and error of a program in a process of its own, in the folder `home`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE", "XLA_"))}
    # No proxy: loopback is reached directly.
    settings = {"HF_HOME": str(home), "HF_ENDPOINT": url, "NO_PROXY": "127.0.0.1", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=home,
        env={**clean, **settings, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def load(sources: list[str], home: Path, *, url: str, **environment: str) -> tuple[list[dict], str]:
    """What came of each source, and the standard error of the process."""
    stdout, stderr = run(PROGRAM, home, *sources, url=url, **environment)
    return [json.loads(line) for line in stdout.splitlines()], stderr


@pytest.fixture(scope="module")
def repositories(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("repositories")
    plain = from_state_dict(foreign_weights.own(0, CONFIG), config=CONFIG)
    owned = from_state_dict(foreign_weights.own(0, OWNED), config=OWNED)
    save_pretrained(plain, folder / "plain")
    save_pretrained(owned, folder / "owned")
    (folder / "pickled").mkdir()
    torch = pytest.importorskip("torch")
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
    assert sorted(downloads(hub)) == ["config.json", "model.safetensors", "preprocessor_config.json"]

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
def test_the_processing_of_a_repository_is_saved_with_its_weights(repositories, tmp_path):
    files = {**repositories["someone/plain"], "preprocessor_config.json": b'{"do_grayscale": true, "note": 1}'}
    program = """
import superpoint_jax as sp
sp.save_pretrained(sp.from_pretrained("someone/gray"), "saved")
"""
    with serve({"someone/gray": files}) as hub:
        run(program, tmp_path, url=hub.url)
    saved = json.loads((tmp_path / "saved" / "preprocessor_config.json").read_text())
    assert saved == {"do_grayscale": True, "note": 1}


@pytest.mark.slow
def test_what_is_told_to_the_hub_reaches_it(repositories, tmp_path):
    plain = repositories["someone/plain"]
    files = {f"inner/{name}": contents for name, contents in plain.items()}
    program = f"""
import superpoint_jax as sp, superpoint_jax.huggingface as hf
told = dict(subfolder="inner", token="hf_secret", cache_dir="cache", revision="{COMMIT}")
model = hf.SuperPointForKeypointDetection.from_pretrained("someone/nested", **told)
assert model.config.nms_radius == 3
config = hf.SuperPointConfig.from_pretrained("someone/nested", **told)
assert config.nms_radius == 3
hf.AutoImageProcessor.from_pretrained("someone/nested", **told)
sp.SuperPointImageProcessor.from_pretrained("someone/nested", **told)
sp.from_pretrained("someone/nested", local_files_only=True, **told)
sp.from_pretrained("someone/nested", force_download=True, **told)
try:
    sp.from_pretrained("someone/nested", local_files_only=True)
except sp.HubError as error:
    assert "local_files_only is set" in str(error)
else:
    raise AssertionError
try:
    sp.from_pretrained("someone/nested", proxies={{"https": "http://127.0.0.1:1"}})
except ValueError as error:
    assert "set HTTPS_PROXY" in str(error)
"""
    with serve({"someone/nested": files}) as hub:
        run(program, tmp_path, url=hub.url)
        asked = [request for request in hub.requests if "/resolve/" in request]
    assert all("/inner/" in request for request in asked)
    assert {token for request, token in zip(hub.requests, hub.tokens, strict=True) if "/resolve/" in request} == {
        "Bearer hf_secret"
    }
    # Twice: at first, and when told to.
    assert downloads(hub).count("model.safetensors") == 2
    assert (tmp_path / "cache" / "models--someone--nested").is_dir()


@pytest.mark.slow
def test_what_is_pushed_can_be_loaded(tmp_path):
    program = """
import numpy as np
import superpoint_jax.huggingface as hf
sizes = dict(encoder_hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=16, descriptor_decoder_dim=16)
config = hf.SuperPointConfig(**sizes, note=1)
model = hf.SuperPointForKeypointDetection(config)
commit = model.push_to_hub("someone/new", token="hf_secret")
assert commit.oid, commit
hf.SuperPointImageProcessor(do_grayscale=True).push_to_hub("someone/new", commit_message="gray", token="hf_secret")
config.max_keypoints = 9
config.save_pretrained("folder", push_to_hub=True, repo_id="someone/new", token="hf_secret")
again = hf.SuperPointForKeypointDetection.from_pretrained("someone/new")
assert (again.config.note, again.config.max_keypoints) == (1, 9)
for mine, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
    np.testing.assert_array_equal(mine, other)
assert hf.AutoImageProcessor.from_pretrained("someone/new").do_grayscale
"""
    with serve({}) as hub:
        run(program, tmp_path, url=hub.url)
    assert sorted(hub.repositories["someone/new"]) == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert hub.commits == ["Upload SuperPointForKeypointDetection", "gray", "Upload SuperPointConfig"]


@pytest.mark.slow
def test_an_unreachable_hub_with_and_without_a_cache(repositories, tmp_path, expected_sum):
    with serve(repositories) as hub:
        load(["someone/plain"], tmp_path, url=hub.url)
    # The port is closed now.
    (cached, absent), _ = load(["someone/plain", "someone/owned"], tmp_path, url=hub.url)
    assert cached["sum"] == pytest.approx(expected_sum, rel=1e-6)
    assert f"{hub.url} cannot be reached: check the network and HF_ENDPOINT" in absent["error"]


@pytest.mark.slow
def test_a_hub_that_sends_a_byte_now_and_then_is_an_error_at_the_limit(hub, tmp_path, expected_sum):
    program = """
import sys, time
import superpoint_jax as sp
from superpoint_jax import hub
hub.LIMIT_S, hub.TOLD_AFTER_S = 2, 0.5
started = time.monotonic()
try:
    sp.from_pretrained("someone/plain")
except sp.HubError as error:
    print(time.monotonic() - started, error, sep="\\n")
"""
    hub.pause_s = 0.05
    stdout, stderr = run(program, tmp_path, url=hub.url)
    seconds, message = stdout.splitlines()
    assert 2 <= float(seconds) < 10
    assert message == (
        f"{hub.url} has not sent all of config.json of 'someone/plain' within 2 seconds; try again when it is faster, "
        f"run `hf download someone/plain`, which waits without a limit, or pass a file that you have"
    )
    assert "which has not sent all of config.json of someone/plain yet" in stderr
    # What was sent in part is no copy of the file.
    hub.pause_s = 0
    (found,), _ = load(["someone/plain"], tmp_path, url=hub.url)
    assert found["sum"] == pytest.approx(expected_sum, rel=1e-6)


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
