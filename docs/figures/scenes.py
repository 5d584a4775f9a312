"""Draws docs/images/scenes.png: pairs of views with parallax, and points that both views show.

python docs/figures/scenes.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from skimage import data

from superpoint_jax.training.scenes import sample_scenes, transfer

COLUMNS = 4


def draw_scenes(path: Path, *, seed: int = 7, columns: int = COLUMNS) -> None:
    """Draw one column per pair, with dots of equal colour at points that both views show."""
    photos = [data.coffee(), data.stereo_motorcycle()[0], data.chelsea()]
    images, sizes = np.zeros((len(photos), 760, 760), np.uint8), []
    for array, photo in zip(images, photos, strict=True):
        gray = np.asarray(Image.fromarray(photo).convert("L"))[:760, :760]
        array[: gray.shape[0], : gray.shape[1]] = gray
        sizes.append(gray.shape)
    shape = (240, 312)
    scenes = sample_scenes(
        jax.random.key(seed), jnp.asarray(images), jnp.array(sizes), batch=columns, shape=shape, flat=0.0
    )
    grid = np.stack(np.meshgrid(np.arange(30, 312, 42), np.arange(30, 240, 36)), axis=-1).reshape(-1, 2)
    here = np.broadcast_to(grid, (columns, 2, *grid.shape)).astype(np.float32)
    there, known = (np.asarray(array[:, 0]) for array in transfer(scenes, jnp.asarray(here)))
    inside = known & np.all((there >= 0) & (there <= np.array(shape[::-1]) - 1), axis=-1)
    colors = plt.get_cmap("turbo")(np.linspace(0, 1, len(grid)))
    figure, axes = plt.subplots(2, columns, figsize=(2.2 * columns, 3.5))
    for j in range(columns):
        for axis, view, points in zip(axes[:, j], scenes.views[j], (here[j, 0], there[j]), strict=True):
            axis.imshow(np.asarray(view), cmap="gray", vmin=0, vmax=1)
            axis.scatter(*points[inside[j]].T, s=9, c=colors[inside[j]], edgecolors="white", linewidths=0.4)
            axis.set_axis_off()
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.005, top=0.995, wspace=0.02, hspace=0.02)
    figure.savefig(path, dpi=100)
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    target = Path(__file__).parents[1] / "images" / "scenes.png"
    draw_scenes(target)
    print(f"{target.name}: {target.stat().st_size / 1000:.0f} kB")
