"""SuperPoint in JAX and LightGlue in PyTorch in one program: tensors are exchanged by DLPack.

    python examples/lightglue_torch.py [LIGHTGLUE]

LIGHTGLUE is a model for transformers, for example "ETH-CVG/lightglue_superpoint", which was trained on Magic Leap's
descriptors; the descriptors are then those of Magic Leap's weights. Without LIGHTGLUE, its weights are random: the
program runs, but finds no matches.
"""

import sys

import jax.numpy as jnp
import torch
from skimage import data
from transformers import LightGlueConfig, LightGlueForKeypointMatching, SuperPointConfig

import superpoint_jax as sp

if len(sys.argv) > 1:
    lightglue = LightGlueForKeypointMatching.from_pretrained(sys.argv[1])
    model = sp.from_pretrained("magic-leap-community/superpoint", config="lightglue")
else:
    torch.manual_seed(0)
    lightglue = LightGlueForKeypointMatching(LightGlueConfig(keypoint_detector_config=SuperPointConfig()))
    model = sp.from_pretrained()

# Two views of a photo, of equal size, because LightGlue in transformers takes one size for both.
photo = data.coffee()
images = jnp.stack([jnp.asarray(photo[:320, :480]), jnp.asarray(photo[40:360, 80:560])])
features = sp.extract(model, images, max_keypoints=512)
a, b = features[:1], features[1:]

tensors = sp.to_torch_lightglue_pairs(a, b)
tensors = {name: torch.from_dlpack(x) if hasattr(x, "__dlpack__") else x for name, x in tensors.items()}
with torch.no_grad():
    indices, scores, *_ = lightglue.eval()._match_image_pair(**tensors)

# The result contains both images of each pair; only the matches of the first are needed.
indices, scores = (x.reshape(1, 2, -1)[:, 0].contiguous() for x in (indices, scores))
matches = sp.from_torch_lightglue(jnp.from_dlpack(indices.int()), jnp.from_dlpack(scores), a, b)
nearest = sp.match(a, b)
print(f"LightGlue: {int(matches.mask.sum())} matches; mutual nearest neighbours: {int(nearest.mask.sum())}")
