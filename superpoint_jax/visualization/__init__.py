"""Pictures of keypoints, matches, tracks and scenes: each function draws on matplotlib axes and returns them.

Without `axes`, the picture fills a new figure without a frame; `save` writes it. No global state of pyplot changes.
Scores are shown in viridis, and categories in the colours of Okabe and Ito; colour-blind people can read both.
"""

from superpoint_jax.visualization.canvas import new_axes as new_axes
from superpoint_jax.visualization.canvas import save as save
from superpoint_jax.visualization.canvas import to_pixels as to_pixels
from superpoint_jax.visualization.drawing import draw_keypoints as draw_keypoints
from superpoint_jax.visualization.drawing import draw_matches as draw_matches
from superpoint_jax.visualization.drawing import draw_tracks as draw_tracks
from superpoint_jax.visualization.maps import draw_descriptor_map as draw_descriptor_map
from superpoint_jax.visualization.maps import draw_score_map as draw_score_map
from superpoint_jax.visualization.scene import draw_scene as draw_scene
