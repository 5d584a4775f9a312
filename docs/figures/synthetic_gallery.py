"""Draws docs/images/synthetic_shapes.png: every kind of synthetic image, with its corners marked.

python docs/figures/synthetic_gallery.py
"""

from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from superpoint_jax.training.synthetic import KINDS, render_shapes

ROWS = 3


def draw_gallery(path: Path, *, seed: int = 0, rows: int = ROWS) -> None:
    """Draw one column per kind, with `rows` examples each and circles around the exact corners."""
    # The batch is large enough to contain at least `rows` images of each kind.
    batch = render_shapes(jax.random.key(seed), batch=40 * rows, shape=(120, 160))
    figure, axes = plt.subplots(rows, len(KINDS), figsize=(1.6 * len(KINDS), 1.25 * rows), squeeze=False)
    for j, kind in enumerate(KINDS):
        axes[0, j].set_title(kind, fontsize=9)
        for axis, i in zip(axes[:, j], np.flatnonzero(np.asarray(batch.kind) == j), strict=False):
            corners = np.asarray(batch.corners_xy[i])[np.asarray(batch.corners_mask[i])]
            axis.imshow(np.asarray(batch.images[i, ..., 0]), cmap="gray", vmin=0, vmax=1)
            axis.scatter(*corners.T, s=14, facecolors="none", edgecolors="#00c853", linewidths=0.8)
            axis.set_axis_off()
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.005, top=0.95, wspace=0.04, hspace=0.04)
    figure.savefig(path, dpi=100)
    plt.close(figure)
    # 256 colours are enough for grey levels, and halve the size of the file.
    Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    target = Path(__file__).parents[1] / "images" / "synthetic_shapes.png"
    target.parent.mkdir(exist_ok=True)
    draw_gallery(target)
    print(f"{target.name}: {target.stat().st_size / 1000:.0f} kB")
