"""Small studies for tests."""

from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import TensorDataset

from convkern import cli
from convkern.fashion_mnist import FashionMNISTData
from convkern.fashion_mnist.study import Run, Shape, Study
from convkern.fashion_mnist.study.results import GUESSING
from fashion_mnist_files import bright_rows

SHAPES = {
    "plain": Shape(668, 23, 48_060),
    "padding2": Shape(1308, 23, 67_644),
    "padding3": Shape(1390, 31, 99_456),
    "stride": Shape(938, 25, 89_380),
}
CONFUSION = [[6 if i == j else 1 if j == (i + 1) % 10 else 0 for j in range(10)] for i in range(10)]


def compare(models: str, data_dir: Path, out: Path, *options: str) -> int:
    """Runs the command that trains two seeds of each model, and returns its exit status."""
    fixed = ["compare", "--data", str(data_dir), "--out", str(out), "--timing-epochs", "0"]
    return cli.main([*fixed, "--models", models, "--seeds", "2", *options])


def run(model: str, seed: int, accuracy: float, test_loss: float | None = None) -> Run:
    """Returns a run with the given accuracy. It never learned if that is a tenth."""
    dead = accuracy == 0.1
    loss = test_loss if test_loss is not None else GUESSING if dead else 1.4 - accuracy
    return Run(
        model, seed, [2.3, 2.0, 1.5], [1.9, 1.2], [0.5, 0.5], loss, accuracy, CONFUSION,
        [0.4, 0.0] if dead else [0.4, 0.3],
    )  # fmt: skip


def study(accuracies: dict[str, list[float]]) -> Study:
    """Returns a study with the accuracy of each seed of each model. 0.1 means that it never
    learned."""
    return Study(
        {"epochs": 2, "batch_size": 512},
        "made up",
        {"convkern": "0"},
        {model: SHAPES[model] for model in accuracies},
        [
            run(model, seed, value)
            for model, values in accuracies.items()
            for seed, value in enumerate(values)
        ],
    )


def timed(of: Study, seconds: dict[str, tuple[list[float], list[float]]]) -> Study:
    times = {m: {"convkern": ours, "torch": theirs} for m, (ours, theirs) in seconds.items()}
    return replace(of, times=times)


def small_data() -> FashionMNISTData:
    """Returns 60 training pictures and 30 test pictures."""
    splits = []
    for count in (60, 30):
        images, labels = bright_rows(count)
        splits.append(TensorDataset(images[:, None].to(torch.float32) / 255, labels.long()))
    return FashionMNISTData("made up", *splits)
