"""The roofline: how near rows of the suite come to the limits of the machine.

A row's roof is the lower of two numbers: the peak, and its FLOPs per byte times the bandwidth
(Williams et al. 2009). The lower one names the bound. Only products with real inputs count, not
those with padding zeros, and only bytes that must move. The peak is that of float32, so only rows
of float32 on the CPU have a roof.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convkern._C import Problem
from convkern._show.tables import Table
from convkern.bench.peers import PASSES
from convkern.bench.suite import Row
from convkern.peaks import Peaks
from convkern.testing import variant


@dataclass(frozen=True)
class Point:
    """A row below its roof: FLOPs per byte, FLOP/s reached, the share of the roof, and the bound,
    "multiply-adds" or "bandwidth"."""

    row: Row
    intensity: float
    rate: float
    share: float
    bound: str


def points(rows: Sequence[Row], peaks: Sequence[Peaks]) -> list[Point]:
    """Returns points for the rows that have a roof. These are rows of float32 at a number of
    threads whose peaks were measured."""
    at = {machine.threads: machine for machine in peaks}
    return [
        _point(row, at[row.threads])
        for row in rows
        if row.threads is not None and row.threads in at and Problem(row.problem).dtype == "f32"
    ]


def _point(row: Row, machine: Peaks) -> Point:
    problems = [Problem(variant(row.problem, pass_=part)) for part in PASSES[row.pass_]]
    flops = sum(problem.real_flops for problem in problems)
    moved = sum(problem.min_bytes for problem in problems)
    seconds = row.samples["convkern"].median
    least, bound = machine.least_seconds(flops, moved)
    return Point(row, flops / moved, flops / seconds, least / seconds, bound)


def roofline_table(found: Sequence[Point]) -> Table:
    """Returns times, FLOP/s and shares of the roof."""
    figures = ("convkern, ms", "GFLOP/s", "FLOPs a byte", "of the roof")
    result = Table(("problem", "pass", "on", "bound"), figures)
    for point in found:
        milliseconds = point.row.samples["convkern"].median * 1e3
        result.add_row(
            point.row.label, point.row.pass_, point.row.where, point.bound, f"{milliseconds:.4g}",
            f"{point.rate * 1e-9:.0f}", f"{point.intensity:.1f}", f"{point.share:.0%}",
        )  # fmt: skip
    return result
