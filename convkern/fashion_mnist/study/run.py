"""Runs the study: trains each model with each seed, tests it and keeps its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from convkern._files import locked
from convkern.fashion_mnist import (
    Checkpoint,
    FashionMNISTData,
    Processes,
    Training,
    TrainResult,
    build_convnet,
    make_loaders,
    test_model,
    train_model,
)
from convkern.fashion_mnist.loaders import Loader
from convkern.fashion_mnist.study.geometry import layers_of, multiply_adds, parameters
from convkern.fashion_mnist.study.results import CLASSES, Run, Shape, Study
from convkern.info import info

BATCH = 512
Models = dict[tuple[str, int], nn.Module]


class Watcher:
    """A listener to the study's progress. Each method does nothing until it is overridden."""

    def run_begins(self, model: str, seed: int, result: TrainResult) -> None:
        """A run begins, or continues after the epochs of `result`."""

    def batch_done(self, images: int) -> None:
        """A step of `images` images was taken."""

    def epoch_done(self, result: TrainResult) -> None:
        """An epoch was trained and saved. `result` has all epochs so far."""

    def run_done(self, run: Run) -> None:
        """A run was trained and tested."""


@dataclass(frozen=True)
class Plan:
    """The trainings of a study, and the folder of their checkpoints.

    Raises:
        ValueError: a model or a seed is given twice, or there is none.
    """

    models: Sequence[str]
    seeds: Sequence[int]
    epochs: int
    folder: Path

    def __post_init__(self) -> None:
        for what, given in (("model", self.models), ("seed", self.seeds)):
            if not given:
                raise ValueError(f"give at least one {what}")
            if len(set(given)) < len(given):
                raise ValueError(f"each {what} once, not {','.join(map(str, given))}")

    def checkpoint(self, model: str, seed: int) -> Checkpoint:
        """Returns the checkpoint of a run. It has `convkern train`'s format, and either command can
        continue from it."""
        settings = {"model": model, "conv": "convkern", "batch_size": BATCH, "seed": seed}
        return Checkpoint(self.folder / f"{model}-seed{seed}", settings)

    def existing(self) -> list[Path]:
        """Returns the checkpoints that already exist."""
        paths = [self.checkpoint(model, seed).path for model, seed in self]
        return [path for path in paths if path.exists()]

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return ((model, seed) for model in self.models for seed in self.seeds)


def run_study(
    data: FashionMNISTData, plan: Plan, watchers: Sequence[Watcher] = ()
) -> tuple[Study, Models]:
    """Trains and tests the planned networks. Each continues from its checkpoint if there is one.

    After each epoch the state is saved. Another call continues from it with the same bits as an
    uninterrupted call. Returns the study, without times, and the trained networks.

    Raises:
        FloatingPointError: a training diverged.
        ValueError: a checkpoint is damaged, has more epochs than planned, or is another process's.
        OSError: a checkpoint cannot be read or written.
    """
    runs, models = [], {}
    for model, seed in plan:
        folder = plan.checkpoint(model, seed).path.parent
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            run, net = _run(data, plan, model, seed, watchers)
        runs.append(run)
        models[model, seed] = net
    shapes = {model: _shape(models[model, plan.seeds[0]]) for model in plan.models}
    settings = {"epochs": plan.epochs, "batch_size": BATCH}
    return Study(settings, data.source, info(), shapes, runs), models


def time_epochs(
    data: FashionMNISTData,
    models: Sequence[str],
    rounds: int,
    report: Callable[[str], None] = lambda text: None,
) -> dict[str, dict[str, list[float]]]:
    """Returns the seconds of `rounds` epochs of each model with either layer, including loading.

    They take turns, an epoch each, so that slow changes of the machine's speed hit all alike. The
    first layer changes from round to round. `report` is told what was timed.
    """
    times: dict[str, dict[str, list[float]]] = {m: {"convkern": [], "torch": []} for m in models}
    for number in range(rounds):
        for model in models:
            for conv in ("convkern", "torch")[:: 1 if number % 2 else -1]:
                net, optimizer, cost = build_convnet(model, conv, seed=0)
                loader, _ = make_loaders(data, BATCH, seed=0)
                result = train_model(
                    net, optimizer, cost, loader, epochs=1, progress=False, warn=None
                )
                times[model][conv] += result.epoch_seconds
                report(f"{model} with {conv}")
    return times


def evaluate(net: nn.Module, loader: Loader) -> tuple[list[list[int]], list[float]]:
    """Returns the confusion and, for each convolution, the fraction of its outputs above 0: see
    `Run`."""
    confusion = torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.int64)
    positive: dict[int, int] = {}
    total: dict[int, int] = {}
    for images, labels in loader:
        outputs = activations(net, images)
        for number, output in enumerate(outputs[:-1]):
            positive[number] = positive.get(number, 0) + int((output > 0).sum())
            total[number] = total.get(number, 0) + output.numel()
        pairs = torch.stack((labels, outputs[-1].argmax(dim=1)))
        confusion.index_put_(tuple(pairs), torch.ones_like(labels), accumulate=True)
    return confusion.tolist(), [positive[number] / total[number] for number in total]


def activations(net: nn.Module, images: Tensor) -> list[Tensor]:
    """Returns the outputs of each layer of convolution, each (N, 1, rows, columns), and the logits.

    A layer may compute its ReLU or not. The same outputs are above 0 before and after it.
    """
    assert isinstance(net, nn.Sequential)
    outputs, y = [], images
    with torch.no_grad():
        for layer in net:
            y = layer(y)
            if isinstance(layer, nn.Conv2d):
                outputs.append(y)
    return [*outputs, y]


def _run(
    data: FashionMNISTData, plan: Plan, model: str, seed: int, watchers: Sequence[Watcher]
) -> tuple[Run, nn.Module]:
    net, optimizer, cost = build_convnet(model, seed=seed)
    train_loader, test_loader = make_loaders(data, BATCH, seed=seed)
    training = Training(net, optimizer, train_loader, Processes())
    checkpoint = plan.checkpoint(model, seed)
    start = checkpoint.read(training) if checkpoint.path.exists() else TrainResult()
    if (done := len(start.epoch_losses)) > plan.epochs:
        raise ValueError(f"{checkpoint.path} has {done} epochs, more than {plan.epochs}")
    for watcher in watchers:
        watcher.run_begins(model, seed, start)

    def after_epoch(result: TrainResult) -> None:
        checkpoint.write(training, result)
        for watcher in watchers:
            watcher.epoch_done(result)

    batches = _Watched(train_loader, watchers)
    result = train_model(
        net, optimizer, cost, batches, plan.epochs,
        progress=False, start=start, after_epoch=after_epoch, warn=None,  # the study has words
    )  # fmt: skip
    loss, accuracy = test_model(net, cost, test_loader)
    run = Run(
        model, seed, result.step_losses, result.epoch_losses, result.epoch_seconds, loss, accuracy,
        *evaluate(net, test_loader),
    )  # fmt: skip
    for watcher in watchers:
        watcher.run_done(run)
    return run, net


def _shape(net: nn.Module) -> Shape:
    return Shape(parameters(net), layers_of(net)[-1].field, multiply_adds(net))


class _Watched:
    """A loader that reports each batch after its step."""

    def __init__(self, loader: Loader, watchers: Sequence[Watcher]) -> None:
        self._loader, self._watchers = loader, watchers

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for batch in self._loader:
            yield batch
            for watcher in self._watchers:
                watcher.batch_done(len(batch[-1]))
