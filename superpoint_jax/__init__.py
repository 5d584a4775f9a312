"""SuperPoint for JAX."""

from superpoint_jax.config import SuperPointConfig as SuperPointConfig
from superpoint_jax.extraction import extract as extract
from superpoint_jax.features import DenseFeatures as DenseFeatures
from superpoint_jax.features import Keypoints as Keypoints
from superpoint_jax.huggingface import SuperPointForKeypointDetection as SuperPointForKeypointDetection
from superpoint_jax.matching import Matches as Matches
from superpoint_jax.matching import match as match
from superpoint_jax.matching import match_pairs as match_pairs
from superpoint_jax.model import SuperPoint as SuperPoint
from superpoint_jax.processing import ImageError as ImageError
from superpoint_jax.processing import SuperPointImageProcessor as SuperPointImageProcessor
from superpoint_jax.processing import load_image as load_image
from superpoint_jax.weights import HubError as HubError
from superpoint_jax.weights import WeightsError as WeightsError
from superpoint_jax.weights import from_pretrained as from_pretrained
from superpoint_jax.weights import save_pretrained as save_pretrained
