"""Draw the keypoints of one photo.

python examples/detect.py [PHOTO [OUT.png]]
"""

import sys

from matplotlib.cbook import get_sample_data

import superpoint_jax as sp
from superpoint_jax.visualization import draw_keypoints, save

path = sys.argv[1] if len(sys.argv) > 1 else get_sample_data("grace_hopper.jpg", asfileobj=False)
photo = sp.load_image(path)  # uint8 [H, W, 3]
features = sp.extract(sp.from_pretrained(), photo[None], max_keypoints=512)[0]

for (x, y), score in zip(features.keypoints[:5], features.scores[:5], strict=True):
    print(f"({x:6.1f}, {y:6.1f})  score {score:.3f}")
save(draw_keypoints(photo, features), sys.argv[2] if len(sys.argv) > 2 else "keypoints.png")
