"""Loading and saving weights of Hugging Face, Magic Leap, rpautrat and this project."""

from superpoint_jax.hub import HubError as HubError
from superpoint_jax.weights.assembly import from_state_dict as from_state_dict
from superpoint_jax.weights.assembly import state_dict as state_dict
from superpoint_jax.weights.conversion import convert as convert
from superpoint_jax.weights.errors import WeightsError as WeightsError
from superpoint_jax.weights.load import from_pretrained as from_pretrained
from superpoint_jax.weights.save import save_pretrained as save_pretrained
from superpoint_jax.weights.save import save_weights as save_weights
