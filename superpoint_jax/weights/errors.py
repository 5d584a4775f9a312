"""The error for wrong weights."""

from __future__ import annotations


class WeightsError(ValueError):
    """The weights are damaged, belong to another network, or do not fit the configuration."""
