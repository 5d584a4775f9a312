"""The run: it extracts the photos of a source into a file, and continues where the last run stopped."""

from __future__ import annotations

import dataclasses
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from superpoint_jax import openvino
from superpoint_jax.bulk.cameras import read_intrinsics
from superpoint_jax.bulk.hloc import Stamp
from superpoint_jax.bulk.options import BulkOptions as BulkOptions
from superpoint_jax.bulk.options import BulkReport as BulkReport
from superpoint_jax.bulk.outputs import output_for
from superpoint_jax.bulk.pairs import PairCount, read_pairs
from superpoint_jax.bulk.parts import Conflict, Parts
from superpoint_jax.bulk.reading import Read, Reader, Task, stamp_of
from superpoint_jax.bulk.sources import find_images
from superpoint_jax.bulk.writing import Writer, full_disk_explained
from superpoint_jax.features import Keypoints
from superpoint_jax.files import digest_of_arrays, set_aside
from superpoint_jax.matching import Matcher
from superpoint_jax.model import SuperPoint
from superpoint_jax.photos.batches import default_batch, extract_batch
from superpoint_jax.photos.pixels import prepared
from superpoint_jax.photos.plan import Batch, Plan, Shape, make_plan, names_of
from superpoint_jax.photos.regions import find_mask
from superpoint_jax.processing import SuperPointImageProcessor

BATCHES_AHEAD = 3
"""Number of batches that are decoded while one is extracted."""


def extract_files(
    source: str | Path,
    output: str | Path,
    *,
    model: SuperPoint,
    processor: SuperPointImageProcessor,
    matcher: Matcher | None = None,
    options: BulkOptions | None = None,
    root: str | Path | None = None,
    shard: tuple[int, int] | None = None,
    executor: Executor | None = None,
    progress: bool = False,
    tell: Callable[[str], object] = lambda _: None,
    engine: Executor | None = None,
) -> BulkReport:
    """A report on the extraction of all photos of a source into one file.

    The output appears, complete, at the end; until then what is done is kept next to it in a folder OUTPUT.parts. After
    a kill at any moment, the same call continues where it stopped. Photos that can't be read are reported and don't
    stop the rest. On a finished output, the same call extracts and adds only the photos that are not in it.

    What is done is only used if its checksum is right, and if it was made with the same options from the photos as they
    are now (their sizes and times of change). What is damaged is renamed to NAME.damaged and made again.

    Args:
        source: Folder, list or pattern; see `find_images`.
        output: Its suffix decides what is written: .h5 is hloc's HDF5, .db a COLMAP database, no suffix a folder of
            Parquet files; see `outputs`.
        model: The network.
        processor: Preprocessing of the images; `options.resize` replaces its size.
        matcher: A network that matches, for a COLMAP database, for example `superpoint_jax.LightGlue`; by default
            nearest neighbours.
        options: Options of the run.
        root: The folder that names are relative to; see `find_images`.
        shard: (i, n): only every n-th part, for several processes or machines with a common file system. A last run
            without it makes the output. By default all parts, or under `jax.distributed` the share of this process.
        executor: What extracts the parts: by default this process, or `cluster.RayExecutor`.
        progress: Show a progress bar.
        tell: Called with lines of text about shapes and padding.
        engine: The old name of `executor`.

    Raises:
        ValueError: No images, an unknown kind of output, or an option out of range.
        Conflict: The output was made with other options or from other photos, or another run is writing it.
        OSError: For example a full disk; what is done stays, and the same call continues.
        ImportError: A package that this kind of output needs is missing.
    """
    if engine is not None:
        warnings.warn("extract_files(engine=) is now called executor=", DeprecationWarning, stacklevel=2)
        executor = engine
    options = options or BulkOptions()
    if matcher is not None and not options.wanted:
        raise ValueError("a matcher was given, and no images are matched: choose matches, loops or pairs")
    processor = prepared(processor, options.resize, upscale=options.upscale)
    images = find_images(source, root=root)
    named = None if options.pairs is None else read_pairs(options.pairs, images.names)
    network = PlacedNetwork(model, options)
    identity = _identity(model, network.config_options, processor, options)
    target = output_for(
        Path(output),
        identity,
        matching=options,
        matcher=matcher,
        pairs=named,
        cameras=options,
        intrinsics=read_intrinsics(options, images.names) if options.cameras_given else None,
    )
    target.check()
    for path in target.damaged():
        tell(f"{path} is damaged; it is kept as {set_aside(path).name}, and its images are extracted again")
    index, count = shard or (jax.process_index(), jax.process_count())
    if not 0 <= index < count:
        raise ValueError(f"shard {index} of {count}; 0 <= i < n is needed")
    lock = "lock" if count == 1 else f"lock-{index}"

    failures = dict(images.failures)
    task = Task(images.root, processor, options.max_pixels, options.masks, options.frame)
    with (
        Parts(target.parts_folder, target.options, lock=lock) as parts,
        Reader(task, workers=options.workers) as reader,
    ):
        done = target.done() | parts.done(tell)
        _check_unchanged(target.path, task, done)
        # The plan covers all images, so that it is the same in every shard and after every interruption.
        sizes = _read_sizes(reader, images.names, failures, progress)
        plan = make_plan(
            sizes,
            batch=network.rows,
            part=options.part,
            multiple=options.multiple,
            max_shapes=options.max_shapes,
        )
        target.check_room(sizes.keys() - done.keys())
        mine = tuple(_without(part, done) for part in plan.parts[index::count])
        before = len(done.keys() & set(images.names))
        _tell_plan(tell, plan, before=before)
        tell(network.description)
        if options.masks is not None:
            masked = sum(find_mask(options.masks, name) is not None for name in images.names)
            tell(f"{masked} of {len(images.names)} images have a mask in {options.masks}")
        if executor is None:
            extracted = run_parts(mine, network, reader, parts, options, failures, progress)
        else:
            work = Work(task, target.parts_folder, target.options, options)
            extracted, failed = executor(work, model, [part for part in mine if part], progress)
            failures |= failed
        matched = PairCount(0, 0)
        if count == 1:
            with full_disk_explained(target.path):
                matched = target.finish(parts, images.root, failures)
    return BulkReport(
        extracted=extracted,
        before=before,
        failures=failures,
        shapes=plan.shapes,
        padding=plan.padding,
        finished=count == 1,
        pairs_tried=matched.tried,
        pairs_verified=matched.verified,
    )


