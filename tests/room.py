"""Photos of a room whose walls are photos, taken from known places: what a reconstruction is tested on."""

import numpy as np
from PIL import Image

CAMERA = np.array([[420.0, 0, 239.5], [0, 420, 179.5], [0, 0, 1]])


def _textures(photos):
    """Three walls of a room's corner: a photo for each, as floats."""
    return [
        np.asarray(Image.fromarray(photos[name]).convert("L").resize((900, 900)), float)
        for name in ("coins", "page", "coffee")
    ]


def _render(textures, rotation, centre, size=(360, 480)):
    """Gray image of the corner x = 0, y = 0, z = 0 of a room of 3 x 3 x 3 seen from `centre` within it."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    rays = np.stack([columns, rows, np.ones(size)], axis=-1) @ np.linalg.inv(CAMERA).T @ rotation
    image, nearest = np.zeros(size), np.full(size, np.inf)
    for axis, texture in enumerate(textures):
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = -centre[axis] / rays[..., axis]
        point = centre + depth[..., None] * rays
        u, v = (point[..., other] / 3 * 899 for other in range(3) if other != axis)
        hit = (depth > 0) & (depth < nearest) & (u >= 0) & (u < 898) & (v >= 0) & (v < 898)
        x, y = np.where(hit, u, 0), np.where(hit, v, 0)
        i, j = x.astype(int), y.astype(int)
        fx, fy = x - i, y - j
        top = texture[j, i] * (1 - fx) + texture[j, i + 1] * fx
        bottom = texture[j + 1, i] * (1 - fx) + texture[j + 1, i + 1] * fx
        image = np.where(hit, top * (1 - fy) + bottom * fy, image)
        nearest = np.where(hit, depth, nearest)
    return np.round(image).astype(np.uint8)


def _looking(centre, target):
    forward = (target - centre) / np.linalg.norm(target - centre)
    right = np.cross(forward, [0.0, 0, 1])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


def render_views(folder, photos):
    """Write eight views 0.png, 1.png, ... and return where each camera stood."""
    folder.mkdir()
    textures, centres = _textures(photos), {}
    for i, angle in enumerate(np.linspace(0.25, 1.3, 8)):
        centre = np.array([2.7 * np.cos(angle), 2.7 * np.sin(angle), 1.4 + 0.1 * np.sin(3 * angle)])
        centres[f"{i}.png"] = centre
        view = _render(textures, _looking(centre, np.array([0.5, 0.5, 0.9])), centre)
        Image.fromarray(view).save(folder / f"{i}.png")
    return centres


def similarity(a, b):
    """The scale, rotation and shift that bring points [N,3] closest to others. Source: Umeyama (1991)."""
    a0, b0 = a - a.mean(axis=0), b - b.mean(axis=0)
    u, strengths, vt = np.linalg.svd(b0.T @ a0)
    sign = np.array([1, 1, np.linalg.det(u @ vt)])
    turn = u * sign @ vt
    scale = float(strengths @ sign / (a0**2).sum())
    return scale, turn, b.mean(axis=0) - scale * turn @ a.mean(axis=0)
