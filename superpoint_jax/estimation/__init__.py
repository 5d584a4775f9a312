"""Robust estimation of the geometry between two images from their matches: homography, fundamental, essential matrix.

OpenCV's estimators, which run on the host, are better; `ransac_homography` is written in JAX, for use inside `jit` and
`vmap`. All take the keypoints of two images and their `Matches`, and return an `Estimate` with the inliers.
"""

from superpoint_jax.estimation.estimate import Estimate as Estimate
from superpoint_jax.estimation.opencv import estimate_essential as estimate_essential
from superpoint_jax.estimation.opencv import estimate_fundamental as estimate_fundamental
from superpoint_jax.estimation.opencv import estimate_homography as estimate_homography
from superpoint_jax.estimation.opencv import relative_pose as relative_pose
from superpoint_jax.estimation.ransac import ransac_homography as ransac_homography
