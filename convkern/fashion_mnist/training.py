"""Trains and tests a classifier, and keeps its losses for a plot."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from convkern._show.progress import Progress
from convkern.fashion_mnist.dead import DeadWatch
from convkern.fashion_mnist.loaders import Loader
from convkern.fashion_mnist.parallel import ALONE, Processes

Cost = Callable[[Tensor, Tensor], Tensor]


@dataclass
class TrainResult:
    """The losses and times of a training, as `train_model` saw them.

    Attributes:
        step_losses: the cost of each batch of the first epoch, before that batch's step.
        epoch_losses: for each epoch, including the first, the mean cost over its samples. Each
            sample's cost is taken at its step, while the parameters still change.
        epoch_seconds: for each epoch, the wall time of its loading and training, in seconds.
    """

    step_losses: list[float] = field(default_factory=list)
    epoch_losses: list[float] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)

    @property
    def losses(self) -> list[float]:
        """Returns the first epoch step by step, then one mean loss for each later epoch."""
        return self.step_losses + self.epoch_losses[1:]


def _warn(text: str) -> None:
    warnings.warn(f"convkern: {text}", RuntimeWarning, stacklevel=4)  # where train_model is called


def train_model(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    cost: Cost,
    train_loader: Iterable[Sequence[Tensor]],
    epochs: int = 5,
    *,
    progress: bool = True,
    start: TrainResult | None = None,
    after_epoch: Callable[[TrainResult], None] = lambda result: None,
    processes: Processes = ALONE,
    warn: Callable[[str], None] | None = _warn,
) -> TrainResult:
    """Trains `model` in place, in training mode, and returns its losses.

    `cost(model(images), labels)` must be the mean over the batch. With `progress`, each epoch
    prints a line to stdout, and on a terminal a bar shows its steps. Training continues from
    `start` up to `epochs` in all, and extends `start`. `after_epoch` is called with the result so
    far. Several `processes` each train on their share of the batches, and the losses are those of
    the whole batches.

    If the loss stays at that of guessing, ln(classes), `warn` is called once and told which ReLU is
    dead, if one is. By default it gives a RuntimeWarning. None says nothing.

    Raises:
        FloatingPointError: a batch's cost is infinite or NaN; its step was not taken.
        ValueError: `train_loader` has no batches.
    """
    result = TrainResult() if start is None else start
    network = model.module if isinstance(model, DistributedDataParallel) else model
    watch = DeadWatch(network, warn) if warn is not None and processes.is_main else None
    model.train()
    with Progress(quiet=not progress) as shown:
        for epoch in range(len(result.epoch_losses) + 1, epochs + 1):
            name = f"epoch {epoch}/{epochs}"
            batches = shown.track(train_loader, name, "steps")
            began = perf_counter()
            losses, sizes, images, classes = _train_epoch(model, optimizer, cost, batches, name)
            losses, mean = _whole_batches(losses, sizes, processes)
            seconds = perf_counter() - began
            result.step_losses = result.step_losses or losses
            result.epoch_losses.append(mean)
            result.epoch_seconds.append(seconds)
            shown.print(f"{name}: loss {mean:.4f}, {seconds:.1f} s")
            if watch is not None:
                watch.epoch_done(losses, images, classes)
            after_epoch(result)
    return result


def test_model(
    model: nn.Module,
    cost: Cost,
    test_loader: Loader,
    *,
    processes: Processes = ALONE,  # noqa: PT028 (this is no test)
) -> tuple[float, float]:
    """Returns the mean cost over the samples, and the accuracy as a fraction in [0, 1].

    `model(images)` gives logits of shape (N, classes), and `cost` is the mean over a batch. The
    model is tested in evaluation mode without gradients, and is left in the mode that it was in.
    Several `processes` each test a share, and all return the result for the whole split.

    Raises:
        FloatingPointError: a batch's cost is infinite or NaN.
        ValueError: `test_loader` has no batches.
    """
    losses, sizes, correct = [], [], 0
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for step, (images, labels) in enumerate(test_loader, 1):
                logits = model(images)
                losses.append(_finite(cost(logits, labels), f"test, step {step}"))
                sizes.append(len(labels))
                correct += int((logits.argmax(dim=1) == labels).sum())
    finally:
        model.train(was_training)
    # A process may have no batch, as long as one of them has.
    total = sum(loss * size for loss, size in zip(losses, sizes, strict=True))
    total, count, correct_of_all = processes.sum([total, sum(sizes), correct])
    if not count:
        raise ValueError("the loader has no batches")
    return total / count, correct_of_all / count


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    cost: Cost,
    batches: Iterable[Sequence[Tensor]],
    name: str,
) -> tuple[list[float], list[int], Tensor, int]:
    """Returns the cost and the size of each batch, the last images, and the number of classes."""
    losses, sizes, images, logits = [], [], torch.empty(0), torch.empty(0)
    for step, (images, labels) in enumerate(batches, 1):
        optimizer.zero_grad()
        logits = model(images)
        loss = cost(logits, labels)
        losses.append(_finite(loss, f"{name}, step {step}"))
        sizes.append(len(labels))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    is_matrix = isinstance(logits, Tensor) and logits.dim() == 2
    return losses, sizes, images, logits.shape[1] if is_matrix else 0


def _whole_batches(
    losses: list[float], sizes: list[int], processes: Processes
) -> tuple[list[float], float]:
    """Returns the costs of the batches that the processes share, and their mean over the
    samples."""
    if processes.count > 1:
        summed = processes.sum([loss * size for loss, size in zip(losses, sizes, strict=True)])
        sizes = [int(size) for size in processes.sum(sizes)]
        losses = [total / size for total, size in zip(summed, sizes, strict=True)]
    return losses, _sample_mean(losses, sizes)


def _finite(loss: Tensor, where: str) -> float:
    value: float = loss.item()
    if not math.isfinite(value):
        raise FloatingPointError(f"{where}: the loss is {value}")
    return value


def _sample_mean(losses: Sequence[float], sizes: Sequence[int]) -> float:
    # The mean is over samples, because the last batch may be smaller than the others.
    if not sizes:
        raise ValueError("the loader has no batches")
    return sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes)
