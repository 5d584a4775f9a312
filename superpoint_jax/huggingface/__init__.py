"""Hugging Face's door: code written for transformers' SuperPoint runs with its import changed, and gives its numbers.

    from superpoint_jax.huggingface import AutoImageProcessor, SuperPointForKeypointDetection

Names, layouts, defaults and results are theirs in this room, and in this room only: channels first, keypoints relative
to the image, 0 and 1 in the mask, as many rows as the fullest image has. Torch tensors in, torch tensors out; else jax
arrays. docs/from_huggingface.md has what differs. `superpoint_jax.extract` is the library's own interface.
"""

from superpoint_jax.huggingface.auto import AutoImageProcessor as AutoImageProcessor
from superpoint_jax.huggingface.auto import AutoModel as AutoModel
from superpoint_jax.huggingface.auto import AutoModelForKeypointDetection as AutoModelForKeypointDetection
from superpoint_jax.huggingface.batch import BatchFeature as BatchFeature
from superpoint_jax.huggingface.config import SuperPointConfig as SuperPointConfig
from superpoint_jax.huggingface.model import SuperPointForKeypointDetection as SuperPointForKeypointDetection
from superpoint_jax.huggingface.outputs import (
    SuperPointKeypointDescriptionOutput as SuperPointKeypointDescriptionOutput,
)
from superpoint_jax.huggingface.processors import SuperPointImageProcessor as SuperPointImageProcessor
from superpoint_jax.huggingface.processors import SuperPointImageProcessorFast as SuperPointImageProcessorFast
from superpoint_jax.huggingface.processors import SuperPointImageProcessorPil as SuperPointImageProcessorPil
