"""The checker that jaxtyping's import hook puts on every function of the library."""

from collections.abc import Callable
from typing import Any, Self

from beartype import BeartypeConf, FrozenDict, beartype

# jaxtyping decorates method by method, where beartype cannot know which class `Self` means.
_check = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({Self: Any})))

CONFIGURATIONS = ("superpoint_jax.config", "superpoint_jax.lightglue.config")


def check(function: Callable) -> Callable:
    """The function with the types of its arguments and results checked at each call."""
    # Configurations check their fields themselves, with messages that tests read; beartype would come before them.
    return function if function.__module__ in CONFIGURATIONS else _check(function)
