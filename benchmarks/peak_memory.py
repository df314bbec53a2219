"""Peak memory of each problem with convkern and with torch in the same layout.

    python benchmarks/peak_memory.py resnet50,convnext --layout nchw --dtype bf16

Each call runs once in a process of its own, forked before any thread has started: the figure is
the growth of the resident set, from before the call to its highest point, results included. Linux
only (/proc/self).
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
from itertools import product
from pathlib import Path

import torch

from convkern._show.tables import Table
from convkern.bench import PASSES, read_shapes
from convkern.bench.peers import prepare
from convkern.problem import DTYPES
from convkern.testing import operands, variant

_WARM_UP = "n1c16h8w8k16r3s3p1q1_f32_nchw_fwd"  # loads libraries and starts threads
_RESET_PEAK = "5"  # for clear_refs, see proc_pid_clear_refs(5)
_PEERS = {"nchw": "torch", "nhwc": "torch_channels_last"}
_TOLERANCE = 1 << 20  # bytes that the allocator takes itself


def peak_growth(peer: str, problem: str, pass_: str) -> int:
    """Returns the growth in bytes, in this process."""
    for text in (_WARM_UP, problem):
        call = prepare(peer, operands(text), pass_)
        assert call is not None
        ctypes.CDLL(None).malloc_trim(0)  # the call must not reuse freed memory
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
        before = _status("VmRSS")
        results = call()
        peak = _status("VmHWM")
        del results
    return peak - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", help="names in benchmarks/shapes, separated by commas")
    parser.add_argument("--layout", choices=tuple(_PEERS), default="nchw")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="f32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    problems = [
        variant(problem, layout=args.layout, dtype=args.dtype)
        for name in args.shapes.split(",")
        for problem in read_shapes(name)
    ]
    table = Table(("problem", "pass"), ("convkern, MB", "torch, MB", "ratio", "above"))
    above = 0
    torch.set_num_threads(args.threads)
    fork = multiprocessing.get_context("fork")
    for problem, pass_ in product(problems, PASSES):
        sizes = []
        for peer in ("convkern", _PEERS[args.layout]):
            with fork.Pool(1) as pool:
                sizes.append(pool.apply(peak_growth, (peer, problem, pass_)))
        ours, theirs = sizes
        worse = ours > theirs + _TOLERANCE
        above += worse
        megabytes = (f"{size / 1e6:.1f}" for size in sizes)
        ratio = f"{ours / theirs:.2f}" if theirs > 0 else "-"
        label = problem.partition("#")[2] or problem
        table.add_row(label, pass_, *megabytes, ratio, "yes" if worse else "")
    print(table)
    print(f"above torch's: {above} of {2 * len(problems)}")


if __name__ == "__main__":
    main()
