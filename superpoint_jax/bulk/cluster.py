"""A run on a Ray cluster: Ray Data gives parts to actors, each of which keeps its model compiled.

The parts are the same as those of a run on one machine, in the same folder, which all nodes must see. If an actor dies,
Ray gives its current part to another actor. If a part is done twice, the output contains it once.
"""

from __future__ import annotations

import os
import pickle
import uuid
from dataclasses import dataclass
from typing import Any

from typing_extensions import deprecated

from superpoint_jax.bulk.parts import Parts
from superpoint_jax.bulk.reading import Reader
from superpoint_jax.bulk.run import PlacedNetwork, Work, run_parts
from superpoint_jax.model import SuperPoint
from superpoint_jax.photos.plan import Batch

RETRIES = 3
"""How many times a part is given to another actor before the run fails."""


@dataclass(frozen=True, kw_only=True)
class RayExecutor:
    """Executes the parts of a run on a Ray cluster.

    Attributes:
        address: Address of the cluster; None for the cluster that this process is connected to, or else a new one on
            this machine.
        actors: Number of models that work at once; by default one per GPU of the cluster, or one per two CPUs.
        gpus: GPUs per actor; by default 1 if the cluster has any.
        cpus: CPUs per actor.
    """

    address: str | None = None
    actors: int | None = None
    gpus: float | None = None
    cpus: float = 1

    def __call__(
        self,
        work: Work,
        model: SuperPoint,
        parts: list[tuple[Batch, ...]],
        progress: bool,
    ) -> tuple[int, dict[str, str]]:
        """Number of images extracted, and the failures; see `run.Executor`.

        Raises:
            ImportError: Ray is not installed.
        """
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise ImportError("a Ray cluster needs ray: pip install 'superpoint-jax[ray]'") from error
        if not parts:
            return 0, {}
        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=False)
        resources = ray.cluster_resources()
        gpus = self.gpus if self.gpus is not None else min(1.0, resources.get("GPU", 0))
        actors = self.actors or int(resources.get("GPU", 0) / gpus if gpus else resources.get("CPU", 1) // 2) or 1
        ray.data.DataContext.get_current().enable_progress_bars = progress
        ray.data.DataContext.get_current().max_errored_blocks = 0
        rows = [{"part": pickle.dumps(part)} for part in parts]
        done = (
            ray.data.from_items(rows, override_num_blocks=len(rows))
            .map(
                PartExtractor,  # pyright: ignore[reportArgumentType] (a class, called once per actor)
                fn_constructor_args=(ray.put(pickle.dumps((work, model))),),
                concurrency=actors,
                num_cpus=self.cpus,
                num_gpus=gpus or None,
                max_restarts=RETRIES,
                max_task_retries=RETRIES,
            )
            .take_all()
        )
        failures: dict[str, str] = {}
        for row in done:
            failures |= pickle.loads(row["failures"])
        return sum(row["extracted"] for row in done), failures


@deprecated("RayEngine is now called RayExecutor")
class RayEngine(RayExecutor):
    """The old name of `RayExecutor`."""


class PartExtractor:
    """An actor: a model, compiled once, that extracts one part after the other."""

    def __init__(self, setting: Any) -> None:
        import ray

        content = ray.get(setting) if isinstance(setting, ray.ObjectRef) else setting
        self.work, model = pickle.loads(content)
        self.node = ray.get_runtime_context().get_node_id()[:8]
        self.network = PlacedNetwork(model, self.work.options)
        self.reader = Reader(self.work.task, workers=0)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The number of images extracted from a part, and the failures."""
        failures: dict[str, str] = {}
        # Each actor has its own lock, and so its own temporary name: many actors write at once.
        lock = f"actor-{self.node}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        with Parts(self.work.parts_folder, self.work.identity, lock=lock) as parts:
            plan = (pickle.loads(row["part"]),)
            extracted = run_parts(plan, self.network, self.reader, parts, self.work.options, failures, progress=False)
        return {"extracted": extracted, "failures": pickle.dumps(failures)}
