"""Torchvision's models traced and fused, against the models in float64."""

from __future__ import annotations

import pytest
import torch
import torchvision

from convkern.optimize import fused as functions
from convkern.optimize.rewriting import field
from traced import census, fused, randomise

# What the graphs consist of, without changes of shape.
MODELS = {
    "alexnet": None,
    "convnext_tiny": {"conv2d": 22, "linear": 37, "permute": 49, "layer_norm": 23, "mean": 1},
    # In float64. In float32 the scales and shifts of concatenations are part of their copies.
    "densenet121": {"conv2d": 123, "linear": 1, "scale_shift": 62, "channels": 58, "max_pool2d": 1,
                    "mean": 1},
    "efficientnet_b0": {"conv2d": 81, "mul": 16, "linear": 1, "mean": 17},
    "efficientnet_v2_s": None,
    "googlenet": {"conv2d": 57, "linear": 1, "max_pool2d": 13, "channels": 9, "mean": 1},
    "mnasnet1_0": {"conv2d": 52, "linear": 1, "mean": 1},
    "mobilenet_v2": {"conv2d": 52, "linear": 1, "mean": 1},
    "mobilenet_v3_large": {"conv2d": 62, "mul": 8, "linear": 2, "mean": 9},
    "regnet_x_400mf": None,
    "regnet_y_800mf": {"conv2d": 75, "mul": 14, "linear": 1, "mean": 15},
    "resnet18": {"conv2d": 20, "linear": 1, "max_pool2d": 1, "mean": 1},
    "resnet50": {"conv2d": 53, "linear": 1, "max_pool2d": 1, "mean": 1},
    "resnext50_32x4d": {"conv2d": 53, "linear": 1, "max_pool2d": 1, "mean": 1},
    "shufflenet_v2_x1_0": {"conv2d": 56, "linear": 1, "channels": 16, "max_pool2d": 1, "mean": 1},
    "squeezenet1_1": {"conv2d": 26, "channels": 8, "max_pool2d": 3, "mean": 1},
    "swin_t": None,
    "vgg11_bn": {"conv2d": 8, "linear": 3, "max_pool2d": 5, "adaptive_avg_pool2d": 1},
    "vit_b_16": None,
    "wide_resnet50_2": None,
}  # fmt: skip
# How many layers add a residual. The first two blocks of efficientnet_v2_s add theirs after the
# activation.
RESIDUALS = {
    "convnext_tiny": 18, "efficientnet_b0": 9, "efficientnet_v2_s": 33, "mnasnet1_0": 10,
    "mobilenet_v2": 10, "mobilenet_v3_large": 10, "regnet_x_400mf": 22, "regnet_y_800mf": 14,
    "resnet18": 8, "resnet50": 16, "resnext50_32x4d": 16, "swin_t": 12, "vit_b_16": 12,
    "wide_resnet50_2": 16,
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str) -> None:
    arguments = {"init_weights": False} if name == "googlenet" else {}
    model = randomise(getattr(torchvision.models, name)(weights=None, **arguments))
    size = 224 if name == "vit_b_16" else 64
    module, report = fused(model, torch.randn(1, 3, size, size, dtype=torch.float64))
    parts = census(module)
    parts.pop("reshape", None)
    assert "batch_norm" not in parts
    if MODELS[name] is not None:
        assert parts == MODELS[name]
        assert report.kept == []
    layers = [n for n in module.graph.nodes if n.target in (
        functions.conv2d, functions.linear
    )]  # fmt: skip
    assert sum(field(n, "residual") is not None for n in layers) == RESIDUALS.get(name, 0)
