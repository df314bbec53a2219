"""Measures the machine's limits: the peak of float32 multiply-adds and the memory bandwidth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch

from convkern import _C


@dataclass(frozen=True)
class Peaks:
    """The limits of a machine at `threads` threads, in float32 FLOP/s and bytes/s."""

    threads: int
    peak: float
    bandwidth: float

    def __post_init__(self) -> None:
        for value in (self.threads, self.peak, self.bandwidth):
            if not 0 < value < math.inf:
                raise ValueError(f"peaks must be finite and above 0, got {value}")

    def least_seconds(self, flops: float, moved: float) -> tuple[float, str]:
        """Returns the least seconds that `flops` FLOPs over `moved` bytes take, and what bounds
        them: "multiply-adds" or "bandwidth"."""
        by_peak, by_bandwidth = flops / self.peak, moved / self.bandwidth
        return max(by_peak, by_bandwidth), (
            "multiply-adds" if by_peak > by_bandwidth else "bandwidth"
        )


def measure_peaks(threads: Iterable[int]) -> list[Peaks]:
    """Measures this machine with each number of threads, with the instruction sets in use. It takes
    about a third of a second for each. The machine's load should be that of the measurements that
    the peaks are compared with.

    Raises:
        MemoryError: there are no 384 MiB of memory.
    """
    return [_measure(count) for count in threads]


@cache
def peaks_of(threads: int, isa_cap: str) -> Peaks:
    """Returns the limits of this machine at `threads` threads, with the instruction sets up to the
    one in use, which ``isa_cap`` names. They are measured once in a process.

    Raises:
        MemoryError: there are no 384 MiB of memory.
    """
    return _measure(threads)


def _measure(count: int) -> Peaks:
    with torch_threads(count):
        try:
            return Peaks(count, *_C.measure_peak())
        except MemoryError:
            raise MemoryError("measuring the bandwidth needs 384 MiB of memory") from None


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Gives torch `count` threads within the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
