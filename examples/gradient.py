"""A gradient through keypoints: the shift of an image is found by gradient descent on the refined keypoints.

    python examples/gradient.py

The gradient goes through the interpolation of the image, the network, and the soft-argmax of its score peaks.
"""

import jax
import jax.numpy as jnp
from skimage import data

import superpoint_jax as sp
from superpoint_jax.geometry import warp_images

model = sp.from_pretrained()
photo = jnp.asarray(data.camera()[100:260, 120:328], jnp.float32)[None, ..., None] / 255
TRUE = jnp.array([1.3, -0.8])


def shifted(offset: jax.Array) -> jax.Array:
    """The photo moved by (x, y) pixels."""
    homography = jnp.eye(3).at[:2, 2].set(offset)
    return warp_images(photo, homography[None])[0]


target = sp.extract(model, shifted(TRUE), max_keypoints=64, refinement="soft_argmax")


@jax.jit
def loss(offset: jax.Array) -> jax.Array:
    """Mean squared distance of matching keypoints, in square pixels."""
    found = sp.extract(model, shifted(offset), max_keypoints=64, refinement="soft_argmax")
    matches = sp.match(found, target, ratio=0.9)  # The choice of matches has no gradient.
    difference = found.keypoints[0] - target.keypoints[0][matches.indices[0]]
    near = matches.mask[0] & (jnp.sum(difference**2, axis=-1) < 9)
    return jnp.sum(jnp.where(near[:, None], difference, 0) ** 2) / jnp.maximum(near.sum(), 1)


offset = jnp.zeros(2)
for step in range(12):
    value, gradient = jax.value_and_grad(loss)(offset)
    offset = offset - 0.3 * gradient
    if step % 4 == 3:
        print(f"step {step + 1}: loss {value:.3f}, offset ({offset[0]:+.2f}, {offset[1]:+.2f})")
print(f"true offset ({TRUE[0]:+.2f}, {TRUE[1]:+.2f})")
