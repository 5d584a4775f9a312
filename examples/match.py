"""Match two photos, estimate the homography between them, and draw the matches.

    python examples/match.py [A B [OUT.png]]

Needs OpenCV: pip install 'superpoint-jax[geometry]'. The photos may have different sizes.
"""

import sys

import superpoint_jax as sp
from superpoint_jax.visualization import draw_matches, save

if len(sys.argv) > 2:
    photos = [sp.load_image(path) for path in sys.argv[1:3]]
else:
    from skimage import data

    photos = [data.coffee()[:340, :480], data.coffee()[40:, 80:560]]

processor = sp.SuperPointImageProcessor.from_pretrained()
inputs = processor(photos)  # One array, with each photo in the top-left corner, at most 1024 px long.
features = sp.extract(sp.from_pretrained(), inputs.pixel_values, image_sizes=inputs.image_sizes, max_keypoints=1024)
a, b = features[0], features[1]
matches = sp.match(a, b)
estimate = sp.estimate_homography(a, b, matches)
print(f"{int(matches.mask.sum())} matches, {int(estimate.inliers.sum())} inliers")
print(estimate.matrix.round(3))

heights, widths = inputs.image_sizes.T
seen = [inputs.pixel_values[i, : heights[i], : widths[i]] for i in range(2)]
axes = draw_matches(*seen, a, b, matches, inliers=estimate.inliers, max_lines=200)
save(axes, sys.argv[3] if len(sys.argv) > 3 else "matches.png")
