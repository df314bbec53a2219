"""Shows the study's progress: bars on a terminal, and a line for each run anywhere."""

from __future__ import annotations

from collections.abc import Callable

from convkern._show.progress import Progress
from convkern.fashion_mnist import TrainResult
from convkern.fashion_mnist.study.results import Run
from convkern.fashion_mnist.study.run import Plan, Watcher


class TrainingBar(Watcher):
    """Shows the training's bar, and a line for each run that is done."""

    def __init__(self, progress: Progress, plan: Plan, images: int) -> None:
        self._progress, self._plan, self._images = progress, plan, images
        runs = len(plan.models) * len(plan.seeds)
        self._bar = progress.bar("training", runs * plan.epochs * images, "images")

    def run_begins(self, model: str, seed: int, result: TrainResult) -> None:
        self._name = f"{model}, seed {seed}"
        done = len(result.epoch_losses)
        self._bar.shorten(done * self._images)
        if 0 < done < self._plan.epochs:
            self._progress.print(f"{self._name}: goes on after epoch {done}")
        self._describe(done)

    def batch_done(self, images: int) -> None:
        self._bar.advance(images)

    def epoch_done(self, result: TrainResult) -> None:
        self._describe(len(result.epoch_losses))

    def run_done(self, run: Run) -> None:
        text = f"test loss {run.test_loss:.4f}, accuracy {run.accuracy:.4f}"
        never = "" if run.learned else ", never learned"
        seconds = f"{sum(run.epoch_seconds):.1f} s"
        self._progress.print(f"{self._name}: {text}{never}, {seconds}")

    def _describe(self, done: int) -> None:
        epoch = min(done + 1, self._plan.epochs)
        self._bar.describe(f"{self._name}, epoch {epoch}/{self._plan.epochs}")


def timing_bar(progress: Progress, epochs: int) -> Callable[[str], None]:
    """Returns a function that advances a bar of `epochs` epochs. It is called after each epoch."""
    bar = progress.bar("timing", epochs, "epochs")
    return lambda name: bar.advance(1, f"timed {name}")
