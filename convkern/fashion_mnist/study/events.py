"""Writes the runs as TensorBoard's event files. Needs tensorboard."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from convkern.fashion_mnist import TrainResult
from convkern.fashion_mnist.study.results import Run
from convkern.fashion_mnist.study.run import Watcher


class Events(Watcher):
    """Writes a directory for each run below `folder`: losses, seconds, and the test's result.

    Steps are epochs, from 1. A run that is resumed writes its earlier epochs again, which replaces
    those of the interrupted attempt.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def run_begins(self, model: str, seed: int, result: TrainResult) -> None:
        self._close()
        folder = self._folder / f"{model}-seed{seed}"
        self._writer = SummaryWriter(str(folder), purge_step=0)
        for epoch in range(1, len(result.epoch_losses) + 1):
            self._write_epoch(result, epoch)

    def epoch_done(self, result: TrainResult) -> None:
        self._write_epoch(result, len(result.epoch_losses))

    def run_done(self, run: Run) -> None:
        epochs = len(run.epoch_losses)
        self._add("loss/test", run.test_loss, epochs)
        self._add("accuracy/test", run.accuracy, epochs)
        self._close()

    def _write_epoch(self, result: TrainResult, epoch: int) -> None:
        self._add("loss/train", result.epoch_losses[epoch - 1], epoch)
        self._add("seconds/epoch", result.epoch_seconds[epoch - 1], epoch)

    def _add(self, tag: str, value: float, epoch: int) -> None:
        if self._writer is not None:
            self._writer.add_scalar(tag, value, epoch)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
