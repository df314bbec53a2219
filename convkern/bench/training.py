"""The time of an epoch of the three-layer Fashion-MNIST model, recipe by recipe."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch
from rich.table import Table
from torch.utils.data import DataLoader

from convkern.fashion_mnist import FashionMNISTData, build_convnet, make_loaders, train_model
from convkern.fashion_mnist.data import Loader
from convkern.tables import plain_table

_BATCH = 512
_NOTEBOOK_WORKERS = 4


def time_training(
    data: FashionMNISTData, epochs: int = 5, report: Callable[[str], None] = lambda line: None
) -> Table:
    """Trains with both layers and both loaders and tabulates the median seconds of an epoch,
    loading included. The recipes take turns, an epoch each; every first epoch is a warm-up."""
    recipes = {
        (loader, conv): _Recipe(data, loader, conv)
        for loader in _LOADERS
        for conv in ("torch", "convkern")
    }
    for epoch in range(epochs + 1):
        for recipe in recipes.values():
            recipe.run_epoch()
        report(f"epoch {epoch} of {epochs}")
    result = plain_table(("loader", "layer"), ("epoch, s", "loss of the last epoch", "speed"))
    slowest = next(iter(recipes.values())).seconds
    for (loader, conv), recipe in recipes.items():
        result.add_row(
            loader, conv, f"{recipe.seconds:.2f}", f"{recipe.losses[-1]:.4f}",
            f"{slowest / recipe.seconds:.1f}x",
        )  # fmt: skip
    return result


class _Recipe:
    def __init__(self, data: FashionMNISTData, loader: str, conv: str) -> None:
        self.model, self.optimizer, self.cost = build_convnet("padding3", conv, seed=0)
        self.loader = _LOADERS[loader](data)
        self.times: list[float] = []
        self.losses: list[float] = []

    def run_epoch(self) -> None:
        result = train_model(
            self.model, self.optimizer, self.cost, self.loader, epochs=1, progress=False
        )
        self.times += result.epoch_seconds
        self.losses += result.epoch_losses

    @property
    def seconds(self) -> float:
        return median(self.times[1:] or self.times)


def _notebook(data: FashionMNISTData) -> Loader:
    """Samples fetched one by one and stacked in worker processes. The study's notebook decoded
    an image file besides; here the samples are tensors already."""
    generator = torch.Generator().manual_seed(0)
    return DataLoader(
        data.train, _BATCH, shuffle=True, num_workers=_NOTEBOOK_WORKERS, generator=generator
    )


def _in_memory(data: FashionMNISTData) -> Loader:
    return make_loaders(data, _BATCH, seed=0)[0]


_LOADERS = {f"DataLoader, {_NOTEBOOK_WORKERS} workers": _notebook, "in memory": _in_memory}
