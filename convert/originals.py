"""The originals in PyTorch: the model of transformers, and for the others plain torch written from docs/variants.md.

Each is a function from a gray image [H,W] in [0, 1] to `Stages`. The tensors are used with the names and layouts of the
file, so that errors in our own key maps and layouts can't be hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from superpoint_jax.config import CELL_PX, SuperPointConfig
from superpoint_jax.weights.config_json import HUGGING_FACE_FIELDS
from superpoint_jax.weights.errors import WeightsError
from superpoint_jax.weights.keys import (
    HUGGING_FACE,
    MAGIC_LEAP,
    PYTORCH_SUPERPOINT,
    REFINEMENT_HEAD,
    RPAUTRAT,
    SHAOFENGZENG,
    Layout,
)

from .stages import Stages

Original = Callable[[np.ndarray], Stages]
Weights = Mapping[str, Tensor]


def original(tensors: Mapping[str, np.ndarray], layout: Layout, config: SuperPointConfig) -> Original:
    """The PyTorch network and decoding with which weights of this layout were published.

    Raises:
        WeightsError: There is no original, because the weights have batch norm in our own layout.
    """
    weights = {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
    weights = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    if layout is HUGGING_FACE:
        if config.batch_norm:
            raise WeightsError(
                "no PyTorch original has batch norm in this layout; verify the file that it was converted from"
            )
        return _hugging_face(weights, config)
    network = NETWORKS[layout.name]
    decode = _demo if layout.preset == MAGIC_LEAP.preset else _centered

    @torch.no_grad()
    def stages(image: np.ndarray) -> Stages:
        gray = torch.from_numpy(image)
        return decode(*network(weights, gray), gray, config)

    return stages


def _hugging_face(weights: Weights, config: SuperPointConfig) -> Original:
    from transformers import SuperPointConfig as TheirConfig
    from transformers import SuperPointForKeypointDetection

    fields = asdict(config)
    model = SuperPointForKeypointDetection(TheirConfig(**{name: fields[name] for name in HUGGING_FACE_FIELDS})).eval()
    # The refinement head is ours; the original has none.
    model.load_state_dict(
        {name: value for name, value in weights.items() if not name.startswith(f"{REFINEMENT_HEAD}.")}
    )
    logits: list[Tensor] = []
    model.keypoint_decoder.conv_score_b.register_forward_hook(lambda *arguments: logits.append(arguments[-1]))

    @torch.no_grad()
    def stages(gray: np.ndarray) -> Stages:
        logits.clear()
        out = model(torch.from_numpy(gray)[None, None], output_hidden_states=True)
        encoded = out.hidden_states[-1]
        # Suppression with radius 0 keeps all pixels, so this is the score map before suppression.
        model.keypoint_decoder.nms_radius = 0
        scores = model.keypoint_decoder._get_pixel_scores(encoded)[0]
        model.keypoint_decoder.nms_radius = config.nms_radius
        suppressed = model.keypoint_decoder._get_pixel_scores(encoded)[0]
        # The model divides by (W, H) in float32; rounding restores the pixel.
        keypoints_xy = np.round(out.keypoints[0].numpy() * np.array(gray.shape[::-1], np.float32))
        return Stages(
            blocks=tuple(_channels_last(state[0]) for state in out.hidden_states),
            logits=_channels_last(logits[0][0]),
            score_map=scores.numpy(),
            suppressed=suppressed.numpy(),
            keypoints_xy=keypoints_xy,
            scores=out.scores[0].numpy(),
            descriptors=out.descriptors[0].numpy(),
        )

    return stages


Layer = tuple[str, str | None]
"""The file's name of a convolution and of its batch norm."""


