"""Measures the machine's limits: the peak of float32 multiply-adds and the memory bandwidth."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

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
    """Measures this machine with each number of threads, in about a third of a second each, with
    the instruction sets in use. Do it under the load of the measurements that are to be set against
    it.

    Raises:
        MemoryError: there are no 384 MiB of memory.
    """
    return [_measure(count, _C.isa_cap()) for count in threads]


def known_peaks(threads: int, isa: str) -> Peaks | str:
    """Returns what this machine does with so many threads and an instruction set, or why that is
    not known. It is measured when it is first asked for, once in a process."""
    with _lock:
        if (threads, isa) not in _known:
            if _forked:  # the child has no copies of the threads that torch counts on
                return "the peaks are not measured in a forked process"
            try:
                _known[threads, isa] = _measure(threads, isa)
            except MemoryError as error:
                _known[threads, isa] = str(error)
        return _known[threads, isa]


_known: dict[tuple[int, str], Peaks | str] = {}
_lock = Lock()
_forked = False


def _in_forked_child() -> None:
    global _forked, _lock
    _forked, _lock = True, Lock()  # another thread of the parent may have held the lock


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)


def _measure(count: int, isa: str) -> Peaks:
    with torch_threads(count):
        try:
            return Peaks(count, *_C.measure_peak(isa))
        except MemoryError:
            raise MemoryError("measuring the bandwidth needs 384 MiB of memory") from None


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Gives torch `count` threads within the context."""
    before = torch.get_num_threads()
    if count == before:  # setting it would make it that of threads to come
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
