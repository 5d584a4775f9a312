"""Evaluation of SuperPoint: metrics of repeatability, matching and homographies, and the HPatches protocol."""

from superpoint_jax.evaluation.datasets import Pair as Pair
from superpoint_jax.evaluation.datasets import homography_pairs as homography_pairs
from superpoint_jax.evaluation.datasets import sequence_pairs as sequence_pairs
from superpoint_jax.evaluation.detector import ShapesResult as ShapesResult
from superpoint_jax.evaluation.detector import evaluate_shapes as evaluate_shapes
from superpoint_jax.evaluation.detector import shapes_table as shapes_table
from superpoint_jax.evaluation.extractors import Extractor as Extractor
from superpoint_jax.evaluation.extractors import make_extractor as make_extractor
from superpoint_jax.evaluation.extractors import make_extractors as make_extractors
from superpoint_jax.evaluation.extractors import orb_extractor as orb_extractor
from superpoint_jax.evaluation.extractors import sift_extractor as sift_extractor
from superpoint_jax.evaluation.extractors import superpoint_extractor as superpoint_extractor
from superpoint_jax.evaluation.protocol import evaluate_homographies as evaluate_homographies
from superpoint_jax.evaluation.protocol import evaluate_hpatches as evaluate_hpatches
from superpoint_jax.evaluation.protocol import evaluate_pairs as evaluate_pairs
from superpoint_jax.evaluation.report import Evaluation as Evaluation
from superpoint_jax.evaluation.report import PairResult as PairResult
from superpoint_jax.evaluation.report import plot as plot
from superpoint_jax.evaluation.report import save_json as save_json
from superpoint_jax.evaluation.report import table as table
from superpoint_jax.evaluation.validation import pair_figures as pair_figures
from superpoint_jax.evaluation.validation import photo_validator as photo_validator
from superpoint_jax.evaluation.validation import validation_metrics as validation_metrics
