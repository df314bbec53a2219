"""Times whole models of torchvision, with torch's layers and with convkern's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import geometric_mean
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convkern._show.tables import Table
from convkern.bench.results import Result, check_one_of, check_samples
from convkern.bench.timing import Call, Sample, time_in_turn
from convkern.problem import FORMATS
from convkern.surgery import replace_layers

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
LAYOUT_NAMES: Final = {"nchw": "NCHW", "nhwc": "channels_last"}
STEP_NAMES: Final = {"inference": "inference", "training": "training step"}


@dataclass(frozen=True)
class ModelRow:
    """One model in one layout, "nchw" or "nhwc".

    Attributes:
        what: "inference", or "training" for one training step.
        samples: the times by the library of the layers, "torch" and "convkern".
    """

    model: str
    layout: str
    what: str
    samples: dict[str, Sample]

    def __post_init__(self) -> None:
        check_one_of("layout", self.layout, LAYOUT_NAMES)
        check_one_of("what", self.what, STEP_NAMES)
        check_samples(self.samples, "torch", "convkern")

    @property
    def ratio(self) -> float:
        """Returns the time with torch's layers as a multiple of the time with convkern's."""
        return self.samples["torch"].median / self.samples["convkern"].median


@dataclass(frozen=True)
class ModelTimes(Result):
    """A run over several models."""

    source = "bench models"

    rows: list[ModelRow]


def check_models(names: Sequence[str], own: Collection[str] = ()) -> None:
    """Raises ValueError unless all names are of torchvision's models or among our own."""
    if not names:
        raise ValueError("models must be one name or several, got none")
    others = [name for name in names if name not in own]
    if not others:
        return
    if find_spec("torchvision") is None:
        raise ValueError(f"model {others[0]} is torchvision's: pip install 'convkern[data]'")
    import torchvision.models

    known = torchvision.models.list_models(module=torchvision.models)
    for name in others:
        if name not in known:
            among = " or ".join(["torchvision's models for classification", *own])
            raise ValueError(f"models must be among {among}, got {name!r}")


def time_models(
    names: Sequence[str],
    layouts: Sequence[str],
    seconds: float = 1.0,
    batch: int = 8,
    size: int = 224,
    report: Callable[[str], None] = lambda name: None,
) -> ModelTimes:
    """Times inference and a training step (forward, cross-entropy, backward, SGD) of each model, on
    `batch` images of size x size. Each is compared with the same model with torch's layers in the
    same layout.

    Raises:
        ValueError: torchvision has no model of a name, or is not installed.
    """
    check_models(names)
    from torchvision.models import get_model

    times = ModelTimes.begin()
    for name in names:
        theirs = get_model(name, weights=None)
        ours = copy.deepcopy(theirs)
        replace_layers(ours)
        for layout in layouts:
            x = torch.randn(batch, 3, size, size).contiguous(memory_format=FORMATS[layout])
            labels = torch.randint(1000, (batch,))
            for model in (theirs, ours):
                model.to(memory_format=FORMATS[layout])
            for what, prepare in (("inference", _inference), ("training", training_step)):
                calls = {"torch": prepare(theirs, x, labels), "convkern": prepare(ours, x, labels)}
                times.rows.append(ModelRow(name, layout, what, time_in_turn(calls, seconds)))
        report(name)
    return times


def models_table(rows: Sequence[ModelRow]) -> Table:
    """Returns milliseconds with their spread, and the ratio. Below are the geometric means of the
    ratios for inference and for training in each layout."""
    result = Table(("model", "layout", ""), ("torch, ms", "convkern, ms", "ratio"))
    for row in rows:
        times = (milliseconds(row.samples[peer]) for peer in ("torch", "convkern"))
        result.add_row(row.model, row.layout, row.what, *times, f"{row.ratio:.2f}x")
    for (layout, what), mean in mean_ratios(rows).items():
        result.add_row("geometric mean", layout, what, "", "", f"{mean:.2f}x")
    return result


def mean_ratios(rows: Sequence[ModelRow]) -> dict[tuple[str, str], float]:
    """Returns the geometric mean of the ratios over the models, by layout and kind of step."""
    ratios: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        ratios.setdefault((row.layout, row.what), []).append(row.ratio)
    return {key: geometric_mean(values) for key, values in ratios.items()}


def _inference(model: nn.Module, x: Tensor, labels: Tensor) -> Call:
    def call() -> None:
        model.eval()
        with torch.no_grad():
            model(x)

    return call


def training_step(model: nn.Module, x: Tensor, labels: Tensor) -> Call:
    """Returns a step of training: forward, cross-entropy, backward and SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def call() -> None:
        model.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return call


def milliseconds(sample: Sample) -> str:
    """Returns the median with its spread."""
    return f"{sample.median * 1e3:.1f} ±{sample.spread:.0%}"
