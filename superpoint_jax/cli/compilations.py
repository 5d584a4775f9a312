"""What XLA compiled for one command is there for the next."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import jax


def keep_compilations() -> None:
    """From here on compiled programs are kept in the user's cache folder, unless JAX was told of another.

    A folder for each kind of processor: homes are shared by machines, and a program for one may not run on another.
    Where nothing can be written, nothing is kept.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "superpoint_jax" / f"compilations-{_processor()}"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # the latter where a user has no home
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _processor() -> str:
    """A short name of the kind of processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no Linux
        lines = []
    known = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return hashlib.sha256(f"{platform.machine()} {known}".encode()).hexdigest()[:12]
