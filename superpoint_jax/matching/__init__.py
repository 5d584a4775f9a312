"""Matching: finds which keypoints of two images belong together."""

from superpoint_jax.matching.matcher import Matcher as Matcher
from superpoint_jax.matching.matches import Matches as Matches
from superpoint_jax.matching.matches import no_matches as no_matches
from superpoint_jax.matching.nearest import all_pairs as all_pairs
from superpoint_jax.matching.nearest import match as match
from superpoint_jax.matching.nearest import match_pairs as match_pairs
from superpoint_jax.matching.pairs import batch_of_one as batch_of_one
from superpoint_jax.matching.pairs import check_pairs as check_pairs
from superpoint_jax.matching.pairs import first_max as first_max
from superpoint_jax.matching.pairs import rows_of as rows_of
from superpoint_jax.matching.pairs import stacked as stacked
