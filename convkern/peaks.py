"""What this machine can do at most: the peak of float32 multiply-adds and the memory bandwidth."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from convkern._C import available_isa

SOURCE = Path(__file__).with_name("peak.cpp")
FLOATS = 1 << 25  # of each array of the bandwidth: 128 MiB, beyond every cache
REPEATS = 9
ISA_FLAGS: dict[str, list[str]] = {
    "baseline": [], "avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx512f"]
}  # fmt: skip
ISA_FLAGS["avx512bf16"] = ISA_FLAGS["avx512"]  # the peak is that of float32


@dataclass(frozen=True)
class Peaks:
    """What a machine can do at most with so many threads: float32 FLOP/s and bytes/s."""

    threads: int
    peak: float
    bandwidth: float

    def least_seconds(self, flops: float, moved: float) -> tuple[float, str]:
        """That so many FLOPs over so many bytes take, and the bound: "multiply-adds" or
        "bandwidth"."""
        by_peak, by_bandwidth = flops / self.peak, moved / self.bandwidth
        return max(by_peak, by_bandwidth), (
            "multiply-adds" if by_peak > by_bandwidth else "bandwidth"
        )


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
