"""Measures the problem strings of a file, and shows the rows as a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import geometric_mean

import torch

from convkern._C import Problem
from convkern._show.tables import Table
from convkern.bench.gpu import EventClock, cudnn_chooses, l2_buffer, require_gpu
from convkern.bench.peers import CPU_PEERS, PASSES, prepare
from convkern.bench.results import Result, check_one_of, check_samples
from convkern.bench.timing import Call, Sample, time_in_turn, wall_clock
from convkern.explain import explain
from convkern.peaks import Peaks, torch_threads
from convkern.testing import operands, variant

SHAPES = Path(__file__).parents[2] / "benchmarks" / "shapes"  # of a source checkout
_BEST_OF = ("torch", "torch_channels_last")  # a ratio is against the faster of these


@dataclass(frozen=True)
class Row:
    """One problem and pass, at one number of threads or on a GPU.

    Attributes:
        threads: threads of the CPU; None on a GPU.
        samples: times by peer, including "convkern".
        kernels: the kernels that convkern runs, in the order of the passes.
        device: "cpu", or the name of the GPU.
        tf32: for float32 on a GPU, whether TF32 was allowed.
    """

    problem: str
    pass_: str
    threads: int | None
    samples: dict[str, Sample]
    kernels: list[str] = field(default_factory=list)
    device: str = "cpu"
    tf32: bool | None = None

    def __post_init__(self) -> None:
        Problem(self.problem)  # raises ValueError if it is none
        check_one_of("pass_", self.pass_, PASSES)
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
        check_samples(self.samples, "convkern")

    @property
    def label(self) -> str:
        return self.problem.partition("#")[2] or self.problem

    @property
    def where(self) -> str:
        """Returns the number of threads, or the GPU and the precision of float32."""
        if self.threads is not None:
            return f"{self.threads} thread{'s' * (self.threads > 1)}"
        precision = {None: "", False: ", exact float32", True: ", TF32"}
        return self.device + precision[self.tf32]

    @property
    def key(self) -> tuple[str, str, str]:
        """Identifies a measurement. Rows of different runs with the same key can be compared."""
        return self.problem, self.pass_, self.where

    @property
    def ratio(self) -> float | None:
        """Returns the time of the better of torch's layouts as a multiple of convkern's."""
        best = min((self.samples[p].median for p in _BEST_OF if p in self.samples), default=None)
        return None if best is None else best / self.samples["convkern"].median


@dataclass(frozen=True)
class Suite(Result):
    """A run of the suite, with the machine's peaks if they were measured too."""

    source = "the benchmark suite"

    rows: list[Row]
    peaks: list[Peaks] = field(default_factory=list)


def read_shapes(name: str) -> list[str]:
    """Returns the problem strings of a file, given by its path or by a name in benchmarks/shapes. A
    name that is itself a problem string stands for that problem.

    Raises:
        ValueError: there is no such file.
    """
    if "_" in name and name[:1] == "n" and name[1:2].isdigit():
        return [name]
    path = Path(name) if Path(name).is_file() else SHAPES / f"{name}.txt"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in SHAPES.glob("*.txt")))
        raise ValueError(
            f"shapes must be a file or one of {known or '(no checkout)'}, not {name!r}"
        )
    lines = (line.strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def with_batch(problem: str, n: int) -> str:
    """Returns the problem with `n` images and a label that says so."""
    body, _, label = problem.partition("#")
    body = re.sub(r"^n\d+", f"n{n}", body)
    return f"{body}#{label}.batch{n}" if label else body


def run_suite(
    problems: Sequence[str],
    passes: Sequence[str],
    peers: Sequence[str],
    threads: Sequence[int],
    seconds: float = 1.0,
    report: Callable[[Row], None] = lambda row: None,
    *,
    device: str = "cpu",
    tf32: bool = False,
) -> Suite:
    """Measures every problem in every pass at every number of threads, for `seconds` each. `report`
    is called with each finished row.

    On device "cuda", the current GPU, there are no `threads`. torch's convolutions are those that
    cuDNN's benchmark chooses. float32 is exact unless `tf32` allows TF32, which it then does for
    convkern too.

    Raises:
        ValueError: the device is not available, or does not fit these `peers`, `threads` or `tf32`.
    """
    _check_device(device, peers, threads, tf32)
    on_gpu = device == "cuda"
    stopwatch = EventClock(l2_buffer().zero_) if on_gpu else wall_clock
    name = torch.cuda.get_device_name() if on_gpu else device
    suite = Suite.begin()
    if on_gpu:
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        suite.machine["cuDNN"] = str(cudnn)
    for count, problem, pass_ in product([None] if on_gpu else threads, problems, passes):
        with cudnn_chooses(tf32) if count is None else torch_threads(count):
            calls = _calls(problem, pass_, ["convkern", *peers], device)
            samples = time_in_turn(calls, seconds, stopwatch)
            parts = [variant(problem, pass_=part) for part in PASSES[pass_]]
            kernels = [explain(part, device=device).kernel for part in parts]
        choice = tf32 if on_gpu and Problem(problem).dtype == "f32" else None
        suite.rows.append(Row(problem, pass_, count, samples, kernels, name, choice))
        report(suite.rows[-1])
    return suite


def _check_device(device: str, peers: Iterable[str], threads: Sequence[int], tf32: bool) -> None:
    if device == "cpu":
        if tf32:
            raise ValueError("tf32 is for device cuda")
        return
    if device != "cuda":
        raise ValueError(f"device must be cpu or cuda, got {device!r}")
    if threads:
        raise ValueError("threads are the CPU's: device cuda takes none")
    for peer in peers:
        if peer in CPU_PEERS:
            raise ValueError(f"peer {peer} is for device cpu")
    require_gpu()


def _calls(problem: str, pass_: str, peers: Iterable[str], device: str) -> dict[str, Call]:
    """Returns the calls of those peers that can compute the problem, by peer."""
    ops = operands(problem, device=device)
    calls = {peer: prepare(peer, ops, pass_) for peer in dict.fromkeys(peers)}
    return {peer: call for peer, call in calls.items() if call is not None}


def table(rows: Sequence[Row]) -> Table:
    """Returns milliseconds with their spread for each peer, and the ratio to the better of torch's
    layouts. Below are the geometric means of the ratios for each pass and number of threads or
    GPU."""
    peers = list(dict.fromkeys(peer for row in rows for peer in row.samples))
    figures = (*(f"{peer}, ms" for peer in peers), "ratio")
    result = Table(("problem", "pass", "on"), figures)
    for row in rows:
        times = (_cell(row.samples.get(peer)) for peer in peers)
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
        result.add_row(row.label, row.pass_, row.where, *times, ratio)
    for (pass_, where), mean in geometric_means(rows).items():
        result.add_row("geometric mean", pass_, where, *("" for _ in peers), f"{mean:.2f}x")
    return result


def geometric_means(rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """Returns the means of the existing ratios, by pass and number of threads or GPU."""
    ratios: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row.ratio is not None:
            ratios.setdefault((row.pass_, row.where), []).append(row.ratio)
    return {key: geometric_mean(values) for key, values in ratios.items()}


def _cell(sample: Sample | None) -> str:
    if sample is None:
        return "-"
    return f"{sample.median * 1e3:.4g} ±{sample.spread:.0%}"
