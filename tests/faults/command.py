"""Runs the real command in a process of its own, under limits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PROGRAM = "import sys; from superpoint_jax.cli import main; sys.exit(main())"


def start(*arguments: object, ulimit: str = "", program: str = PROGRAM) -> subprocess.Popen[str]:
    """The process of a command, or of another Python program, under limits of the shell such as "-f 100"."""
    return subprocess.Popen(
        ["bash", "-c", f'ulimit {ulimit or "-c 0"}; exec "$@"', "bash", sys.executable, "-c", program]
        + [os.fspath(one) if isinstance(one, Path) else str(one) for one in arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "XLA_FLAGS": "", "TQDM_DISABLE": "1"},
    )


def run(*arguments: object, ulimit: str = "", program: str = PROGRAM) -> tuple[int, list[str], list[str]]:
    """The exit code of a command, and the lines that it printed on stdout and stderr."""
    process = start(*arguments, ulimit=ulimit, program=program)
    printed, errors = process.communicate(timeout=300)
    return process.returncode, printed.splitlines(), [line for line in errors.splitlines() if line.strip()]
