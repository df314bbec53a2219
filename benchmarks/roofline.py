"""Sets results of the suite against what this machine can do at most.

    python -m convkern bench --out result.json
    python benchmarks/roofline.py result.json

Measures the peak of float32 multiply-adds and the memory bandwidth (peak.cpp, compiled with g++ on
the spot), then gives each row the share of its roof that convkern reaches. A row's roof is the
lower of the peak and its products per byte times the bandwidth (Williams et al. 2009); which of
the two it is names the bound. Only products with real inputs count, none with padding zeros, and
only bytes that must move. Run it on the machine, and under the load, of the measurements.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from rich.table import Table

from convkern._C import Problem, available_isa
from convkern.bench import PASSES, Row, Suite
from convkern.tables import plain_table, wide_console
from convkern.testing import variant

SOURCE = Path(__file__).with_name("peak.cpp")
FLOATS = 1 << 25  # of each array of the bandwidth: 128 MiB, beyond every cache
REPEATS = 9
ISA_FLAGS = {"baseline": [], "avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx512f"]}
ISA_FLAGS["avx512bf16"] = ISA_FLAGS["avx512"]  # the peak is that of float32


@dataclass(frozen=True)
class Machine:
    """FLOP/s and bytes/s with so many threads."""

    threads: int
    peak: float
    bandwidth: float


def measure(threads: int, library: ctypes.CDLL) -> Machine:
    a, b, c = (torch.ones(FLOATS) for _ in range(3))
    arrays = [ctypes.c_void_p(t.data_ptr()) for t in (a, b, c)]
    peaks = [library.measure_peak(threads) for _ in range(REPEATS)]
    rates = [
        library.measure_bandwidth(*arrays, ctypes.c_int64(FLOATS), threads) for _ in range(REPEATS)
    ]
    return Machine(threads, median(peaks), median(rates))


def compile_library(folder: Path) -> ctypes.CDLL:
    path = folder / "peak.so"
    # Not -march=native: a compiler older than the processor may leave its vectors out.
    flags = ["-O3", *ISA_FLAGS[available_isa()], "-fopenmp", "-shared", "-fPIC"]
    subprocess.run(["g++", *flags, str(SOURCE), "-o", str(path)], check=True)
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


def roof(row: Row, machine: Machine) -> tuple[float, float, str]:
    """(GFLOP/s reached, share of the roof, the bound)."""
    problems = [Problem(variant(row.problem, pass_=part)) for part in PASSES[row.pass_]]
    flops = sum(real_flops(problem) for problem in problems)
    by_peak = flops / machine.peak
    by_bandwidth = sum(problem.min_bytes for problem in problems) / machine.bandwidth
    seconds = row.samples["convkern"].median
    bound = "multiply-adds" if by_peak > by_bandwidth else "bandwidth"
    return flops / seconds * 1e-9, max(by_peak, by_bandwidth) / seconds, bound


def table(rows: list[Row], machines: dict[int, Machine]) -> Table:
    figures = ("convkern, ms", "GFLOP/s", "of the roof")
    result = plain_table(("problem", "pass", "threads", "bound"), figures)
    for row in rows:
        rate, share, bound = roof(row, machines[row.threads])
        milliseconds = row.samples["convkern"].median * 1e3
        result.add_row(
            row.label, row.pass_, str(row.threads), bound, f"{milliseconds:.4g}", f"{rate:.0f}",
            f"{share:.0%}",
        )  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("result", type=Path, help="JSON that the suite wrote")
    rows = Suite.read(parser.parse_args().result).rows
    if any(row.threads is None for row in rows):
        parser.error("the result is of a GPU; the roof is that of this machine's CPU")
    console = wide_console()
    with tempfile.TemporaryDirectory() as folder:
        library = compile_library(Path(folder))
        machines = {n: measure(n, library) for n in sorted({row.threads for row in rows})}
    for machine in machines.values():
        console.print(
            f"{machine.threads} thread(s): {machine.peak * 1e-9:.0f} GFLOP/s float32, "
            f"{machine.bandwidth * 1e-9:.1f} GB/s"
        )
    console.print(table(rows, machines))


if __name__ == "__main__":
    main()
