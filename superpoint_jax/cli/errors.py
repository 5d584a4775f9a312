"""Errors with files and options, each reported in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class CommandError(Exception):
    """An error that is reported to the user in one line."""


@contextmanager
def told() -> Iterator[None]:
    """Turn errors caused by files and options into `CommandError`, which is reported without a traceback.

    Don't put computations into this block: their errors are our bugs and need a traceback.
    """
    try:
        yield
    except OSError as error:
        name = f"{error.filename}: " if error.filename and error.strerror else ""
        raise CommandError(f"{name}{error.strerror or error}") from error
    except (ValueError, ImportError, FloatingPointError) as error:
        raise CommandError(str(error)) from error
    except MemoryError as error:
        raise CommandError("not enough memory") from error


def complain(error: CommandError) -> None:
    """Print an error as one line on stderr."""
    print(f"superpoint-jax: error: {' '.join(str(error).splitlines())}", file=sys.stderr)
