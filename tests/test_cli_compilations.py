"""The command line keeps what was compiled, where it may."""

import jax
import pytest

from superpoint_jax.cli.compilations import keep_compilations


@pytest.fixture
def no_cache(nothing_kept, monkeypatch, tmp_path):
    """JAX as in a process that was told of no folder, and where the user's would be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_compilations_are_kept_in_the_users_cache(no_cache):
    keep_compilations()
    (folder,) = (no_cache / "superpoint_jax").iterdir()
    assert jax.config.jax_compilation_cache_dir == str(folder)


def test_a_folder_that_jax_was_told_of_stays(no_cache, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    keep_compilations()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")


def test_where_nothing_can_be_written_nothing_is_kept(no_cache):
    (no_cache / "superpoint_jax").write_text("a file where the folder would be")
    keep_compilations()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_user_without_a_home_keeps_nothing(no_cache, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.home", homeless)
    keep_compilations()
    assert jax.config.jax_compilation_cache_dir is None
