"""The results of the study, which are kept in `study.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, median, stdev

from convkern._files import write_file
from convkern._json import read_json

CLASSES = (
    "T-shirt", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Boot",
)  # fmt: skip
GUESSING = math.log(len(CLASSES))  # the cost of equal probabilities for all classes
_LEARNED_BELOW = 0.99 * GUESSING


@dataclass(frozen=True)
class Run:
    """One network, trained and tested.

    Attributes:
        model, seed: identify the network; model is a name in `MODELS` or `VARIANTS` of
            `convkern.fashion_mnist`.
        step_losses, epoch_losses, epoch_seconds: those of the training, as in `TrainResult`.
        test_loss, accuracy: mean cost, and fraction in [0, 1], over the test split.
        confusion: for each class, how many of its test images were taken for each class.
        active: for each convolution, the fraction of its outputs over the test split that its
            ReLU lets through.
    """

    model: str
    seed: int
    step_losses: list[float]
    epoch_losses: list[float]
    epoch_seconds: list[float]
    test_loss: float
    accuracy: float
    confusion: list[list[int]]
    active: list[float]

    @property
    def learned(self) -> bool:
        """True if its test loss is below that of guessing, ln 10, by more than a hundredth."""
        return self.test_loss < _LEARNED_BELOW

    @property
    def dead_layer(self) -> int | None:
        """The number of the first convolution, from 1, whose ReLU lets nothing through; None if
        each does."""
        dead = [number for number, part in enumerate(self.active, 1) if part == 0]
        return dead[0] if dead else None


@dataclass(frozen=True)
class Shape:
    """The size of a model, which does not depend on its weights.

    `field` is in rows of the image, and `multiply_adds` are those of one image's forward pass.
    """

    parameters: int
    field: int
    multiply_adds: int


@dataclass(frozen=True)
class Summary:
    """The mean of some values and their spread. The spread is the sample's standard deviation, and
    None for fewer than 2 values.

    `mean` is NaN if there is no value.
    """

    mean: float
    spread: float | None
    count: int

    @classmethod
    def of(cls, values: list[float]) -> Summary:
        center = mean(values) if values else math.nan
        return cls(center, stdev(values) if len(values) > 1 else None, len(values))

    def with_spread(self, digits: int) -> str:
        """Returns the mean, and the spread if there is one, with `digits` digits after the
        point."""
        spread = "" if self.spread is None else f" ± {self.spread:.{digits}f}"
        return f"{self.mean:.{digits}f}{spread}"


@dataclass(frozen=True)
class Study:
    """Runs of several models over the same seeds, and the times of their epochs.

    Attributes:
        settings: epochs and batch size.
        data: where the images came from, in words.
        machine: what `convkern.info` reports about it.
        shapes: the shape of each model.
        runs: for each model in turn, a run for each seed.
        times: for each model and layer ("convkern", "torch"), the seconds of each timed epoch.
    """

    settings: dict[str, int]
    data: str
    machine: dict[str, str]
    shapes: dict[str, Shape]
    runs: list[Run]
    times: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        times = [t for by_conv in self.times.values() for s in by_conv.values() for t in s]
        if not all(0 < t < math.inf for t in times):
            raise ValueError("the times of epochs must be finite and above 0")

    @property
    def models(self) -> list[str]:
        return list(self.shapes)

    def of(self, model: str, *, learned_only: bool = False) -> list[Run]:
        """Returns the runs of a model, by seed."""
        return [r for r in self.runs if r.model == model and (r.learned or not learned_only)]

    def dead(self) -> list[Run]:
        """Returns the runs that did not learn."""
        return [run for run in self.runs if not run.learned]

    def shown(self, model: str) -> Run:
        """Returns the run whose pictures are shown: the first seed that learned, or else the first
        seed."""
        return (self.of(model, learned_only=True) or self.of(model))[0]

    def epoch_seconds(self, model: str, conv: str) -> float | None:
        """Returns the median time of an epoch, or None if none was timed."""
        times = self.times.get(model, {}).get(conv)
        return median(times) if times else None

    def write(self, path: Path) -> None:
        write_file(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Study:
        """Reads a study. Raises ValueError if the file is not what `write` writes."""
        return read_json(cls, path, "a study of `convkern compare`")


def summaries(runs: list[Run]) -> Mapping[str, Summary]:
    """Returns the summaries of test loss and accuracy over the runs."""
    return {
        "test_loss": Summary.of([run.test_loss for run in runs]),
        "accuracy": Summary.of([run.accuracy for run in runs]),
    }
