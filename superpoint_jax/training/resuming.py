"""Continuing a run: only with what it was begun with, and from the newest checkpoint that is whole."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from superpoint_jax.files import digest_of, digest_of_arrays, replacing, set_aside
from superpoint_jax.processing import list_images

log = logging.getLogger(__name__)


def check_same_run(folder: Path, config: Any, first: Any, data: Any) -> None:
    """Record in the folder of a run what it is made from.

    The trained weights have the licence of the first ones, so a run continues only with the same.

    Args:
        folder: Folder of the run.
        config: Configuration of the run.
        first: The network that the run starts from.
        data: What it is trained on: a pytree of arrays, or None.

    Raises:
        ValueError: The run in the folder was begun with something else; the message says with what.
    """
    # Runs from before this field existed can continue.
    text = f"{config}\n".replace(", accumulate=1)", ")")
    made_from = {
        "another configuration": ("config.txt", text),
        "other first weights (--from)": ("first_weights.sha256", f"{digest_of_arrays(first)}\n"),
        "other photos or pairs": ("photos.sha256", f"{digest_of_arrays(data)}\n"),
    }
    for what, (name, content) in made_from.items():
        if (folder / name).exists() and (folder / name).read_text() != content:
            raise ValueError(
                f"{folder} contains a run with {what}; choose another folder, or give what it was begun with (see "
                f"{folder / name})"
            )
    for name, content in made_from.values():
        with replacing(folder / name) as temporary:
            temporary.write_text(content)


def made_from(data: Path, **options: Any) -> str:
    """The options of what is made from a folder of photos, and a digest of the photos' names and contents, as JSON.

    Times of files do not count, so a run can continue on another machine, on a copy of the photos.
    """
    contents = [(path.relative_to(data).as_posix(), digest_of(path)) for path in list_images(data)]
    return json.dumps({"photos": hashlib.sha256(json.dumps(contents).encode()).hexdigest(), **options})


DIGEST = "sha256"
"""Name of the file in the folder of a checkpoint that has the checksum of its other files. Orbax compares none."""

ALL_DAMAGED = "{}: no checkpoint can be read; move this folder away to begin again"


def save(manager: Any, step: int, state: Any) -> None:
    """Write a checkpoint of an Orbax manager, and then its checksum."""
    import orbax.checkpoint as ocp

    manager.save(step, args=ocp.args.StandardSave(state))
    folder = Path(manager.directory) / str(step)
    with replacing(folder / DIGEST) as temporary:
        temporary.write_text(_digest(folder))


def set_damaged_aside(checkpoints: Path) -> None:
    """Rename the checkpoints in a folder that don't agree with their checksums.

    This has to be done before Orbax opens the folder, because it can't open one with a damaged description. A
    checkpoint without a checksum, from a run that was killed before it was written, is left to `restored`.

    Raises:
        ValueError: There are checkpoints, and all are damaged. They keep their names.
    """
    steps = [folder for folder in checkpoints.glob("*") if folder.name.isdecimal()]
    sealed = [folder for folder in steps if (folder / DIGEST).exists()]
    damaged = [folder for folder in sealed if (folder / DIGEST).read_bytes() != _digest(folder).encode()]
    if damaged and len(damaged) == len(steps):
        raise ValueError(ALL_DAMAGED.format(checkpoints))
    for folder in damaged:
        log.warning("%s does not agree with its checksum; it is kept as %s", folder, set_aside(folder))


def _digest(folder: Path) -> str:
    """The SHA-256 of the names and contents of all files in the folder of a checkpoint but `DIGEST`."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / DIGEST:
            digest.update(f"{path.relative_to(folder)} {digest_of(path)}\n".encode())
    return digest.hexdigest()


def restored(manager: Any, state: Any) -> Any:
    """The state of the newest checkpoint of an Orbax manager that is whole; the given state if there is no checkpoint.

    Newer ones, which are damaged, are set aside.

    Raises:
        ValueError: There are checkpoints, and all are damaged.
    """
    import orbax.checkpoint as ocp

    damaged: list[int] = []
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            found = manager.restore(step, args=ocp.args.StandardRestore(state))
        except Exception as error:  # Orbax raises many kinds of errors for damaged files.
            log.warning("the checkpoint of step %d is damaged: %s", step, str(error).split("\n")[0])
            damaged.append(step)
            continue
        for one in damaged:
            log.warning("it is kept as %s", set_aside(Path(manager.directory) / str(one)))
        manager.reload()
        log.info("resumed from step %d", step)
        return found
    if damaged:
        raise ValueError(ALL_DAMAGED.format(manager.directory))
    return state
