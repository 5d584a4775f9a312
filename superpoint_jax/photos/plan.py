"""A plan of batches: images of many sizes are put into arrays of a few shapes, in a fixed order."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Shape = tuple[int, int]
"""(height, width) in pixels."""

Name = TypeVar("Name", str, int)


@dataclass(frozen=True)
class Batch(Generic[Name]):
    """Images that are extracted together in arrays of one shape.

    Attributes:
        shape: (height, width) of the arrays.
        names: Names of the images, at most as many as the batch has rows.
    """

    shape: Shape
    names: tuple[Name, ...]


@dataclass(frozen=True)
class Plan(Generic[Name]):
    """The work, divided into parts, each of which is done completely or not at all.

    Attributes:
        parts: The batches of each part.
        shapes: Number of images in arrays of each shape; each shape is compiled once.
        padding: Fraction of all pixels that is padding.
    """

    parts: tuple[tuple[Batch[Name], ...], ...]
    shapes: Mapping[Shape, int]
    padding: float


def make_plan(
    sizes: Mapping[Name, Shape], *, batch: int, part: int, multiple: int = 64, max_shapes: int = 8
) -> Plan[Name]:
    """The plan for these images; the same images always give the same plan.

    Args:
        sizes: (height, width) of each image as the network will see it, by name.
        batch: Images per batch.
        part: Images per part, about.
        multiple: Heights and widths of arrays are multiples of this, in pixels.
        max_shapes: Largest number of shapes; if there are more, those that cost the least padding are joined.
    """
    shape_of = choose_shapes(Counter(sizes.values()), multiple=multiple, max_shapes=max_shapes)
    members: dict[Shape, list[Name]] = {}
    for name in sorted(sizes):
        members.setdefault(shape_of[sizes[name]], []).append(name)
    # The largest shape comes first, so that a run that does not fit into memory fails at once.
    batches = [
        Batch(shape, tuple(names[i : i + batch]))
        for shape, names in sorted(members.items(), key=lambda item: -item[0][0] * item[0][1])
        for i in range(0, len(names), batch)
    ]
    per_part = max(1, part // batch)
    parts = tuple(tuple(batches[i : i + per_part]) for i in range(0, len(batches), per_part))
    used = sum(height * width for height, width in sizes.values())
    total = sum(len(names) * shape[0] * shape[1] for shape, names in members.items())
    return Plan(parts, {shape: len(names) for shape, names in members.items()}, 1 - used / total if total else 0.0)


def choose_shapes(counts: Mapping[Shape, int], *, multiple: int, max_shapes: int) -> dict[Shape, Shape]:
    """The shape of the array for each image size.

    Sizes are rounded up to multiples; then two shapes at a time are joined until there are at most `max_shapes`. Each
    time, these are the two whose common shape adds the fewest pixels over all their images.
    """
    rounded = {size: _rounded(size, multiple) for size in counts}
    images: Counter[Shape] = Counter()
    for size, count in counts.items():
        images[rounded[size]] += count
    joined: dict[Shape, Shape] = {}

    def cost(a: Shape, b: Shape) -> int:
        both = max(a[0], b[0]) * max(a[1], b[1])
        return images[a] * (both - a[0] * a[1]) + images[b] * (both - b[0] * b[1])

    shapes = _coarsened(images, multiple)
    for fine, coarse in shapes.items():
        if fine != coarse:
            joined[fine] = coarse
            images[coarse] += images.pop(fine)
    heap: list[tuple[int, Shape, Shape]] = (
        [(cost(a, b), a, b) for a in images for b in images if a < b] if len(images) > max_shapes else []
    )
    heapq.heapify(heap)
    while len(images) > max_shapes:
        price, a, b = heapq.heappop(heap)
        if a not in images or b not in images:
            continue
        if price != (now := cost(a, b)):  # One of the two has got more images since.
            heapq.heappush(heap, (now, a, b))
            continue
        both: Shape = (max(a[0], b[0]), max(a[1], b[1]))
        count = images.pop(a) + images.pop(b)
        images[both] += count
        for shape in (a, b):
            if shape != both:
                joined[shape] = both
        for other in images:
            if other != both:
                first, second = min(both, other), max(both, other)
                heapq.heappush(heap, (cost(first, second), first, second))

    def final(shape: Shape) -> Shape:
        while shape in joined:
            shape = joined[shape]
        return shape

    return {size: final(shape) for size, shape in rounded.items()}


def _rounded(shape: Shape, multiple: int) -> Shape:
    return -(-shape[0] // multiple) * multiple, -(-shape[1] // multiple) * multiple


MAX_DISTINCT = 256
"""Beyond this many distinct shapes, they are first rounded more coarsely, because the search over pairs is quadratic.
"""


def _coarsened(images: Mapping[Shape, int], multiple: int) -> dict[Shape, Shape]:
    """The shapes rounded up to a multiple so large that at most `MAX_DISTINCT` are distinct."""
    while True:
        coarse = {shape: _rounded(shape, multiple) for shape in images}
        if len(set(coarse.values())) <= MAX_DISTINCT:
            return coarse
        multiple *= 2


def names_of(part: Sequence[Batch[Name]]) -> list[Name]:
    """Names of all images of a part."""
    return [name for batch in part for name in batch.names]
