"""Turns image files and arrays into batches for the network, and its keypoints back into pixels of the images."""

from superpoint_jax.processing.coordinates import post_process_keypoint_detection as post_process_keypoint_detection
from superpoint_jax.processing.coordinates import relative_keypoints as relative_keypoints
from superpoint_jax.processing.coordinates import rescale_keypoints as rescale_keypoints
from superpoint_jax.processing.device import preprocess_on_device as preprocess_on_device
from superpoint_jax.processing.loading import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from superpoint_jax.processing.loading import MAX_IMAGE_PIXELS as MAX_IMAGE_PIXELS
from superpoint_jax.processing.loading import ImageError as ImageError
from superpoint_jax.processing.loading import list_images as list_images
from superpoint_jax.processing.loading import load_image as load_image
from superpoint_jax.processing.loading import to_uint8 as to_uint8
from superpoint_jax.processing.processor import BatchFeature as BatchFeature
from superpoint_jax.processing.processor import SuperPointImageProcessor as SuperPointImageProcessor
