"""Keypoints of an image pyramid for a batch of images, by `vmap`, in a jitted program with one compilation.

python examples/pyramid.py
"""

import jax
import jax.numpy as jnp
from skimage import data

import superpoint_jax as sp

SCALES = (1.0, 0.75, 0.5)
model = sp.from_pretrained()


def pyramid_keypoints(image: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(keypoints_xy [3K,2] in pixels of the image, scales [3K], descriptors [3K,D], mask [3K]) of an image [H,W,1]."""
    height, width, _ = image.shape
    levels = []
    for scale in SCALES:
        size = round(height * scale), round(width * scale)
        level = jax.image.resize(image, (*size, 1), "linear")
        found = sp.extract(model, level[None], max_keypoints=256)[0]
        # Pixel centres are at integers, so the corner of the image is at -0.5 on every level.
        ratio = jnp.array([[width / size[1], height / size[0]]])
        keypoints_xy = jnp.where(found.mask[:, None], (found.keypoints + 0.5) * ratio - 0.5, 0)
        levels.append((keypoints_xy, jnp.full(256, scale), found.descriptors, found.mask))
    return tuple(jnp.concatenate(column) for column in zip(*levels, strict=True))


photo = jnp.asarray(data.camera()[:320, :400], jnp.float32)[..., None] / 255
batch = jnp.stack([photo, photo[:, ::-1], 1 - photo])
keypoints_xy, scales, descriptors, mask = jax.jit(jax.vmap(pyramid_keypoints))(batch)
for scale in SCALES:
    counts = jnp.sum(mask & (scales == scale), axis=1)
    print(f"scale {scale}: {counts.tolist()} keypoints")
