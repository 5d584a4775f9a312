"""Weight files that are not what they seem: each is one error that names the file and says what to do."""

import io
import time
import zipfile

import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from superpoint_jax import hub
from superpoint_jax.cli import main
from superpoint_jax.weights import WeightsError, from_pretrained, from_state_dict, state_dict


def test_weights_that_are_not_finite_are_refused(model):
    tensors = {key: value.copy() for key, value in state_dict(model).items()}
    tensors["encoder.conv_blocks.1.conv_a.weight"][0, 0, 0, 0] = np.nan
    with pytest.raises(WeightsError, match=r"not finite: encoder\.conv_blocks\.1\.conv_a\.weight in 1 values"):
        from_state_dict(tensors)


@pytest.mark.parametrize("kind", ["repeated", "compressed"])
def test_a_small_checkpoint_that_asks_for_much_memory_is_not_opened(kind, model, tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "weights.pth"
    one = torch.zeros(1)
    torch.save({key: one.expand(*value.shape[:-1], 10**6) for key, value in state_dict(model).items()}, path)
    if kind == "compressed":
        contents = io.BytesIO(path.read_bytes())
        with zipfile.ZipFile(contents) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for member in old.infolist():
                new.writestr(member.filename, old.read(member))
            new.writestr("archive/data/99", bytes(2**24))
    assert path.stat().st_size < 100_000
    with pytest.raises(WeightsError, match=r"weights\.pth has 0\.0\d+ MB and its contents .* is not opened"):
        from_pretrained(path)


def test_other_kinds_of_files_are_called_by_their_names(model, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    np.savez(tmp_path / "weights.npz", **state_dict(model))
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as archive:  # As torch.jit.save lays it out.
        for name in ("data.pkl", "constants.pkl", "version"):
            archive.writestr(f"program/{name}", b"\x80\x02}.")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "model.safetensors.index.json").write_text("{}")
    (tmp_path / "shards" / "model-00001-of-00002.safetensors").write_bytes(b"")
    for name, message in (
        ("weights.npz", "is an archive of NumPy (.npz); save its arrays as safetensors"),
        ("program.pt", "is a TorchScript program, which is not opened; save its state dict"),
        ("tensor.pt", "holds a Tensor; a state dict (name: tensor) is needed"),
        ("shards/model.safetensors.index.json", "does not say which file holds each tensor (weight_map)"),
    ):
        source = (tmp_path / name).parent if name.startswith("shards") else tmp_path / name
        assert main(["info", "--weights", str(source)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{tmp_path / name} {message}" in line


def test_a_line_says_what_a_slow_hub_is_asked_for(monkeypatch, caplog):
    def slow(*_, **__):
        time.sleep(0.3)
        raise LocalEntryNotFoundError("silent")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", slow)
    monkeypatch.setattr(hub, "TOLD_AFTER_S", 0.02)
    with pytest.raises(hub.HubError, match="cannot be reached: check the network"):
        hub.fetch("owner/name")
    assert "which has not sent all of config.json of owner/name yet" in caplog.text
    caplog.clear()
    monkeypatch.setattr(hub, "TOLD_AFTER_S", 5)
    with pytest.raises(hub.HubError):
        hub.fetch("owner/name")
    assert not caplog.text
