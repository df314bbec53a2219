"""What this machine can do at most, and how near to it rows of the suite come.

A row's roof is the lower of the peak and its FLOPs per byte times the bandwidth (Williams et al.
2009); which of the two it is names the bound. Only products with real inputs count, none with
padding zeros, and only bytes that must move. The peak is that of float32, so that only rows of
float32 on the CPU have a roof.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from rich.table import Table

from convkern._C import Problem, available_isa
from convkern.bench.peers import PASSES
from convkern.bench.suite import Peaks, Row
from convkern.tables import plain_table
from convkern.testing import variant

SOURCE = Path(__file__).with_name("peak.cpp")
FLOATS = 1 << 25  # of each array of the bandwidth: 128 MiB, beyond every cache
REPEATS = 9
ISA_FLAGS: dict[str, list[str]] = {
    "baseline": [], "avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx512f"]
}  # fmt: skip
ISA_FLAGS["avx512bf16"] = ISA_FLAGS["avx512"]  # the peak is that of float32


@dataclass(frozen=True)
class Point:
    """A row under its roof: FLOPs a byte, FLOP/s reached, the share of the roof, and the bound,
    "multiply-adds" or "bandwidth"."""

    row: Row
    intensity: float
    rate: float
    share: float
    bound: str


def measure_peaks(threads: Iterable[int]) -> list[Peaks]:
    """Measures this machine with each number of threads, some seconds each. Do it under the load of
    the measurements that are to be set against it.

    Raises:
        ValueError: there is no g++, which compiles what is measured, or it fails.
    """
    if shutil.which("g++") is None:
        raise ValueError("the roofline needs g++, which was not found")
    with tempfile.TemporaryDirectory() as folder:
        library = _compile(Path(folder))
        return [_measure(count, library) for count in threads]


def _measure(threads: int, library: ctypes.CDLL) -> Peaks:
    a, b, c = (torch.ones(FLOATS) for _ in range(3))
    arrays = [ctypes.c_void_p(t.data_ptr()) for t in (a, b, c)]
    peaks = [library.measure_peak(threads) for _ in range(REPEATS)]
    rates = [
        library.measure_bandwidth(*arrays, ctypes.c_int64(FLOATS), threads) for _ in range(REPEATS)
    ]
    return Peaks(threads, median(peaks), median(rates))


def _compile(folder: Path) -> ctypes.CDLL:
    path = folder / "peak.so"
    # Not -march=native: a compiler older than the processor may leave its vectors out.
    flags = ["-O3", *ISA_FLAGS[available_isa()], "-fopenmp", "-shared", "-fPIC"]
    command = ["g++", *flags, str(SOURCE), "-o", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"the roofline's g++ failed: {done.stderr.strip()}")
    library = ctypes.CDLL(str(path))
    library.measure_peak.restype = library.measure_bandwidth.restype = ctypes.c_double
    return library


def real_flops(problem: Problem) -> float:
    """FLOPs of one pass without the products with padding zeros: the same for all three."""
    n, c, *inputs = problem.input_size
    o, _, *kernel = problem.weight_size
    pairs = 1  # of an output and a tap that meet in a real input, over both axes
    for axis in range(2):
        step, dilation = problem.stride[axis], problem.dilation[axis]
        reached = (
            u * step + k * dilation - problem.padding[axis]
            for u in range(problem.output_size[2 + axis])
            for k in range(kernel[axis])
        )
        pairs *= sum(0 <= index < inputs[axis] for index in reached)
    return 2.0 * n * o * c / problem.groups * pairs


def points(rows: Sequence[Row], peaks: Sequence[Peaks]) -> list[Point]:
    """Of the rows that have a roof: float32, at a number of threads that was measured."""
    at = {machine.threads: machine for machine in peaks}
    return [
        _point(row, at[row.threads])
        for row in rows
        if row.threads is not None and row.threads in at and Problem(row.problem).dtype == "f32"
    ]


def _point(row: Row, machine: Peaks) -> Point:
    problems = [Problem(variant(row.problem, pass_=part)) for part in PASSES[row.pass_]]
    flops = sum(real_flops(problem) for problem in problems)
    moved = sum(problem.min_bytes for problem in problems)
    by_peak, by_bandwidth = flops / machine.peak, moved / machine.bandwidth
    seconds = row.samples["convkern"].median
    bound = "multiply-adds" if by_peak > by_bandwidth else "bandwidth"
    return Point(row, flops / moved, flops / seconds, max(by_peak, by_bandwidth) / seconds, bound)


def roofline_table(found: Sequence[Point]) -> Table:
    """Times, FLOP/s and shares of the roof."""
    figures = ("convkern, ms", "GFLOP/s", "FLOPs a byte", "of the roof")
    result = plain_table(("problem", "pass", "on", "bound"), figures)
    for point in found:
        milliseconds = point.row.samples["convkern"].median * 1e3
        result.add_row(
            point.row.label, point.row.pass_, point.row.where, point.bound, f"{milliseconds:.4g}",
            f"{point.rate * 1e-9:.0f}", f"{point.intensity:.1f}", f"{point.share:.0%}",
        )  # fmt: skip
    return result
