"""Which keypoint of one image is which of another."""

from superpoint_jax.matching.matches import Matches as Matches
from superpoint_jax.matching.nearest import all_pairs as all_pairs
from superpoint_jax.matching.nearest import match as match
from superpoint_jax.matching.nearest import match_pairs as match_pairs
