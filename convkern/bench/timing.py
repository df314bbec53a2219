"""Times several calls against each other fairly."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter

Call = Callable[[], object]
# A stopwatch is prepared for a call. The function that it returns measures the seconds of the call
# anew each time.
Stopwatch = Callable[[Call], Callable[[], float]]

_LEAST_SECONDS = 1e-3  # length of one measurement; shorter calls are repeated within it
_LEAST_ROUNDS, _MOST_ROUNDS = 5, 1000


@dataclass(frozen=True)
class Sample:
    """The seconds of one call: median and quartiles over `rounds` measurements."""

    median: float
    low: float
    high: float
    rounds: int

    def __post_init__(self) -> None:
        for seconds in (self.median, self.low, self.high):
            if not 0 < seconds < math.inf:
                raise ValueError(f"times must be finite and above 0, got {seconds}")
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a fraction of the median."""
        return (self.high - self.low) / 2 / self.median


def wall_clock(call: Call) -> Callable[[], float]:
    """The stopwatch for the CPU. A measurement begins with a call that is not timed, so that no
    call pays for caches and threads that the one before it left cold."""
    repeats = max(1, round(_LEAST_SECONDS / max(_seconds(call, 1), 1e-9)))
    return lambda: _seconds(call, repeats)


def time_in_turn(
    calls: Mapping[str, Call], seconds: float = 1.0, stopwatch: Stopwatch = wall_clock
) -> dict[str, Sample]:
    """Times each call once in each round, in rotating order, for about `seconds` in all.

    Interleaving makes slow changes of the machine's speed hit all calls alike. Garbage is collected
    before the calls are timed, not during them.
    """
    measurements = {name: stopwatch(call) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    with _garbage_kept():
        end = perf_counter() + seconds
        for rounds in range(_MOST_ROUNDS):
            if rounds >= _LEAST_ROUNDS and perf_counter() > end:
                break
            for name in order:
                times[name].append(measurements[name]())
            order.append(order.pop(0))
    return {name: _summary(values) for name, values in times.items()}


def _seconds(call: Call, repeats: int) -> float:
    call()
    start = perf_counter()
    for _ in range(repeats):
        call()
    return (perf_counter() - start) / repeats


def _summary(values: list[float]) -> Sample:
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Sample(median(values), low, high, len(values))


@contextmanager
def _garbage_kept() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
