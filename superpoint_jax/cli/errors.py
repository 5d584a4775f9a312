"""What goes wrong with files and options, told in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class CommandError(Exception):
    """What the user is told in one line."""


@contextmanager
def told() -> Iterator[None]:
    """What files and options can make go wrong, told without a traceback. Not for computing: those are our bugs."""
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
    """One line on stderr."""
    print(f"superpoint-jax: error: {' '.join(str(error).splitlines())}", file=sys.stderr)
