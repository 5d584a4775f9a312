"""Runs the real command in a process of its own, under limits."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "import sys; from superpoint_jax.cli import main; sys.exit(main())"]


def start(*arguments: object, limits: dict[int, int] | None = None) -> subprocess.Popen[str]:
    """The process of a command; `limits` are those of `resource`, in bytes."""

    def limit() -> None:
        for kind, most in (limits or {}).items():
            resource.setrlimit(kind, (most, most))

    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "XLA_FLAGS": "", "TQDM_DISABLE": "1"},
        preexec_fn=limit,
    )


def run(*arguments: object, limits: dict[int, int] | None = None) -> tuple[int, list[str]]:
    """The exit code of a command and the lines that it printed as errors."""
    process = start(*arguments, limits=limits)
    _, errors = process.communicate(timeout=300)
    return process.returncode, [line for line in errors.splitlines() if line.strip()]
