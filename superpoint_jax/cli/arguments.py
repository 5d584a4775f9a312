"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from superpoint_jax import openvino

Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
OptionalOutput = Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="PATH")]
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]
Weights = Annotated[str | None, tyro.conf.arg(metavar="SOURCE")]
Engine = openvino.Engine
