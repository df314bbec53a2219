"""convkern.profile: the time of each executed op, and its share of what this machine can do."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from convkern import _C
from convkern._C import Problem
from convkern._show import html
from convkern._show.tables import Table
from convkern.peaks import Peaks, known_peaks

_ON_CUDA = {row["name"] for row in _C.kernels() if row["device"] == "cuda"}

_OPS = ("conv2d", "conv2d_grad_input", "conv2d_grad_weight")


@dataclass(frozen=True)
class Execution:
    """One op that was executed.

    Attributes:
        problem: its problem string.
        kernel: the name of the kernel that ran.
        seconds: of the op, allocation of the result included.
        threads: of torch, in the call.
        share: the least time that this machine could need, by the roofline model, as a fraction of
            `seconds`; None where that is not known: for other dtypes than float32, on a GPU, or
            where the peaks were not measured.
    """

    problem: str
    kernel: str
    seconds: float
    threads: int
    share: float | None = None

    @property
    def rate(self) -> float:
        """FLOP/s of the direct sum, without products with padding zeros."""
        return Problem(self.problem).real_flops / self.seconds


@dataclass
class Profile:
    """The ops that :func:`profile` saw. ``str()`` and Jupyter give a table with a row for each.

    Attributes:
        executions: in the order of the calls.
        note: why there are no shares of the roof, "" if there are.
    """

    executions: list[Execution] = field(default_factory=list)
    note: str = ""

    def __str__(self) -> str:
        return "\n".join([str(self._table()), *[self.note] * bool(self.note)])

    def _repr_html_(self) -> str:
        note = html.paragraph(self.note) if self.note else ""
        return self._table()._repr_html_() + note

    def _table(self) -> Table:
        result = Table(("problem", "kernel"), ("ms", "GFLOP/s", "of the roof"))
        for e in self.executions:
            share = "" if e.share is None else f"{e.share:.0%}"
            row = f"{e.seconds * 1e3:.3f}", f"{e.rate * 1e-9:.1f}", share
            result.add_row(e.problem, e.kernel, *row)
        total = sum(e.seconds for e in self.executions) * 1e3
        result.add_row(f"{len(self.executions)} ops", "", f"{total:.3f}", "", "")
        return result


@contextmanager
def profile(roof: bool = True) -> Iterator[Profile]:
    """Times every convkern op that is executed within the context, forward and backward. What
    compiled code executes is not seen. The first calls of a layer are slower: they map memory.

    ::

        with convkern.profile() as profile:
            model(images).sum().backward()
        print(profile)

    Args:
        roof: measure what this machine can do at most when the context ends, for the percentages.
            It takes about a third of a second, once in a process for a number of threads and an
            instruction set, and 384 MiB of memory.
    """
    result = Profile()
    with _Watch(result.executions):
        yield result
    if roof:
        for place, execution in enumerate(result.executions):
            if not _has_roof(execution):
                continue
            peaks = known_peaks(execution.threads, _C.isa_cap())
            if isinstance(peaks, str):
                result.note = f"no percentages: {peaks}"
                break
            result.executions[place] = _with_share(execution, peaks)


def measure_roof() -> None:
    """Measures what this machine can do at most with torch's number of threads, for the lines of
    ``CONVKERN_VERBOSE=profile``."""
    peaks = known_peaks(torch.get_num_threads(), _C.isa_cap())
    if isinstance(peaks, str):
        print(f"convkern: no percentages: {peaks}", file=sys.stderr)
    else:
        _C.set_roof(peaks.threads, peaks.peak, peaks.bandwidth)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, executions: list[Execution]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._executions = executions

    def __torch_dispatch__(
        self, op: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = op._schema.name.partition("::")[2] if op.namespace == "convkern" else ""
        if name not in _OPS:
            return op(*args, **(kwargs or {}))
        _wait(args[0])
        _C.take_last_execution()  # of another op, before
        begin = perf_counter()
        result = op(*args, **(kwargs or {}))
        _wait(args[0])
        seconds = perf_counter() - begin
        # Nothing ran for fake tensors, as in torch.export, and for empty results.
        if (ran := _C.take_last_execution()) is not None:
            self._executions.append(Execution(*ran, seconds, torch.get_num_threads()))
        return result


def _wait(t: Tensor) -> None:
    if t.is_cuda:
        torch.cuda.synchronize(t.device)


def _has_roof(e: Execution) -> bool:
    return Problem(e.problem).dtype == "f32" and e.kernel not in _ON_CUDA


def _with_share(e: Execution, peaks: Peaks) -> Execution:
    problem = Problem(e.problem)
    least, _ = peaks.least_seconds(problem.real_flops, problem.min_bytes)
    return Execution(e.problem, e.kernel, e.seconds, e.threads, least / e.seconds)
