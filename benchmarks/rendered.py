"""Scenes rendered from known poses: a box, a corridor and a relief, covered with photos that scikit-image carries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 480, 360
"""(width, height) of a view in pixels. The true principal point is the middle."""
FOCAL_PX = 500.0
TEXTURE_PX = 800
FINER = 2
"""A view is rendered this many times larger, and reduced, against aliasing."""
BACKGROUND = 110.0

Colours = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""The gray values [N], 0 to 255, that rays of directions [N,3] see from a place [3]."""


@dataclass(frozen=True)
class Scene:
    """What is seen, and the poses it is seen from.

    Attributes:
        colours: What a ray sees.
        poses: Rotation camera-from-world [3,3] and place [3] of each camera.
        unit: The length that errors of positions are compared with.
    """

    colours: Colours
    poses: list[tuple[np.ndarray, np.ndarray]]
    unit: float

    def write(self, folder: Path) -> dict[str, np.ndarray]:
        """Write the views, and return the poses camera-from-world [3,4] by name."""
        folder.mkdir(parents=True)
        named = {f"{number:02}.png": pose for number, pose in enumerate(self.poses)}
        for name, (rotation, centre) in named.items():
            Image.fromarray(self.view(rotation, centre)).save(folder / name)
        return {
            name: np.concatenate([rotation, -rotation @ centre[:, None]], axis=1)
            for name, (rotation, centre) in named.items()
        }

    def view(self, rotation: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """The view [h,w] from a pose."""
        width, height = (FINER * side for side in SIZE)
        rows, columns = np.mgrid[:height, :width]
        plane = [(columns + 0.5 - width / 2) / (FINER * FOCAL_PX), (rows + 0.5 - height / 2) / (FINER * FOCAL_PX)]
        rays = np.stack([*plane, np.ones((height, width))], axis=-1) @ rotation
        image = self.colours(rays.reshape(-1, 3), centre).reshape(height, width)
        return np.asarray(Image.fromarray(np.round(image).astype(np.uint8)).resize(SIZE, Image.Resampling.BOX))


def ring(angles: np.ndarray, *, repeated: bool = False) -> Scene:
    """A box from a ring of places at these angles, in radians.

    Each side shows a photo; if `repeated`, all of them the same one.
    """
    half, radius, height = np.array([1.0, 1.0, 0.75]), 3.8, 1.2
    faces = textures("coffee", *(["coffee"] * 5 if repeated else ["astronaut", "gravel", "camera", "coins", "page"]))

    def colours(rays: np.ndarray, centre: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            # A ray enters the box through the last of the three planes that face it.
            depths = (-np.sign(rays) * half - centre) / rays
        axis = depths.argmax(axis=-1)
        points = centre + depths.max(axis=-1)[:, None] * rays
        hit = np.all(np.abs(points) <= half + 1e-9, axis=-1)
        seen = np.full(len(rays), BACKGROUND)
        for face, texture in enumerate(faces):  # The sides +x, +y, +z, -x, -y, -z.
            here = hit & (axis == face % 3) & ((rays[:, face % 3] < 0) == (face < 3))
            u, v = ((points[here] / half)[:, [i for i in range(3) if i != face % 3]].T + 1) / 2
            u = 1 - u if face in (1, 3) else u  # Otherwise these sides would show their photos mirrored.
            seen[here] = sampled(texture, u, 1 - v)
        return seen

    places = np.stack([radius * np.cos(angles), radius * np.sin(angles), np.full(len(angles), height)], axis=1)
    return Scene(colours, [(looking(-place), place) for place in places], unit=radius)


def corridor(views: int) -> Scene:
    """A walk along a corridor of 9 by 2 by 2, looking ahead and now and then to a side. No two places look alike."""
    half = np.array([4.5, 1.0, 1.0])
    photos = textures("coffee", "camera", "chelsea", "astronaut", "rocket", "coins", "page", "motorcycle", "gravel")
    quarters = [np.split(part, 2, axis=1) for photo in photos for part in np.split(photo, 2)]
    tiles = [tile for pair in quarters for tile in pair]

    def colours(rays: np.ndarray, centre: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            # From inside, a ray meets first the nearest of the three planes that it goes to.
            depths = (np.sign(rays) * half - centre) / rays
        axis = depths.argmin(axis=-1)
        points = (centre + depths.min(axis=-1)[:, None] * rays + half) / 2
        side = (rays[np.arange(len(rays)), axis] > 0).astype(int)
        across, up = points[:, 1] % 1, 1 - points[:, 2] % 1
        # Along each of its six sides, tiles of 2 by 2 follow each other.
        along = np.where(axis == 0, across, points[:, 0])
        down = np.where(axis == 2, across, up)
        tile = np.clip(np.floor(along), 0, 4).astype(int) + 5 * (2 * axis + side)
        seen = np.empty(len(rays))
        for number, texture in enumerate(tiles):
            here = tile == number
            seen[here] = sampled(texture, along[here] % 1, down[here] % 1)
        return seen

    steps = np.linspace(0, 1, views)
    places = np.stack([6 * steps - 4, 0.3 * np.sin(9 * steps), 0.1 * np.cos(7 * steps)], axis=1)
    ahead = np.stack([np.ones(views), 0.35 * np.sin(14 * steps), 0.1 * np.sin(11 * steps)], axis=1)
    return Scene(colours, [(looking(way), place) for way, place in zip(ahead, places, strict=True)], unit=2.0)


def relief(views: int) -> Scene:
    """Hills of photos, seen by a flight in rows above them, nearly straight down."""
    tiles = textures("coffee", "astronaut", "gravel", "camera", "chelsea", "coins", "rocket", "page", "motorcycle")
    side, flight = 1.5, 3.0
    # The place x, y of each hill, its height and its width.
    hills = np.array([[0.3, 0.2, 0.5, 0.6], [-1.1, 0.9, 0.4, 0.5], [1.2, -0.9, 0.45, 0.7], [-0.8, -1.2, 0.3, 0.4]])

    def height(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        a, b, high, wide = hills.T[:, :, None]
        return np.sum(high * np.exp(-((x - a) ** 2 + (y - b) ** 2) / wide**2), axis=0)

    def colours(rays: np.ndarray, centre: np.ndarray) -> np.ndarray:
        points, depth = rays, centre[2] / -rays[:, 2]
        for _ in range(60):  # The slopes are less than those of the rays, so this converges.
            points = centre + depth[:, None] * rays
            depth = (centre[2] - height(points[:, 0], points[:, 1])) / -rays[:, 2]
        u, v = points[:, 0] / side + 1.5, 1.5 - points[:, 1] / side
        tile = np.clip(np.floor(v), 0, 2).astype(int) * 3 + np.clip(np.floor(u), 0, 2).astype(int)
        outside = (u < 0) | (u >= 3) | (v < 0) | (v >= 3)
        seen = np.full(len(rays), BACKGROUND)
        for number, texture in enumerate(tiles):
            here = (tile == number) & ~outside
            seen[here] = sampled(texture, u[here] % 1, v[here] % 1)
        return seen

    columns = int(np.ceil(np.sqrt(views)))
    rows, across = np.divmod(np.arange(views), columns)
    grid = np.stack([across, rows], axis=1) / (columns - 1) * 2 - 1
    places = np.concatenate([1.1 * grid, np.full((views, 1), flight)], axis=1)
    tilts = 0.12 * np.stack([np.sin(3.1 * np.arange(views)), np.cos(2.3 * np.arange(views))], axis=1)
    downs = np.concatenate([tilts, -np.ones((views, 1))], axis=1)
    poses = [(looking(way, up=(0.0, 1, 0)), place) for way, place in zip(downs, places, strict=True)]
    return Scene(colours, poses, unit=flight)


def looking(forward: np.ndarray, up: tuple[float, float, float] = (0.0, 0, 1)) -> np.ndarray:
    """The rotation camera-from-world of a camera that looks in a direction, with its upper side up."""
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


def textures(*names: str) -> list[np.ndarray]:
    """Square gray photos by their names in scikit-image."""
    from skimage import data

    photos = [data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)() for name in names]
    square = [Image.fromarray(photo).convert("L").resize((TEXTURE_PX, TEXTURE_PX)) for photo in photos]
    return [np.asarray(photo, float) for photo in square]


def sampled(texture: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bilinear samples [N] of a square texture at (u, v), from 0 to 1 between the centres of its outermost pixels."""
    last = len(texture) - 1
    x, y = u * last, v * last
    i, j = (np.clip(value.astype(int), 0, last - 1) for value in (y, x))
    fy, fx = y - i, x - j
    top, bottom = (texture[i + k, j] * (1 - fx) + texture[i + k, j + 1] * fx for k in (0, 1))
    return top * (1 - fy) + bottom * fy
