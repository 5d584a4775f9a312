"""The metrics of a run, as a table and for TensorBoard; and the batches that they are computed on."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np


def filled_batches(count: int, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """The rows of each batch, and how many of them are new: the last batch is filled with the first rows.

    So all batches have one shape, for which a function is compiled once.
    """
    size = min(batch_size, count)
    for start in range(0, count, batch_size):
        yield np.arange(start, start + size) % count, min(size, count - start)


class Metrics:
    """Writes metrics.csv, with rows (step, name, value), and tensorboard/ if tensorboardX is installed.

    A run that resumes after a kill continues from `step`; what was written for later steps is dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "metrics.csv"
        kept = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                kept = [row for row in csv.reader(file) if len(row) == 3 and row[0].isdigit() and int(row[0]) <= step]
        # Replaced only once complete, so that a full disk does not lose earlier metrics.
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            csv.writer(file).writerows([["step", "name", "value"], *kept])
        partial.replace(self.path)
        self._board = None
        if find_spec("tensorboardX") is not None:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1, flush_secs=10)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Write one row per name."""
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows([[step, name, f"{value:.6g}"] for name, value in values.items()])
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name.replace("validation_", "validation/"), value, step)

    def close(self) -> None:
        """Write what is still buffered."""
        if self._board is not None:
            self._board.close()
