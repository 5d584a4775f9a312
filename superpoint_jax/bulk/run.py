"""The run: images of a source through the network into a file, from wherever the last run was stopped."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from superpoint_jax import openvino
from superpoint_jax.bulk.colmap import Pairs
from superpoint_jax.bulk.outputs import output_for
from superpoint_jax.bulk.parts import Parts
from superpoint_jax.bulk.reading import Reader
from superpoint_jax.bulk.sources import find_images
from superpoint_jax.bulk.writing import Writer, full_disk_explained
from superpoint_jax.config import CELL_PX, ComputeDtype
from superpoint_jax.features import Keypoints
from superpoint_jax.model import SuperPoint
from superpoint_jax.photos.batches import default_batch, extract_batch
from superpoint_jax.photos.pixels import check_resize, prepared
from superpoint_jax.photos.plan import Batch, Plan, Shape, make_plan, names_of
from superpoint_jax.processing import SuperPointImageProcessor
from superpoint_jax.processing.loading import MAX_IMAGE_PIXELS

if TYPE_CHECKING:
    pass

BATCHES_AHEAD = 3
"""Batches that are being decoded while one is extracted."""


@dataclass(frozen=True, kw_only=True)
class BulkOptions:
    """How a run extracts.

    Attributes:
        max_keypoints: The best of each image are kept; -1 keeps all.
        keypoint_threshold: Smallest score of a keypoint; the model's own by default.
        nms_radius: Radius of the suppression, in pixels; the model's own by default.
        resize: Images with a longer side are reduced to it, in pixels; 0 leaves all as they are. By default what the
            processor says.
        upscale: Images whose longer side is below `resize` are enlarged to it, too.
        enlarge: Factor by which images are enlarged inside the network's program; the model's own by default.
        dtype: Compute type; the model's own by default.
        engine: What computes the network; see `superpoint_jax.openvino.choose`.
        descriptors: Type in which descriptors are kept.
        matches: For a COLMAP database: which images are matched; see `colmap.write_database`.
        batch: Images per batch; 1 per device on a CPU, 32 otherwise.
        part: Images that are lost at most when a run is killed, about, and done again.
        max_shapes: Shapes of arrays, and so compilations, at most.
        multiple: Sides of arrays are multiples of it, in pixels.
        workers: Processes that decode; one a core and at most 8 by default, 0 decodes in this one.
        devices: Devices of this process that are used; all by default.
        max_pixels: Larger files are refused unread.
    """

    max_keypoints: int = 1024
    keypoint_threshold: float | None = None
    nms_radius: int | None = None
    resize: int | None = None
    upscale: bool = False
    enlarge: float | None = None
    dtype: ComputeDtype | None = None
    engine: openvino.Engine = "auto"
    descriptors: Literal["float16", "float32"] = "float16"
    matches: Pairs = "none"
    batch: int | None = None
    part: int = 256
    max_shapes: int = 8
    multiple: int = 64
    workers: int | None = None
    devices: int | None = None
    max_pixels: int = MAX_IMAGE_PIXELS

    def __post_init__(self) -> None:
        if self.max_keypoints < 1 and self.max_keypoints != -1:
            raise ValueError(f"max_keypoints={self.max_keypoints}; at least 1 is needed, or -1 for all")
        check_resize(self.resize, upscale=self.upscale)
        least = dict(part=1, max_shapes=1, multiple=CELL_PX, max_pixels=1)
        least |= {name: 1 for name in ("batch", "devices") if getattr(self, name) is not None}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name}={getattr(self, name)}; at least {value} is needed")


@dataclass(frozen=True)
class BulkReport:
    """What a run did.

    Attributes:
        extracted: Images extracted by this run.
        before: Images that an earlier run had done.
        failures: Why, by name, for each image that could not be read.
        shapes: How many images went into arrays of each (height, width).
        padding: Fraction of the pixels that was padding.
        finished: The output is there and whole: not so after one shard of several.
    """

    extracted: int
    before: int
    failures: Mapping[str, str]
    shapes: Mapping[Shape, int]
    padding: float
    finished: bool


def extract_files(
    source: str | Path,
    output: str | Path,
    *,
    model: SuperPoint,
    processor: SuperPointImageProcessor,
    options: BulkOptions | None = None,
    root: str | Path | None = None,
    shard: tuple[int, int] | None = None,
    executor: Executor | None = None,
    progress: bool = False,
    tell: Callable[[str], object] = lambda _: None,
    engine: Executor | None = None,
) -> BulkReport:
    """The features of all images of a source in one file, whatever happens in between.

    The output appears, whole, at the end; until then what is done is kept beside it in a folder OUTPUT.parts. Killed at
    any moment, the same call goes on where it was. What can't be read is reported and does not stop the rest.
    Called again on a finished output, only images that are not in it are extracted and added.

    Args:
        source: Folder, list or pattern; see `find_images`.
        output: What it is follows from its name: .h5 hloc's HDF5, .db a COLMAP database, no suffix a folder of Parquet
            files; see the modules of these formats.
        model: The network.
        processor: What is done to the images first; `options.resize` replaces its size.
        options: See there.
        root: What names are relative to; see `find_images`.
        shard: (i, n): every n-th part alone, for several processes or machines with a common file system. The output is
            made by a last run without. By default all, or under `jax.distributed` the process's share.
        executor: Who does the parts; this process by default, or `cluster.RayExecutor`.
        progress: Show a bar.
        tell: Called with lines about shapes and padding.
        engine: The old name of `executor`.

    Raises:
        ValueError: No images, an unknown kind of output, an option out of range.
        Conflict: An output of other options, or one that another run is writing.
        OSError: A full disk, among others; what is done stays, and the same call goes on.
        ImportError: A package that the kind of output needs is missing.
    """
    if engine is not None:
        warnings.warn("extract_files(engine=) is now called executor=", DeprecationWarning, stacklevel=2)
        executor = engine
    options = options or BulkOptions()
    processor = prepared(processor, options.resize, upscale=options.upscale)
    images = find_images(source, root=root)
    network = PlacedNetwork(model, options)
    identity = _identity(model, network.config_options, processor, options)
    target = output_for(Path(output), identity, pairs=options.matches)
    target.check(images.root)
    index, count = shard or (jax.process_index(), jax.process_count())
    if not 0 <= index < count:
        raise ValueError(f"shard {index} of {count}; 0 <= i < n is needed")
    lock = "lock" if count == 1 else f"lock-{index}"

    failures: dict[str, str] = {}
    with (
        Parts(target.parts_folder, target.options, lock=lock) as parts,
        Reader(images.root, processor, workers=options.workers, max_pixels=options.max_pixels) as reader,
    ):
        done = target.done() | parts.done()
        # The plan is that of all images, so that it is the same in every shard and after every stop.
        originals, sizes = _read_sizes(reader, images.names, failures, progress)
        plan = make_plan(
            sizes,
            batch=network.rows,
            part=options.part,
            multiple=options.multiple,
            max_shapes=options.max_shapes,
        )
        mine = tuple(_without(part, done) for part in plan.parts[index::count])
        before = len(done.intersection(images.names))
        _tell_plan(tell, plan, before=before)
        tell(network.description)
        work = Work(images.root, target.parts_folder, target.options, processor, options)
        if executor is None:
            extracted = run_parts(mine, network, reader, parts, originals, options, failures, progress)
        else:
            extracted, failed = executor(work, model, [part for part in mine if part], originals, progress)
            failures |= failed
        if count == 1:
            with full_disk_explained(target.path):
                target.finish(parts, images.root)
    return BulkReport(
        extracted=extracted,
        before=before,
        failures=failures,
        shapes=plan.shapes,
        padding=plan.padding,
        finished=count == 1,
    )


@dataclass(frozen=True)
class Work:
    """What whoever does parts of a run has to know.

    Attributes:
        root: The folder that names are relative to.
        parts_folder: Where parts go.
        identity: What the result depends on.
        processor: What is done to the images first.
        options: Of the run.
    """

    root: Path
    parts_folder: Path
    identity: Mapping[str, Any]
    processor: SuperPointImageProcessor
    options: BulkOptions


Executor = Callable[[Work, SuperPoint, list[tuple[Batch, ...]], Mapping[str, Shape], bool], tuple[int, dict[str, str]]]
"""(work, model, parts to do, sizes of the originals, whether to show progress) to (images extracted, failures)."""


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
        self.description = openvino.describe(network)
        self._model = jax.device_put(network, NamedSharding(mesh, PartitionSpec()))
        given = dict(
            max_keypoints=options.max_keypoints,
            keypoint_threshold=options.keypoint_threshold,
            nms_radius=options.nms_radius,
            enlarge=options.enlarge,
            dtype=options.dtype,
        )
        self.config_options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        model.config.replace(**self.config_options)  # Refuses what is out of range, before any work.

    def __call__(self, pixels: Sequence[np.ndarray], shape: Shape) -> Keypoints:
        """Keypoints of at most `rows` images in arrays of a shape. Dispatched, not waited for."""
        return extract_batch(
            self._model,
            pixels,
            shape,
            self.rows,
            place=partial(jax.device_put, device=self._split),
            **self.config_options,
        )


def _read_sizes(
    reader: Reader, names: Sequence[str], failures: dict[str, str], progress: bool
) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """(height, width) of the originals, and as the network will see them."""
    originals, sizes = {}, {}
    show = tqdm(reader.sizes(names), desc="sizes", total=len(names), unit="image", disable=None if progress else True)
    for name, *found in show:
        if len(found) == 1:
            failures[name] = str(found[0])
        else:
            originals[name], sizes[name] = found
    return originals, sizes


def _without(part: tuple[Batch, ...], done: set[str]) -> tuple[Batch, ...]:
    """The batches of a part with the images that are still to be done."""
    rest = (Batch(batch.shape, tuple(name for name in batch.names if name not in done)) for batch in part)
    return tuple(batch for batch in rest if batch.names)


def run_parts(
    plan: tuple[tuple[Batch, ...], ...],
    network: PlacedNetwork,
    reader: Reader,
    parts: Parts,
    originals: Mapping[str, Shape],
    options: BulkOptions,
    failures: dict[str, str],
    progress: bool,
) -> int:
    """Extract and write all parts; the number of images written."""
    total = sum(len(names_of(part)) for part in plan)
    stream = _started_ahead(plan, reader)
    with (
        tqdm(desc="features", total=total, unit="image", disable=None if progress else True) as bar,
        Writer(parts, options.descriptors, bar) as writer,
    ):
        for part in plan:
            for batch in part:
                handles = next(stream)
                pixels = []
                for name, handle in zip(batch.names, handles, strict=True):
                    found = handle()
                    if isinstance(found, str):
                        failures[name] = found
                        bar.update()
                    else:
                        pixels.append((name, found))
                if not pixels:
                    continue
                names = [name for name, _ in pixels]
                found = network([image for _, image in pixels], batch.shape)
                writer.add(names, [originals[name] for name in names], found)
            writer.end_part()
        return writer.finish()


def _started_ahead(plan: tuple[tuple[Batch, ...], ...], reader: Reader) -> Iterator[list[Callable[[], Any]]]:
    """For each batch the images being decoded, some batches ahead."""
    batches = deque(batch for part in plan for batch in part)
    started: deque[list[Callable[[], Any]]] = deque()
    while batches or started:
        while batches and len(started) < BATCHES_AHEAD:
            started.append([reader.start(name) for name in batches.popleft().names])
        yield started.popleft()


def _identity(
    model: SuperPoint, config_options: Mapping[str, Any], processor: SuperPointImageProcessor, options: BulkOptions
) -> dict[str, Any]:
    """What a result depends on, to be compared with that of an earlier run: batches and shapes are not of it."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(nnx.state(model, (nnx.Param, nnx.BatchStat))):
        digest.update(np.asarray(leaf).tobytes())
    config = model.config.replace(**config_options)
    fields = [field.name for field in dataclasses.fields(config) if field.compare]
    return {
        "weights": digest.hexdigest()[:16],
        "descriptors": options.descriptors,
        **{f"config.{name}": getattr(config, name) for name in fields},
        **{f"processor.{name}": value for name, value in processor.to_dict().items() if name != "pad_multiple"},
    }


def _tell_plan(tell: Callable[[str], object], plan: Plan, *, before: int) -> None:
    if before:
        tell(f"{before} images were done before")
    if plan.shapes:
        shapes = ", ".join(f"{width}x{height} ({count})" for (height, width), count in sorted(plan.shapes.items()))
        tell(f"{len(plan.shapes)} shapes: {shapes}; padding {plan.padding:.0%}")
