"""Times training steps of models: torch's, eager and compiled, and convkern's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convkern import _C
from convkern._show.tables import Table
from convkern.bench.models import check_models, milliseconds, training_step
from convkern.bench.results import Result, check_one_of, check_samples, mean_cells
from convkern.bench.timing import Call, Sample, time_in_turn
from convkern.choices import Precision
from convkern.surgery import replace_layers
from convkern.training import fuse_training

TRAINING_PEERS: Final = ("torch", "inductor")
# What is timed of convkern, in the order of the table: fuse_training(), with recompute=True, under
# float32 precision "medium", and replace_layers().
OURS: Final = ("convkern", "recompute", "medium", "layers")
_CLASSES = 1000


@dataclass(frozen=True)
class TrainingRow:
    """A training step of one model.

    Attributes:
        samples: the times by name, of ``OURS`` and ``TRAINING_PEERS``.
        saved: megabytes of activations that are saved for the backward pass, in the same way.
    """

    model: str
    batch: int
    samples: dict[str, Sample]
    saved: dict[str, float]

    def __post_init__(self) -> None:
        check_samples(self.samples, "convkern")
        for name in (*self.samples, *self.saved):
            check_one_of("name", name, dict.fromkeys((*OURS, *TRAINING_PEERS)))

    def ratio(self, ours: str = "convkern") -> float | None:
        """Returns the time of the faster peer as a multiple of ours, or None without one."""
        times = [s.median for name, s in self.samples.items() if name in TRAINING_PEERS]
        own = self.samples.get(ours)
        return min(times) / own.median if times and own is not None else None


@dataclass(frozen=True)
class TrainingTimes(Result):
    """A run over several models."""

    source = "bench training"

    rows: list[TrainingRow]


def time_training(
    names: Sequence[str],
    peers: Sequence[str] = ("torch",),
    seconds: float = 1.0,
    batch: int = 8,
    size: int = 224,
    *,
    medium: bool = False,
    report: Callable[[str], None] = lambda name: None,
) -> TrainingTimes:
    """Times a training step (forward, cross-entropy, backward, SGD) of models in channels_last, on
    `batch` images of size x size.

    Args:
        names: of torchvision's models for classification.
        peers: of ``TRAINING_PEERS``.
        medium: whether the fused model is also timed under float32 precision "medium".

    Raises:
        ValueError: there is no model or peer of a name, or torchvision is not installed.
    """
    check_training(names, peers)
    from torchvision.models import get_model

    before = _C.float32_precision()
    times = TrainingTimes.begin()
    for name in names:
        steps = _Steps(get_model(name, weights=None), batch, size)
        calls = {peer: steps.call(peer) for peer in peers}
        for ours in OURS:
            if ours != "medium" or medium:
                calls[ours] = steps.call(ours)
        try:
            samples = time_in_turn(calls, seconds)
        finally:
            _C.set_float32_precision(before)
        saved = {ours: steps.saved(ours) for ours in calls if ours in ("torch", *OURS[:2])}
        times.rows.append(TrainingRow(name, batch, samples, saved))
        report(name)
    return times


def check_training(names: Sequence[str], peers: Sequence[str]) -> None:
    """Raises ValueError unless all models and peers are known and installed."""
    for peer in peers:
        if peer not in TRAINING_PEERS:
            raise ValueError(f"peers must be among {', '.join(TRAINING_PEERS)}, got {peer!r}")
    check_models(names)


def training_table(rows: Sequence[TrainingRow]) -> Table:
    """Returns milliseconds with their spread, the time of the faster peer as a multiple of
    convkern's, and the activations that are saved. The last row has geometric means."""
    names = list(dict.fromkeys(name for row in rows for name in row.samples))
    ours = [name for name in OURS if name in names]
    saved = list(dict.fromkeys(name for row in rows for name in row.saved))
    heads = [f"{name}, ms" for name in names] + [f"best peer / {name}" for name in ours]
    result = Table(("model",), [*heads, *(f"{name}, MB saved" for name in saved)])
    for row in rows:
        cells = [milliseconds(row.samples[name]) if name in row.samples else "" for name in names]
        ratios = [row.ratio(name) for name in ours]
        cells += ["" if ratio is None else f"{ratio:.2f}x" for ratio in ratios]
        cells += [f"{row.saved[name]:.0f}" if name in row.saved else "" for name in saved]
        result.add_row(row.model, *cells)
    means = mean_cells(rows, ours)
    result.add_row("geometric mean", *[""] * len(names), *means, *[""] * len(saved))
    return result


class _Steps:
    """Training steps of copies of one model."""

    def __init__(self, model: nn.Module, batch: int, size: int) -> None:
        self.model = model.to(memory_format=torch.channels_last).train()
        x = torch.randn(batch, 3, size, size)
        self.x = x.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(_CLASSES, (batch,))
        self.copies: dict[str, Any] = {}

    def call(self, name: str) -> Call:
        """Returns a step of a copy of the model, prepared as the name says."""
        copied = copy.deepcopy(self.model)
        run: Any = copied
        if name == "inductor":
            torch._dynamo.reset()
            run = torch.compile(copied)
        elif name == "layers":
            replace_layers(copied)
        elif name != "torch":
            fuse_training(copied, self.x, recompute=name == "recompute")
        self.copies[name] = run
        precision: Precision = "medium" if name == "medium" else "high"
        step = training_step(run, self.x, self.labels)

        def call() -> None:
            _C.set_float32_precision(precision)
            step()

        return call

    def saved(self, name: str) -> float:
        """Returns the megabytes of activations that a forward pass saves for the backward pass."""
        run = self.copies[name]
        own = {t.untyped_storage().data_ptr() for t in (*run.parameters(), *run.buffers())}
        kept: dict[int, int] = {}

        def pack(t: Tensor) -> Tensor:
            storage = t.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = F.cross_entropy(run(self.x), self.labels)  # held, so that no address returns
        del loss
        return sum(kept.values()) * 1e-6
