"""LightGlue: the network that matches, its checkpoints, and what it says of every pair of keypoints."""

from superpoint_jax.lightglue.assignment import Assignment as Assignment
from superpoint_jax.lightglue.config import LightGlueConfig as LightGlueConfig
from superpoint_jax.lightglue.network import LightGlue as LightGlue
