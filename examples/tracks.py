"""Follow keypoints through a sequence in one `lax.scan`, and draw their tracks.

    python examples/tracks.py OUT.png

The sequence is a camera that turns and moves over one photo.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from skimage import data

import superpoint_jax as sp
from superpoint_jax.geometry import warp_images
from superpoint_jax.visualization import draw_tracks, save

photo = jnp.asarray(data.astronaut(), jnp.float32) / 255


def view(step: jax.Array) -> jax.Array:
    """The homography of a frame: in each step it turns by 1.5 degrees, moves a little and enlarges by 1 %."""
    angle, zoom = jnp.deg2rad(1.5 * step), 1 + 0.01 * step
    cos, sin = zoom * jnp.cos(angle), zoom * jnp.sin(angle)
    about = jnp.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    center, place = jnp.eye(3).at[:2, 2].set(-256.0), jnp.eye(3).at[:2, 2].set(jnp.array([240.0, 160.0]) - step)
    return place @ about @ center


frames, _ = warp_images(jnp.repeat(photo[None], 10, 0), jax.vmap(view)(jnp.arange(10.0)), shape=(320, 480))
features = sp.extract(sp.from_pretrained(), frames, max_keypoints=256)
tracks = jax.jit(sp.Tracker(length=10).track)(features)  # One entry per frame.

last = tracks[-1]
save(draw_tracks(frames[-1], last, min_age=2), sys.argv[1])
old = int(np.sum(np.asarray(last.ages) >= 5))
print(f"{int(last.next_id)} tracks in 10 frames; {old} of the last are 5 frames old or more")
