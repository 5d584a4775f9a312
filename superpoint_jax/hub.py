"""Weights from the Hugging Face hub, through `huggingface_hub` and its cache.

Its own settings hold: HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN.
"""

from __future__ import annotations

import re
from pathlib import Path

CONFIG_FILE = "config.json"
WEIGHT_FILES = (
    "model.safetensors",
    "superpoint_jax.safetensors",
    "superpoint_jax_lightglue.safetensors",
    "pytorch_model.bin",
)
"""Names under which a folder or a repository of the hub holds weights, in the order in which they are looked for."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class HubError(OSError):
    """The hub does not have the weights, or cannot be reached and they are not in its cache."""


def is_hub_id(name: str) -> bool:
    """Whether a name can be "owner/name" on the hub; a weight file's suffix says that it is a path.

    The hub's few names without an owner are older than SuperPoint's port: a bare name is a path that does not exist,
    and saying so at once beats asking the hub for it.
    """
    return _HUB_ID.fullmatch(name) is not None and not name.endswith((".safetensors", ".bin", ".pth", ".pt"))


def fetch(repo_id: str, *, revision: str | None = None) -> Path:
    """The folder of the cache that holds the repository's config.json (if it has one) and its weights.

    Args:
        revision: A branch, a tag or a commit; None for the main branch.

    Raises:
        HubError: It says what is missing and what to do.
    """
    config = fetch_file(repo_id, CONFIG_FILE, revision=revision)
    if config is not None:
        revision = config.parent.name  # The commit, so that both files are of the same.
    for name in WEIGHT_FILES:
        if (path := fetch_file(repo_id, name, revision=revision)) is not None:
            return path.parent
    raise HubError(f"{repo_id!r} on the hub has none of {', '.join(WEIGHT_FILES)}; is it a SuperPoint or a LightGlue?")


def fetch_file(repo_id: str, filename: str, *, revision: str | None = None) -> Path | None:
    """One file in the cache, downloaded if need be; None where the repository has no such file.

    Raises:
        HubError: It cannot be known, or not be had: no such repository or revision, no access, no network.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo_id, filename, revision=revision))
    except LocalEntryNotFoundError as error:
        # Not reached, or told not to try. The cache also remembers what the repository has not.
        cached = try_to_load_from_cache(repo_id, filename, revision=revision)
        if cached is not None and not isinstance(cached, str):
            return None
        raise HubError(_unreachable(repo_id, filename)) from error
    except EntryNotFoundError:
        return None
    except Exception as error:  # The errors of the HTTP client below it have no common base.
        raise HubError(_explain(error, repo_id, revision)) from error


def _unreachable(repo_id: str, filename: str) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE is set: unset it to download"
    else:
        reason = f"{constants.ENDPOINT} cannot be reached: check the network and HF_ENDPOINT"
    return (
        f"{filename} of {repo_id!r} is not in the hub's cache ({constants.HF_HUB_CACHE}), and {reason}. Or pass a "
        f"folder or a file that you have, or nothing for the weights in the package (superpoint_jax.from_pretrained())"
    )


def _explain(error: Exception, repo_id: str, revision: str | None) -> str:
    from huggingface_hub import errors

    match error:
        case errors.GatedRepoError():
            return f"{repo_id!r} asks for an agreement first: accept it on its page, then log in (hf auth login)"
        case errors.RepositoryNotFoundError():
            return (
                f"{repo_id!r} is neither a file or folder here nor a repository of the hub; check the name, or log in "
                f"(hf auth login) if it is private"
            )
        case errors.RevisionNotFoundError():
            return f"{repo_id!r} has no revision {revision!r}; give a branch, a tag or a commit that it has"
        case _:
            reason = str(error).strip().split("\n")[0]
            return f"{repo_id!r} could not be had from the hub ({type(error).__name__}: {reason}); try again"
