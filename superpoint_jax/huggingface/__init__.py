"""The interface of transformers' SuperPoint and LightGlue: change the import of your code, and results are the same.

    from superpoint_jax.huggingface import AutoImageProcessor, SuperPointForKeypointDetection

In this package, and only here, names, layouts, defaults and results are those of transformers: channels come first,
keypoints are relative to the image size, the mask holds 0 and 1, and there are as many rows as the fullest image has
keypoints. Torch tensors give torch tensors; everything else gives jax arrays. docs/from_huggingface.md lists the
differences. `superpoint_jax.extract` is the library's own interface.
"""

from superpoint_jax.huggingface.auto import AutoImageProcessor as AutoImageProcessor
from superpoint_jax.huggingface.auto import AutoModel as AutoModel
from superpoint_jax.huggingface.auto import AutoModelForKeypointDetection as AutoModelForKeypointDetection
from superpoint_jax.huggingface.auto import AutoModelForKeypointMatching as AutoModelForKeypointMatching
from superpoint_jax.huggingface.batch import BatchFeature as BatchFeature
from superpoint_jax.huggingface.config import SuperPointConfig as SuperPointConfig
from superpoint_jax.huggingface.lightglue import LightGlueForKeypointMatching as LightGlueForKeypointMatching
from superpoint_jax.huggingface.lightglue_config import LightGlueConfig as LightGlueConfig
from superpoint_jax.huggingface.model import SuperPointForKeypointDetection as SuperPointForKeypointDetection
from superpoint_jax.huggingface.outputs import LightGlueKeypointMatchingOutput as LightGlueKeypointMatchingOutput
from superpoint_jax.huggingface.outputs import (
    SuperPointKeypointDescriptionOutput as SuperPointKeypointDescriptionOutput,
)
from superpoint_jax.huggingface.pairs import LightGlueImageProcessor as LightGlueImageProcessor
from superpoint_jax.huggingface.pairs import LightGlueImageProcessorFast as LightGlueImageProcessorFast
from superpoint_jax.huggingface.pairs import LightGlueImageProcessorPil as LightGlueImageProcessorPil
from superpoint_jax.huggingface.processors import SuperPointImageProcessor as SuperPointImageProcessor
from superpoint_jax.huggingface.processors import SuperPointImageProcessorFast as SuperPointImageProcessorFast
from superpoint_jax.huggingface.processors import SuperPointImageProcessorPil as SuperPointImageProcessorPil
