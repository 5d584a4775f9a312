"""Weights from the Hugging Face hub, through `huggingface_hub` and its cache.

The settings of `huggingface_hub` apply: HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN.
"""

from __future__ import annotations

import re
from pathlib import Path

CONFIG_FILE = "config.json"
WEIGHT_FILES = ("model.safetensors", "superpoint_jax.safetensors", "pytorch_model.bin")
"""Names of weight files in a folder or a repository of the hub, in the order in which they are searched."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class HubError(OSError):
    """The hub does not have the weights, or it can't be reached and they are not in its cache."""


def is_hub_id(name: str) -> bool:
    """Whether a name can be "owner/name" on the hub; a name with the suffix of a weight file is a path.

    No SuperPoint on the hub has a name without an owner, so a bare name is taken for a path that does not exist.
    """
    return _HUB_ID.fullmatch(name) is not None and not name.endswith((".safetensors", ".bin", ".pth", ".pt"))


def fetch(repo_id: str, *, revision: str | None = None) -> Path:
    """The folder of the cache with the repository's weights and, if there is one, its config.json.

    Args:
        repo_id: "owner/name" on the hub.
        revision: A branch, a tag or a commit; None for the main branch.

    Raises:
        HubError: The weights can't be fetched; the message says why and what to do.
    """
    config = fetch_file(repo_id, CONFIG_FILE, revision=revision)
    if config is not None:
        revision = config.parent.name  # The commit, so that both files come from the same one.
    for name in WEIGHT_FILES:
        if (path := fetch_file(repo_id, name, revision=revision)) is not None:
            return path.parent
    raise HubError(f"{repo_id!r} on the hub has none of {', '.join(WEIGHT_FILES)}; is it a SuperPoint?")


def fetch_file(repo_id: str, filename: str, *, revision: str | None = None) -> Path | None:
    """The path of a file in the cache, downloaded if necessary; None if the repository has no such file.

    Raises:
        HubError: There is no such repository or revision, no access, or no network.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo_id, filename, revision=revision))
    except LocalEntryNotFoundError as error:
        # The hub was not reached, or is switched off. The cache also remembers which files a repository does not have.
        cached = try_to_load_from_cache(repo_id, filename, revision=revision)
        if cached is not None and not isinstance(cached, str):
            return None
        raise HubError(_unreachable(repo_id, filename)) from error
    except EntryNotFoundError:
        return None
    except Exception as error:  # The errors of the HTTP client have no common base class.
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
            return f"{repo_id!r} could not be downloaded from the hub ({type(error).__name__}: {reason}); try again"