@dataclass(frozen=True)
class Network:
    """A network in plain torch.

    Attributes:
        layers: Two layers for each of the four blocks, two for the keypoints, two for the descriptors.
        norm_first: Whether batch norm comes before the ReLU.
        eps: The number that batch norm adds to the variance.
    """

    layers: tuple[Layer, ...]
    norm_first: bool = False
    eps: float = 1e-3

    def __call__(self, weights: Weights, gray: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """The output of each block, the logits, and the dense descriptors before they are normalised."""

        def layer(x: Tensor, index: int, *, relu: bool = True) -> Tensor:
            conv, norm = self.layers[index]
            x = F.conv2d(x, weights[f"{conv}.weight"], weights[f"{conv}.bias"], padding="same")
            x = F.relu(x) if relu and not self.norm_first else x
            if norm is not None:
                mean, var = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
                x = F.batch_norm(x, mean, var, weights[f"{norm}.weight"], weights[f"{norm}.bias"], eps=self.eps)
            return F.relu(x) if relu and self.norm_first else x

        x, blocks = gray[None, None], []
        for block in range(4):
            x = layer(layer(x, 2 * block), 2 * block + 1)
            x = F.max_pool2d(x, 2) if block < 3 else x
            blocks.append(x)
        logits, dense = (layer(layer(x, first), first + 1, relu=False) for first in (8, 10))
        return blocks, logits, dense


_UNET = ("inc.conv", "down1.mpconv.1", "down2.mpconv.1", "down3.mpconv.1")
_HEADS = ("Pa", "Pb", "Da", "Db")

NETWORKS = {
    MAGIC_LEAP.name: Network(
        tuple((f"conv{name}", None) for name in ("1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b", *_HEADS))
    ),
    RPAUTRAT.name: Network(
        tuple(
            (f"{stage}.{half}.conv", f"{stage}.{half}.bn")
            for stage in (*(f"backbone.{block}" for block in range(4)), "detector", "descriptor")
            for half in range(2)
        )
    ),
    SHAOFENGZENG.name: Network(
        (
            *((f"backbone.block{b}_{half}.0", f"backbone.block{b}_{half}.2") for b in range(1, 5) for half in (1, 2)),
            *((f"detector_head.conv{name}", f"detector_head.bn{name}") for name in _HEADS[:2]),
            *((f"descriptor_head.conv{name}", f"descriptor_head.bn{name}") for name in _HEADS[2:]),
        )
    ),
    PYTORCH_SUPERPOINT.name: Network(
        (
            *((f"{block}.conv.{place}", f"{block}.conv.{place + 1}") for block in _UNET for place in (0, 3)),
            *((f"conv{name}", f"bn{name}") for name in _HEADS),
        ),
        norm_first=True,
        eps=1e-5,
    ),
}


def _demo(blocks: list[Tensor], logits: Tensor, dense: Tensor, gray: Tensor, config: SuperPointConfig) -> Stages:
    """The decoding of the demo published with superpoint_v1.pth."""
    dense = dense / torch.linalg.vector_norm(dense, dim=1, keepdim=True)
    exponentials = torch.exp(logits[0])
    scores = _cells_to_pixels(exponentials / (exponentials.sum(0) + 1e-5))
    suppressed = _greedy(scores, threshold=config.keypoint_threshold, radius=config.nms_radius)
    keypoints_xy = _inside(suppressed > 0, config.border_removal_distance, *gray.shape)
    descriptors = _sample(dense, keypoints_xy / CELL_PX - 0.5)
    descriptors = descriptors / torch.linalg.vector_norm(descriptors, dim=1, keepdim=True)
    return _stages(blocks, logits, scores, suppressed, keypoints_xy, descriptors)


def _centered(blocks: list[Tensor], logits: Tensor, dense: Tensor, gray: Tensor, config: SuperPointConfig) -> Stages:
    """The decoding of rpautrat's PyTorch port."""
    dense = F.normalize(dense, dim=1)
    scores = _cells_to_pixels(torch.softmax(logits[0], 0))
    suppressed = _three_pass(scores, radius=config.nms_radius)
    keypoints_xy = _inside(suppressed > config.keypoint_threshold, config.border_removal_distance, *scores.shape)
    descriptors = F.normalize(_sample(dense, (keypoints_xy + 0.5) / CELL_PX - 0.5), dim=1)
    return _stages(blocks, logits, scores, suppressed, keypoints_xy, descriptors)


def _cells_to_pixels(probabilities: Tensor) -> Tensor:
    """[65,h,w] rearranged to [8h,8w]; channel 8 * dy + dx is pixel (dx, dy) of the cell."""
    return F.pixel_shuffle(probabilities[None, :-1], CELL_PX)[0, 0]


def _greedy(scores: Tensor, *, threshold: float, radius: int) -> Tensor:
    """The scores that are kept when, in descending order, each candidate suppresses those within `radius`."""
    values = scores.numpy()
    rows, columns = np.nonzero(values >= threshold)
    silenced, kept = np.zeros(values.shape, bool), np.zeros_like(values)
    for i in np.argsort(-values[rows, columns], kind="stable"):
        y, x = rows[i], columns[i]
        if not silenced[y, x]:
            kept[y, x] = values[y, x]
            silenced[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1] = True
    return torch.from_numpy(kept)


def _three_pass(scores: Tensor, *, radius: int) -> Tensor:
    def window_max(x: Tensor) -> Tensor:
        return F.max_pool2d(x[None, None], 2 * radius + 1, stride=1, padding=radius)[0, 0]

    kept = scores == window_max(scores)
    for _ in range(2):
        near = window_max(kept.float()) > 0
        rest = torch.where(near, 0.0, scores)
        kept |= (rest == window_max(rest)) & ~near
    return torch.where(kept, scores, 0.0)


def _inside(found: Tensor, border: int, height: int, width: int) -> Tensor:
    """(x, y) of the True pixels at least `border` from the border of (height, width), in raster order."""
    y, x = torch.nonzero(found, as_tuple=True)
    keep = (x >= border) & (y >= border) & (x < width - border) & (y < height - border)
    return torch.stack([x[keep], y[keep]], dim=-1).float()


def _sample(dense: Tensor, u: Tensor) -> Tensor:
    """Bilinear samples of [1,D,h,w] at cells u [N,2] (x, y), zeros outside."""
    size = torch.tensor([dense.shape[3], dense.shape[2]], dtype=torch.float32)
    grid = (2 * u + 1) / size - 1
    return F.grid_sample(dense, grid[None, None], mode="bilinear", align_corners=False)[0, :, 0].T


def _stages(
    blocks: list[Tensor], logits: Tensor, scores: Tensor, suppressed: Tensor, keypoints_xy: Tensor, descriptors: Tensor
) -> Stages:
    x, y = keypoints_xy.long().unbind(-1)
    return Stages(
        blocks=tuple(_channels_last(block[0]) for block in blocks),
        logits=_channels_last(logits[0]),
        score_map=scores.numpy(),
        suppressed=suppressed.numpy(),
        keypoints_xy=keypoints_xy.numpy(),
        scores=scores[y, x].numpy(),
        descriptors=descriptors.numpy(),
    )


def _channels_last(x: Tensor) -> np.ndarray:
    return x.permute(1, 2, 0).numpy()
