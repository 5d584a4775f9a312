"""The notice that comes with Magic Leap's weights."""

from __future__ import annotations

import logging
from functools import cache

NOTICE = (
    "These weights are Magic Leap's, or seem to be (Hugging Face's are). Their licence allows non-commercial research "
    "only; read it before you use them. superpoint_jax.from_pretrained(), without a name, loads weights that are free "
    "to use."
)

MAGIC_LEAP_HUB_ID = "magic-leap-community/superpoint"


@cache
def show_notice_once() -> None:
    """Log the notice once per process.

    It goes to the logger "superpoint_jax" with the level WARNING, which Python prints to stderr by default. It is not a
    Python warning, because programs that turn warnings into errors must still run.
    """
    logging.getLogger("superpoint_jax").warning(NOTICE)
