"""Weights from the Hugging Face hub, through `huggingface_hub` and its cache.

The settings of `huggingface_hub` apply: HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

log = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
WEIGHT_FILES = (
    "model.safetensors",
    "superpoint_jax.safetensors",
    "superpoint_jax_lightglue.safetensors",
    "pytorch_model.bin",
)
"""Names of weight files in a folder or a repository of the hub, in the order in which they are searched."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class HubError(OSError):
    """The hub does not have the weights, or it can't be reached and they are not in its cache."""


def is_hub_id(name: str) -> bool:
    """Whether a name can be "owner/name" on the hub; a name with the suffix of a weight file is a path.

    No SuperPoint on the hub has a name without an owner, so a bare name is taken for a path that does not exist.
    """
    return _HUB_ID.fullmatch(name) is not None and not name.endswith((".safetensors", ".bin", ".pth", ".pt"))


class HubOptions(TypedDict, total=False):
    """Options of a download for `huggingface_hub`, with the names that transformers has for them.

    Attributes:
        revision: A branch, a tag or a commit; None for the main branch.
        token: Token of an account on the hub; True for the one of `hf auth login`, False for none.
        cache_dir: Folder of the cache, instead of the one of HF_HOME.
        local_files_only: Only use files in the cache.
        force_download: Download files again that are in the cache.
        subfolder: Folder of the repository that holds the files.
        proxies: Proxies by protocol, for versions of huggingface_hub before 1.0. Later ones read HTTPS_PROXY instead.
    """

    revision: str | None
    token: str | bool | None
    cache_dir: str | os.PathLike[str] | None
    local_files_only: bool
    force_download: bool
    subfolder: str
    proxies: dict[str, str] | None


def split_options(options: Mapping[str, Any]) -> tuple[HubOptions, dict[str, Any]]:
    """The options that are the hub's, and the others."""
    names = HubOptions.__annotations__
    hub = {name: value for name, value in options.items() if name in names}
    return cast(HubOptions, hub), {name: value for name, value in options.items() if name not in names}


def fetch(repo_id: str, **options: Unpack[HubOptions]) -> Path:
    """The folder of the cache that holds the repository's weights, and its config.json and its
    preprocessor_config.json where it has them.

    Raises:
        HubError: The weights can't be fetched; the message says why and what to do.
    """
    config = fetch_file(repo_id, CONFIG_FILE, **options)
    if config is not None:
        # The commit, so that all files come from the same one. It is the folder below "snapshots" in the cache.
        parts = config.parts
        options = {**options, "revision": parts[len(parts) - parts[::-1].index("snapshots")]}
    for name in WEIGHT_FILES:
        if (path := fetch_file(repo_id, name, **options)) is not None:
            # An older cache may lack it, and nothing that the network computes depends on it.
            with suppress(HubError):
                fetch_file(repo_id, PREPROCESSOR_FILE, **options)
            return path.parent
    raise HubError(f"{repo_id!r} on the hub has none of {', '.join(WEIGHT_FILES)}; is it a SuperPoint or a LightGlue?")


def fetch_file(repo_id: str, filename: str, **options: Unpack[HubOptions]) -> Path | None:
    """The path of a file in the cache, downloaded if necessary; None if the repository has no such file.

    Raises:
        HubError: There is no such repository or revision, no access, or no network.
        ValueError: An option that this version of huggingface_hub does not have.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    given = _understood(options)
    revision = options.get("revision")
    try:
        return _within_limit(lambda: Path(hf_hub_download(repo_id, filename, **given)), repo_id, filename)
    except HubError:
        raise
    except LocalEntryNotFoundError as error:
        # The hub was not reached, or is switched off. The cache also remembers which files a repository does not have.
        path = f"{options.get('subfolder')}/{filename}" if options.get("subfolder") else filename
        folder = options.get("cache_dir")
        folder = None if folder is None else Path(folder)
        cached = try_to_load_from_cache(repo_id, path, cache_dir=folder, revision=revision)
        if cached is not None and not isinstance(cached, str):
            return None
        raise HubError(_unreachable(repo_id, filename, options)) from error
    except EntryNotFoundError:
        return None
    except Exception as error:  # The errors of the HTTP client have no common base class.
        raise HubError(_explain(error, repo_id, revision)) from error


TOLD_AFTER_S = 5
"""A line says what is waited for after this many seconds. A server that is silent for `huggingface_hub`'s own limit (10
seconds, HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT) is asked again a few times before it counts as unreachable."""

LIMIT_S = 600
"""A file that is not complete after this many seconds is an error, since a server that sends a byte now and then never
counts as silent. Weights have 5 to 50 MB, so this is 10 to 80 kB per second."""


def _within_limit(download: Callable[[], Path], repo_id: str, filename: str) -> Path:
    """What a download returns or raises, unless it takes longer than the limit.

    It runs in a thread, because no HTTP client limits the time of a whole answer. After the limit, the thread goes on
    until the process ends, so that a later call may find the file in the cache.

    Raises:
        HubError: The download takes longer.
    """
    from huggingface_hub import constants

    done: Future[Path] = Future()

    def run() -> None:
        try:
            done.set_result(download())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True, name=f"download of {filename}").start()
    wait([done], TOLD_AFTER_S)
    if not done.done():
        log.warning("waiting for %s, which has not sent all of %s of %s yet", constants.ENDPOINT, filename, repo_id)
        wait([done], LIMIT_S - TOLD_AFTER_S)
    if not done.done():
        raise HubError(
            f"{constants.ENDPOINT} has not sent all of {filename} of {repo_id!r} within {LIMIT_S} seconds; try again "
            f"when it is faster, run `hf download {repo_id}`, which waits without a limit, or pass a file that you have"
        )
    return done.result()


def _understood(options: HubOptions) -> dict[str, Any]:
    """The options that say something, as this version of huggingface_hub takes them."""
    from huggingface_hub import hf_hub_download

    given = {name: value for name, value in options.items() if value not in (None, "")}
    if "proxies" in given and "proxies" not in inspect.signature(hf_hub_download).parameters:
        raise ValueError("this version of huggingface_hub takes no proxies; set HTTPS_PROXY in the environment instead")
    return given


def _unreachable(repo_id: str, filename: str, options: HubOptions) -> str:
    from huggingface_hub import constants

    cache = options.get("cache_dir") or constants.HF_HUB_CACHE
    if options.get("local_files_only"):
        reason = "local_files_only is set: leave it out to download"
    elif constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE is set: unset it to download"
    else:
        reason = f"{constants.ENDPOINT} cannot be reached: check the network and HF_ENDPOINT"
    return (
        f"{filename} of {repo_id!r} is not in the hub's cache ({cache}), and {reason}. Or pass a "
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
