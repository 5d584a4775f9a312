"""What can be wrong with weights."""

from __future__ import annotations


class WeightsError(ValueError):
    """The weights are damaged, of another network, or do not fit the configuration."""
