"""Whole models of torchvision, with their own layers and with convkern's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from statistics import geometric_mean
from typing import Final

import torch
import torch.nn.functional as F
import torchvision
from rich.table import Table
from torch import Tensor, nn

from convkern.bench.tables import plain_table
from convkern.bench.timing import Sample, time_in_turn
from convkern.surgery import replace_conv2d

VISION_MODELS: Final = (
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "mobilenet_v2",
    "efficientnet_b0",
    "convnext_tiny",
    "densenet121",
    "shufflenet_v2_x1_0",
)
_FORMATS: Final[Mapping[str, torch.memory_format]] = {
    "nchw": torch.contiguous_format,
    "nhwc": torch.channels_last,
}
Call = Callable[[], object]


def time_models(
    names: Sequence[str],
    layouts: Sequence[str],
    seconds: float = 1.0,
    batch: int = 8,
    size: int = 224,
    report: Callable[[str], None] = lambda name: None,
) -> Table:
    """Times inference and a training step (forward, cross-entropy, backward, SGD) of each model, on
    `batch` images of size x size, against the same model with torch's layers in the same layout.

    Raises:
        ValueError: torchvision has no model of a name.
    """
    result = plain_table(("model", "layout", ""), ("torch, ms", "convkern, ms", "ratio"))
    ratios: dict[tuple[str, str], list[float]] = {}
    for name in names:
        theirs = torchvision.models.get_model(name, weights=None)
        ours = copy.deepcopy(theirs)
        replace_conv2d(ours)
        for layout in layouts:
            x = torch.randn(batch, 3, size, size).contiguous(memory_format=_FORMATS[layout])
            labels = torch.randint(1000, (batch,))
            for model in (theirs, ours):
                model.to(memory_format=_FORMATS[layout])
            for what, prepare in (("inference", _inference), ("training", _training)):
                calls = {"torch": prepare(theirs, x, labels), "convkern": prepare(ours, x, labels)}
                samples = time_in_turn(calls, seconds)
                ratio = samples["torch"].median / samples["convkern"].median
                ratios.setdefault((layout, what), []).append(ratio)
                result.add_row(name, layout, what, *map(_cell, samples.values()), f"{ratio:.2f}x")
        report(name)
    for (layout, what), values in ratios.items():
        mean = f"{geometric_mean(values):.2f}x"
        result.add_row("geometric mean", layout, what, "", "", mean)
    return result


def _inference(model: nn.Module, x: Tensor, labels: Tensor) -> Call:
    def call() -> None:
        model.eval()
        with torch.no_grad():
            model(x)

    return call


def _training(model: nn.Module, x: Tensor, labels: Tensor) -> Call:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def call() -> None:
        model.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return call


def _cell(sample: Sample) -> str:
    return f"{sample.median * 1e3:.1f} ±{sample.spread:.0%}"
