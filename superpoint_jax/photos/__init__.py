"""Keypoints of photos of any kind and size, in pixels of each photo."""

from superpoint_jax.photos.describe_image import describe_image as describe_image
from superpoint_jax.photos.extract_images import extract_images as extract_images
from superpoint_jax.photos.rotations import RotatedMatch as RotatedMatch
from superpoint_jax.photos.rotations import match_rotations as match_rotations
