"""LightGlue: a network that matches keypoints, its checkpoints, and its probabilities for all pairs of keypoints."""

from superpoint_jax.lightglue.assignment import Assignment as Assignment
from superpoint_jax.lightglue.config import LightGlueConfig as LightGlueConfig
from superpoint_jax.lightglue.network import LightGlue as LightGlue
