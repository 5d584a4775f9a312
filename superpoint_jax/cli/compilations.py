"""A cache on disk, so that what XLA compiled for one command serves the next."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import jax


def keep_compilations() -> None:
    """Keep compiled programs in the user's cache folder from here on, unless JAX was given another folder.

    Each kind of processor has its own folder, because several machines may share one home folder, and a program
    compiled for one may not run on another. Where nothing can be written, nothing is kept.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "superpoint_jax" / f"compilations-{_processor()}"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: the user has no home folder.
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _processor() -> str:
    """A short name for the kind of processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # Not Linux.
        lines = []
    known = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return hashlib.sha256(f"{platform.machine()} {known}".encode()).hexdigest()[:12]
