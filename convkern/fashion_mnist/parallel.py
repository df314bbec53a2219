"""Training in several processes that torchrun starts, or in one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    # The tensors that gloo got. Its threads may drop their reference after the collective returned.
    # If that were the last one, the thread would need the interpreter, and Python aborts the
    # process ("terminate called without an active exception") if it is about to exit.
    _given_to_gloo: list[Tensor] = field(default_factory=list, repr=False, compare=False)

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
        totals = torch.tensor(values, dtype=torch.float64)
        self._given_to_gloo.append(totals)
        dist.all_reduce(totals)
        sums: list[float] = totals.tolist()
        return sums

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Returns the processes' tensors by rank. They must have one shape and dtype."""
        if self.count == 1:
            return [tensor]
        tensors = [torch.empty_like(tensor) for _ in range(self.count)]
        self._given_to_gloo.extend([tensor, *tensors])
        dist.all_gather(tensors, tensor)
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