@dataclass(frozen=True)
class Work:
    """What an executor has to know about a run.

    Attributes:
        task: How photos are read.
        parts_folder: The folder that parts are written to.
        identity: What the result depends on.
        options: Options of the run.
    """

    task: Task
    parts_folder: Path
    identity: Mapping[str, Any]
    options: BulkOptions


Executor = Callable[[Work, SuperPoint, list[tuple[Batch, ...]], bool], tuple[int, dict[str, str]]]
"""Maps (work, model, parts to do, whether to show progress) to (images extracted, failures)."""


class PlacedNetwork:
    """The network on the devices of this process, for batches of a fixed number of rows."""

    def __init__(self, model: SuperPoint, options: BulkOptions) -> None:
        local = jax.local_devices()
        if options.devices is not None and options.devices > len(local):
            raise ValueError(f"devices={options.devices}; there are {len(local)}")
        devices = local[: options.devices]
        wanted = options.batch or default_batch(devices[0].platform) * len(devices)
        self.rows = -(-wanted // len(devices)) * len(devices)
        mesh = Mesh(np.array(devices), ("images",))
        self._split = NamedSharding(mesh, PartitionSpec("images"))
        network = openvino.choose(model, options.engine, dtype=options.dtype) if len(devices) == 1 else model
        self.description = openvino.describe(network, dtype=options.dtype)
        self._model = jax.device_put(network, NamedSharding(mesh, PartitionSpec()))
        given = dict(
            max_keypoints=options.max_keypoints,
            keypoint_threshold=options.keypoint_threshold,
            nms_radius=options.nms_radius,
            spread=options.spread,
            enlarge=options.enlarge,
            dtype=options.dtype,
        )
        self.config_options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        model.config.replace(**self.config_options)  # Refuses options out of range before any work.

    def __call__(
        self, pixels: Sequence[np.ndarray], shape: Shape, regions: Sequence[np.ndarray | None] | None = None
    ) -> Keypoints:
        """Keypoints of at most `rows` images, in arrays of this shape. The result is dispatched, not waited for.

        Each image may have a region, as the network sees it, in which keypoints may be.
        """
        return extract_batch(
            self._model,
            pixels,
            shape,
            self.rows,
            place=partial(jax.device_put, device=self._split),
            regions=regions,
            **self.config_options,
        )


def _check_unchanged(output: Path, task: Task, done: Mapping[str, Stamp]) -> None:
    """Raise a `Conflict` unless the images that are done are those of now."""
    changed = []
    for name, stamp in done.items():
        try:
            now = stamp_of(task.root / name, None if task.masks is None else find_mask(task.masks, name))
        except OSError:
            now = None
        if now != stamp:
            changed.append(name)
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise Conflict(
            f"{output} was made from another {changed[0]}{more} than {task.root} has now: a file or its mask was "
            f"changed, added or removed since. Choose another output, or remove this one and its .parts"
        )


def _read_sizes(reader: Reader, names: Sequence[str], failures: dict[str, str], progress: bool) -> dict[str, Shape]:
    """(height, width) of the images as the network will see them."""
    sizes: dict[str, Shape] = {}
    show = tqdm(reader.sizes(names), desc="sizes", total=len(names), unit="image", disable=None if progress else True)
    for name, found in show:
        if isinstance(found, str):
            failures[name] = found
        else:
            sizes[name] = found
    return sizes


def _without(part: tuple[Batch, ...], done: Collection[str]) -> tuple[Batch, ...]:
    """The batches of a part without the images that are done."""
    rest = (Batch(batch.shape, tuple(name for name in batch.names if name not in done)) for batch in part)
    return tuple(batch for batch in rest if batch.names)


def run_parts(
    plan: tuple[tuple[Batch, ...], ...],
    network: PlacedNetwork,
    reader: Reader,
    parts: Parts,
    options: BulkOptions,
    failures: dict[str, str],
    progress: bool,
) -> int:
    """The number of images written, after all parts of the plan are extracted."""
    total = sum(len(names_of(part)) for part in plan)
    stream = _started_ahead(plan, reader)
    with (
        tqdm(desc="features", total=total, unit="image", disable=None if progress else True) as bar,
        Writer(parts, options.descriptors, bar) as writer,
    ):
        for part in plan:
            for batch in part:
                handles = next(stream)
                read: list[tuple[str, Read]] = []
                for name, handle in zip(batch.names, handles, strict=True):
                    found = handle()
                    if not isinstance(found, str) and np.any(found.pixels.shape[:2] > np.array(batch.shape)):
                        found = "the file was changed during the run"
                    if isinstance(found, str):
                        failures[name] = found
                        bar.update()
                    else:
                        read.append((name, found))
                if not read:
                    continue
                names = [name for name, _ in read]
                regions = None if options.masks is None else [one.region for _, one in read]
                found = network([one.pixels for _, one in read], batch.shape, regions)
                writer.add(names, [one.photo for _, one in read], found)
            writer.end_part()
        return writer.finish()


def _started_ahead(plan: tuple[tuple[Batch, ...], ...], reader: Reader) -> Iterator[list[Callable[[], Any]]]:
    """For each batch the images that are being decoded, `BATCHES_AHEAD` batches ahead."""
    batches = deque(batch for part in plan for batch in part)
    started: deque[list[Callable[[], Any]]] = deque()
    while batches or started:
        while batches and len(started) < BATCHES_AHEAD:
            started.append([reader.start(name) for name in batches.popleft().names])
        yield started.popleft()


def _identity(
    model: SuperPoint, config_options: Mapping[str, Any], processor: SuperPointImageProcessor, options: BulkOptions
) -> dict[str, Any]:
    """What a result depends on, to be compared with an earlier run. It does not depend on batches and shapes."""
    config = model.config.replace(**config_options)
    fields = [field.name for field in dataclasses.fields(config) if field.compare]
    return {
        "weights": digest_of_arrays(nnx.state(model, (nnx.Param, nnx.BatchStat)))[:16],
        "descriptors": options.descriptors,
        "frame": options.frame,
        "masks": options.masks is not None,
        **{f"config.{name}": getattr(config, name) for name in fields},
        **{f"processor.{name}": value for name, value in processor.to_dict().items() if name != "pad_multiple"},
    }


def _tell_plan(tell: Callable[[str], object], plan: Plan, *, before: int) -> None:
    if before:
        tell(f"{before} images were done before")
    if plan.shapes:
        shapes = ", ".join(f"{width}x{height} ({count})" for (height, width), count in sorted(plan.shapes.items()))
        tell(f"{len(plan.shapes)} shapes: {shapes}; padding {plan.padding:.0%}")
