"""Which geometry relates two images, from their matches: homography, fundamental and essential matrix, robustly.

OpenCV's estimators on the host are the better ones; `ransac_homography` is JAX, for inside one's own `jit` and `vmap`.
All take the keypoints of two images and their `Matches`, and say in an `Estimate` which were inliers.
"""

from superpoint_jax.estimation.estimate import Estimate as Estimate
from superpoint_jax.estimation.opencv import estimate_essential as estimate_essential
from superpoint_jax.estimation.opencv import estimate_fundamental as estimate_fundamental
from superpoint_jax.estimation.opencv import estimate_homography as estimate_homography
from superpoint_jax.estimation.opencv import relative_pose as relative_pose
from superpoint_jax.estimation.ransac import ransac_homography as ransac_homography
