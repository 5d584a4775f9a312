"""The command line: `superpoint-jax COMMAND`, one module per command, thin over the library.

Exit codes: 0 if all went well; 2 if a command could not be understood, or if any of its files could not be read or
written. An error with a file is reported in one line on stderr, and an error with one image does not stop the others.
For a command line that cannot be understood, its options are explained.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import itertools
import os
import sys
from collections.abc import Sequence

import tyro

from superpoint_jax.cli.app import app
from superpoint_jax.cli.compilations import keep_compilations
from superpoint_jax.cli.convert import convert
from superpoint_jax.cli.demo import demo
from superpoint_jax.cli.describe import describe
from superpoint_jax.cli.detect import detect
from superpoint_jax.cli.errors import CommandError, complain, told
from superpoint_jax.cli.export import export
from superpoint_jax.cli.extract import extract
from superpoint_jax.cli.info import info
from superpoint_jax.cli.match import match
from superpoint_jax.cli.reconstruct import reconstruct
from superpoint_jax.cli.stitch import stitch
from superpoint_jax.cli.track import track

COMMANDS = {
    "detect": detect,
    "describe": describe,
    "match": match,
    "stitch": stitch,
    "track": track,
    "extract": extract,
    "reconstruct": reconstruct,
    "app": app,
    "demo": demo,
    "convert": convert,
    "export": export,
    "info": info,
}

LATER = {"train": "superpoint_jax.cli.train", "evaluate": "superpoint_jax.cli.evaluate"}
"""Commands that have subcommands or need extras; each is imported when it is called."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: also 130 after Ctrl-C, and 141 where nobody reads the output."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # So that any name can be printed on any terminal.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("superpoint-jax: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Nothing can be written any more; this keeps Python from trying at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code


def _run(arguments: Sequence[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        print(f"superpoint-jax {importlib.metadata.version('superpoint-jax')}")
        return 0
    arguments = _renamed(arguments)
    keep_compilations()
    if arguments and arguments[0] in LATER:
        return _run_later(*arguments)
    try:
        return tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="superpoint-jax",
            description=(
                "SuperPoint keypoints and descriptors. Two more commands have their own --help: "
                "`superpoint-jax train` and `superpoint-jax evaluate`. --version prints the version."
            ),
            args=arguments,
        )
    except CommandError as error:
        complain(error)
        return 2


def _renamed(arguments: list[str]) -> list[str]:
    """The arguments with `extract --engine local|ray` renamed to --executor, until the next release."""
    for i, (name, value) in enumerate(itertools.pairwise(arguments)):
        if arguments[0] == "extract" and name == "--engine" and value in ("local", "ray"):
            print(f"superpoint-jax: warning: --engine {value} is now called --executor {value}", file=sys.stderr)
            return [*arguments[:i], "--executor", *arguments[i + 1 :]]
    return arguments


def _run_later(name: str, *arguments: str) -> int:
    """Run a command of `LATER` and return its exit code; its errors are reported like all others."""
    try:
        with told():
            importlib.import_module(LATER[name]).main(arguments)
    except CommandError as error:
        complain(error)
        return 2
    return 0
