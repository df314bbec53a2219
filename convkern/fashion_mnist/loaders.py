"""Fashion-MNIST as data loaders, for one or several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sized
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
)

from convkern.fashion_mnist.files import FashionMNISTData
from convkern.fashion_mnist.parallel import ALONE, Processes
from convkern.fashion_mnist.sources import read_fashion_mnist

Loader = DataLoader[tuple[Tensor, ...]]


def load_fashion_mnist(
    batch_size: int = 512,
    num_workers: int = 0,
    *,
    data_dir: str | Path | None = None,
    seed: int | None = None,
) -> tuple[Loader, Loader]:
    """Returns `(train_iter, test_iter)`: `make_loaders` over `read_fashion_mnist(data_dir)`."""
    return make_loaders(read_fashion_mnist(data_dir), batch_size, num_workers, seed=seed)


def make_loaders(
    data: FashionMNISTData,
    batch_size: int = 512,
    num_workers: int = 0,
    *,
    seed: int | None = None,
    processes: Processes = ALONE,
) -> tuple[Loader, Loader]:
    """Returns `(train_iter, test_iter)`; each batch is a pair (images, labels).

    Images are float32 (N, 1, 28, 28) in [0, 1] and labels int64 (N,), with N = `batch_size` except
    for a smaller last batch. The training split is shuffled anew each epoch. If `seed` is given,
    the order depends on it alone. The test split keeps its order.

    A batch is taken from memory at once, by its indices. `num_workers` processes do so, at most one
    for each CPU. With 0 the calling process does it, which was fastest on two cores: loading an
    epoch takes some 0.02 s, less than workers need to start and to send the batches.

    Several `processes` with the same seed get disjoint shares of the batches that one process would
    get. Shares of the training split are equal; a batch that cannot be divided equally is filled
    with its first samples again. Each sample of the test split is used once.

    Raises:
        ValueError: there are several processes, but no seed, or a batch is too small for all of
            them to get a share.
    """
    if processes.count > 1 and (seed is None or batch_size < processes.count):
        raise ValueError(
            f"{processes.count} processes need a seed and a batch size of at least as many, "
            f"got seed={seed}, batch_size={batch_size}"
        )
    workers = min(num_workers, _usable_cpus())
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    order = RandomSampler(data.train, generator=generator)

    def loader(split: TensorDataset, order: Sampler[int], *, padded: bool) -> Loader:
        batches = BatchSampler(order, batch_size, drop_last=False)
        shares = _Shares(batches, processes, padded=padded) if processes.count > 1 else batches
        # With batch_size=None, the sampler's items, lists of indices, are passed to the data set.
        batched = _Batched(*split.tensors)
        return DataLoader(
            batched, batch_size=None, sampler=shares, num_workers=workers, generator=generator
        )

    test_order = SequentialSampler(data.test)
    return loader(data.train, order, padded=True), loader(data.test, test_order, padded=False)


class _Batched(TensorDataset):
    """A TensorDataset that takes a third of the time for a list of indices."""

    def __getitem__(self, index: int | slice | list[int]) -> tuple[Tensor, ...]:
        if not isinstance(index, list):
            return tuple(tensor[index] for tensor in self.tensors)
        rows = torch.tensor(index)
        return tuple(tensor.index_select(0, rows) for tensor in self.tensors)


class _Shares(Sampler[list[int]]):
    """One process's share of each batch: every `count`-th sample of it.

    If the batch is `padded`, its first samples are used again so that all processes get equally
    many. Otherwise an empty share is left out.
    """

    def __init__(self, batches: BatchSampler, processes: Processes, *, padded: bool) -> None:
        self._batches, self._processes, self._padded = batches, processes, padded

    def __iter__(self) -> Iterator[list[int]]:
        rank, count = self._processes.rank, self._processes.count
        for batch in self._batches:
            size = len(batch) + (-len(batch) % count if self._padded else 0)
            if share := [batch[index % len(batch)] for index in range(rank, size, count)]:
                yield share

    def __len__(self) -> int:
        samples = self._batches.sampler
        assert isinstance(samples, Sized)
        last = len(samples) % self._batches.batch_size
        left_out = not self._padded and 0 < last <= self._processes.rank
        return len(self._batches) - left_out


def _usable_cpus() -> int:
    # torch compares num_workers with this count before it warns.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
