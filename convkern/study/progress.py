"""How the study shows its progress: bars on a terminal, a line for each run anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from convkern.fashion_mnist import TrainResult
from convkern.study.results import Run
from convkern.study.run import Plan, Watcher


class TrainingBar(Watcher):
    """The training's bar, and a line for each run that is done."""

    def __init__(self, bar: Progress, plan: Plan, images: int) -> None:
        runs = len(plan.models) * len(plan.seeds)
        self._bar, self._plan, self._images = bar, plan, images
        self._task = bar.add_task("training", total=runs * plan.epochs * images, unit="images")

    def run_begins(self, model: str, seed: int, result: TrainResult) -> None:
        self._name = f"{model}, seed {seed}"
        done = len(result.epoch_losses)
        # Less to do, rather than more that is done: the rate is of this attempt alone.
        total = (self._bar.tasks[self._task].total or 0) - done * self._images
        self._bar.update(self._task, total=total)
        if 0 < done < self._plan.epochs:
            self._bar.console.print(f"{self._name}: goes on after epoch {done}")
        self._describe(done)

    def batch_done(self, images: int) -> None:
        self._bar.advance(self._task, images)

    def epoch_done(self, result: TrainResult) -> None:
        self._describe(len(result.epoch_losses))

    def run_done(self, run: Run) -> None:
        text = f"test loss {run.test_loss:.4f}, accuracy {run.accuracy:.4f}"
        never = "" if run.learned else ", never learned"
        seconds = f"{sum(run.epoch_seconds):.1f} s"
        self._bar.console.print(f"{self._name}: {text}{never}, {seconds}")

    def _describe(self, done: int) -> None:
        epoch = min(done + 1, self._plan.epochs)
        text = f"{self._name}, epoch {epoch}/{self._plan.epochs}"
        self._bar.update(self._task, description=text)


@contextmanager
def progress(console: Console) -> Iterator[Progress]:
    """Bars with their rate and the time that remains; none where `console` is no terminal."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=console.quiet or not console.is_terminal,
    ) as bar:
        yield bar


def timing_bar(bar: Progress, epochs: int) -> Callable[[str], None]:
    """A bar of so many epochs; it is told of each that is done."""
    task = bar.add_task("timing", total=epochs, unit="epochs")

    def advance(name: str) -> None:
        bar.update(task, advance=1, description=f"timed {name}")

    return advance


class _Rate(ProgressColumn):
    """Units in a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        unit = task.fields["unit"]
        if speed is None:
            return Text(f"- {unit}/s")
        return Text(f"{speed:,.0f} {unit}/s" if speed >= 10 else f"{speed:.2g} {unit}/s")
