"""Rows of measurements over files of problem strings, and their table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import geometric_mean

import torch
from rich.table import Table

from convkern.bench.peers import PASSES, prepare
from convkern.bench.results import Result
from convkern.bench.tables import plain_table
from convkern.bench.timing import Sample, time_in_turn
from convkern.explain import explain
from convkern.testing import operands, variant

SHAPES = Path(__file__).parents[2] / "benchmarks" / "shapes"  # of a source checkout
_BEST_OF = ("torch", "torch_channels_last")  # a ratio is against the faster of these


@dataclass(frozen=True)
class Row:
    """One problem and pass at one number of threads.

    Attributes:
        samples: by peer, "convkern" among them.
        kernels: that convkern runs, in the order of the passes.
    """

    problem: str
    pass_: str
    threads: int
    samples: dict[str, Sample]
    kernels: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        return self.problem.partition("#")[2] or self.problem

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes two rows of different runs the same measurement."""
        return self.problem, self.pass_, self.threads

    @property
    def ratio(self) -> float | None:
        """How many times faster convkern is than the better of torch's layouts."""
        best = min((self.samples[p].median for p in _BEST_OF if p in self.samples), default=None)
        return None if best is None else best / self.samples["convkern"].median


class Suite(Result[Row]):
    """A run of the suite."""

    row_type = Row
    source = "the benchmark suite"


def read_shapes(name: str) -> list[str]:
    """The problem strings of a file: its path, or the name of one of benchmarks/shapes. A name
    that is itself a problem string stands for that problem.

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


def run_suite(
    problems: Sequence[str],
    passes: Sequence[str],
    peers: Sequence[str],
    threads: Sequence[int],
    seconds: float = 1.0,
    report: Callable[[Row], None] = lambda row: None,
) -> Suite:
    """Measures every problem in every pass at every number of threads, `seconds` each; `report`
    is called with each row when it is there."""
    suite = Suite.begin()
    for count, problem, pass_ in product(threads, problems, passes):
        with _threads(count):
            suite.rows.append(_measure(problem, pass_, ["convkern", *peers], seconds))
        report(suite.rows[-1])
    return suite


def _measure(problem: str, pass_: str, peers: Iterable[str], seconds: float) -> Row:
    ops = operands(problem)
    calls = {}
    for peer in dict.fromkeys(peers):
        call = prepare(peer, ops, pass_)
        if call is not None:
            calls[peer] = call
    kernels = [explain(variant(problem, pass_=part)).kernel for part in PASSES[pass_]]
    return Row(problem, pass_, torch.get_num_threads(), time_in_turn(calls, seconds), kernels)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def table(rows: Sequence[Row]) -> Table:
    """Milliseconds with their spread for each peer, and the ratio to the better of torch's
    layouts; then the ratios' geometric mean for each pass and number of threads."""
    peers = list(dict.fromkeys(peer for row in rows for peer in row.samples))
    figures = (*(f"{peer}, ms" for peer in peers), "ratio")
    result = plain_table(("problem", "pass", "threads"), figures)
    for row in rows:
        times = (_cell(row.samples.get(peer)) for peer in peers)
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
        result.add_row(row.label, row.pass_, str(row.threads), *times, ratio)
    ratios: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        if row.ratio is not None:
            ratios.setdefault((row.pass_, row.threads), []).append(row.ratio)
    for (pass_, threads), values in ratios.items():
        mean = f"{geometric_mean(values):.2f}x"
        result.add_row("geometric mean", pass_, str(threads), *("" for _ in peers), mean)
    return result


def _cell(sample: Sample | None) -> str:
    if sample is None:
        return "-"
    return f"{sample.median * 1e3:.4g} ±{sample.spread:.0%}"
