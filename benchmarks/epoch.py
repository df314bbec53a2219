"""The time of an epoch of the three-layer Fashion-MNIST model, recipe by recipe.

    python benchmarks/epoch.py

A recipe is a loader and the layer's class. Each trains a network of its own; they take turns, an
epoch each, after a first epoch that is not timed. Times include the loading.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import cast

import torch
from torch.utils.data import DataLoader

from convkern._show.tables import Table
from convkern.bench.timing import Call, time_in_turn
from convkern.fashion_mnist import (
    FashionMNISTData,
    build_convnet,
    make_loaders,
    read_fashion_mnist,
    train_model,
)
from convkern.fashion_mnist.loaders import Loader

BATCH = 512
NOTEBOOK_WORKERS = 4


class Recipe:
    """A network in training. A call trains it for an epoch and returns the seconds."""

    def __init__(self, data: FashionMNISTData, loader: str, conv: str) -> None:
        self.model, self.optimizer, self.cost = build_convnet("padding3", conv, seed=0)
        self.loader = LOADERS[loader](data)
        self.loss = 0.0

    def __call__(self) -> float:
        result = train_model(
            self.model, self.optimizer, self.cost, self.loader, epochs=1, progress=False, warn=None
        )
        (self.loss,) = result.epoch_losses
        return result.epoch_seconds[0]


def notebook_loader(data: FashionMNISTData) -> Loader:
    """Fetches samples one by one and stacks them in worker processes. The study's notebook also
    decoded an image file for each; here the samples are already tensors."""
    generator = torch.Generator().manual_seed(0)
    return DataLoader(
        data.train, BATCH, shuffle=True, num_workers=NOTEBOOK_WORKERS, generator=generator
    )


def loader_in_memory(data: FashionMNISTData) -> Loader:
    return make_loaders(data, BATCH, seed=0)[0]


LOADERS: dict[str, Callable[[FashionMNISTData], Loader]] = {
    f"DataLoader, {NOTEBOOK_WORKERS} workers": notebook_loader,
    "in memory": loader_in_memory,
}


def epoch_clock(call: Call) -> Callable[[], float]:
    """The stopwatch (see time_in_turn) for calls that time themselves. The first call warms up."""
    recipe = cast(Callable[[], float], call)
    recipe()
    return recipe


def epoch_table(data: FashionMNISTData) -> Table:
    """Returns the median seconds of an epoch of each recipe, its last loss, and its speed relative
    to the first recipe's."""
    recipes = {
        (loader, conv): Recipe(data, loader, conv)
        for loader, conv in product(LOADERS, ("torch", "convkern"))
    }
    calls: dict[str, Call] = {" ".join(key): recipe for key, recipe in recipes.items()}
    seconds = [sample.median for sample in time_in_turn(calls, 0, epoch_clock).values()]
    table = Table(("loader", "layer"), ("epoch, s", "loss of the last epoch", "speed"))
    for (key, recipe), median in zip(recipes.items(), seconds, strict=True):
        figures = f"{median:.2f}", f"{recipe.loss:.4f}", f"{seconds[0] / median:.1f}x"
        table.add_row(*key, *figures)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="where the data is")
    print(epoch_table(read_fashion_mnist(parser.parse_args().data)))


if __name__ == "__main__":
    main()
