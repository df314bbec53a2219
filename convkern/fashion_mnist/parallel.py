"""Training in several processes that torchrun starts, or in one."""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes that train together. This one is number `rank` of `count`."""

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """True in the process that prints and writes for all."""
        return self.rank == 0

    def say(self, text: str) -> None:
        """Prints a line in the main process only."""
        if self.is_main:
            print(text)

    def parallel(self, model: nn.Module) -> nn.Module:
        """Returns `model`, whose gradients become the mean over the processes in each backward
        pass."""
        return model if self.count == 1 else DistributedDataParallel(model)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Returns the sums over the processes, each in float64."""
        if self.count == 1:
            return list(values)
        shared = [torch.tensor(values, dtype=torch.float64)]
        dist.all_reduce(shared[0])
        sums: list[float] = shared[0].tolist()
        _drop(shared)
        return sums

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Returns the processes' tensors by rank. They must have one shape and dtype."""
        if self.count == 1:
            return [tensor]
        shared = [tensor.clone(), *(torch.empty_like(tensor) for _ in range(self.count))]
        dist.all_gather(shared[1:], shared[0])
        tensors = [gathered.clone() for gathered in shared[1:]]
        _drop(shared)
        return tensors

    def main_first(self, function: Callable[[], T]) -> T:
        """Calls `function` in the main process, and then in the others, which find what it made.

        If it raises in the main process, the others end silently, because one message is enough.
        """
        result, failure = [], None
        if self.is_main:
            try:
                result.append(function())
            except BaseException as error:
                failure = error
        failures = self.sum([float(failure is not None)])[0]
        if failure is not None:
            raise failure
        if failures:
            sys.exit(2)
        return result[0] if self.is_main else function()


def _drop(shared: list[Tensor]) -> None:
    """Empties the list of a collective's tensors, and waits until no thread has them, at most 10 s.
    The caller must have no other reference.

    A thread of gloo may release its reference after the collective has returned. If it is the last
    of C++, the thread needs Python's interpreter, even while Python keeps the tensor. When the
    interpreter shuts down, it ends the thread, and with it the process: "terminate called without
    an active exception".
    """
    references = [weakref.ref(tensor) for tensor in shared]
    shared.clear()
    deadline = time.monotonic() + 10
    while any(reference() is not None for reference in references):
        if time.monotonic() > deadline:
            return
        time.sleep(0.0001)


ALONE = Processes()


@contextmanager
def torchrun_processes() -> Iterator[Processes]:
    """Returns the processes that torchrun started, connected by gloo. Without torchrun this process
    is alone."""
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield ALONE
        return
    dist.init_process_group("gloo")
    yield Processes(dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()  # not after an exception: others may be waiting or dead
