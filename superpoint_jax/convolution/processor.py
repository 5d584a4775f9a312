"""What the processor under us can do, and how much its caches hold."""

from __future__ import annotations

import functools
import os
from pathlib import Path


def has_matrix_units() -> bool:
    """AMX, of bfloat16."""
    return "amx_bf16" in flags()


def multiplies_bfloat16() -> bool:
    """By instructions or matrix units."""
    return not flags().isdisjoint(("amx_bf16", "avx512_bf16", "bf16"))


@functools.cache
def flags() -> frozenset[str]:
    """What Linux says of the processor ("bf16" is ARM's name); nothing elsewhere, where float32 is never wrong."""
    try:
        return frozenset(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return frozenset()


@functools.cache
def cache_bytes() -> int:
    """Of the second-level caches, a mebibyte a core where nobody says."""
    try:
        size = os.sysconf("SC_LEVEL2_CACHE_SIZE")
    except (ValueError, OSError):
        size = 0
    return (size if size > 0 else 2**20) * (os.cpu_count() or 1)
