"""SuperPoint for JAX."""

import importlib
from typing import TYPE_CHECKING, Any

from superpoint_jax import openvino as openvino
from superpoint_jax.config import SuperPointConfig as SuperPointConfig
from superpoint_jax.estimation import Estimate as Estimate
from superpoint_jax.estimation import estimate_essential as estimate_essential
from superpoint_jax.estimation import estimate_fundamental as estimate_fundamental
from superpoint_jax.estimation import estimate_homography as estimate_homography
from superpoint_jax.estimation import ransac_homography as ransac_homography
from superpoint_jax.estimation import relative_pose as relative_pose
from superpoint_jax.extraction import extract as extract
from superpoint_jax.features import DenseFeatures as DenseFeatures
from superpoint_jax.features import Keypoints as Keypoints
from superpoint_jax.lightglue import LightGlue as LightGlue
from superpoint_jax.lightglue import LightGlueConfig as LightGlueConfig
from superpoint_jax.matching import Matches as Matches
from superpoint_jax.matching import match as match
from superpoint_jax.matching import match_pairs as match_pairs
from superpoint_jax.model import SuperPoint as SuperPoint
from superpoint_jax.own_keypoints import describe as describe
from superpoint_jax.photos import RotatedMatch as RotatedMatch
from superpoint_jax.photos import extract_images as extract_images
from superpoint_jax.photos import match_rotations as match_rotations
from superpoint_jax.processing import ImageError as ImageError
from superpoint_jax.processing import SuperPointImageProcessor as SuperPointImageProcessor
from superpoint_jax.processing import load_image as load_image
from superpoint_jax.torch_lightglue import from_lightglue as from_lightglue
from superpoint_jax.torch_lightglue import from_torch_lightglue as from_torch_lightglue
from superpoint_jax.torch_lightglue import to_lightglue as to_lightglue
from superpoint_jax.torch_lightglue import to_lightglue_pairs as to_lightglue_pairs
from superpoint_jax.torch_lightglue import to_torch_lightglue as to_torch_lightglue
from superpoint_jax.torch_lightglue import to_torch_lightglue_pairs as to_torch_lightglue_pairs
from superpoint_jax.tracking import Tracker as Tracker
from superpoint_jax.tracking import Tracks as Tracks
from superpoint_jax.weights import HubError as HubError
from superpoint_jax.weights import WeightsError as WeightsError
from superpoint_jax.weights import from_pretrained as from_pretrained
from superpoint_jax.weights import save_pretrained as save_pretrained

if TYPE_CHECKING:
    from superpoint_jax import huggingface as huggingface
    from superpoint_jax.huggingface import SuperPointForKeypointDetection as SuperPointForKeypointDetection


def __getattr__(name: str) -> Any:
    """The interface of transformers, which is imported when it is first used."""
    if name not in ("huggingface", "SuperPointForKeypointDetection"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    interface = importlib.import_module("superpoint_jax.huggingface")
    return interface if name == "huggingface" else interface.SuperPointForKeypointDetection
