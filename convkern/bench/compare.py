"""Compares two runs of the suite in a regression table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import geometric_mean

from convkern._show.tables import Table
from convkern.bench.suite import Row, Suite


@dataclass(frozen=True)
class Change:
    """One row, measured in two runs.

    Attributes:
        speed: the new run's speed, as a multiple of the old one's.
        verdict: "slower", "faster", or "" if the change may be noise.
    """

    old: Row
    new: Row
    speed: float
    verdict: str


def changes(old: Suite, new: Suite, threshold: float = 0.1) -> list[Change]:
    """Returns the rows that both runs have, and how their speed changed.

    If both runs timed torch, the ratios to torch are compared, because the speed of the machine
    cancels. Otherwise convkern's times are compared. A row counts as slower or faster if the change
    exceeds both `threshold` and the spread of the measurements of both runs.

    Raises:
        ValueError: the runs have no row in common.
    """
    before = {row.key: row for row in old.rows}
    found = [_change(before[row.key], row, threshold) for row in new.rows if row.key in before]
    if not found:
        raise ValueError(
            "the two results have no problem, pass and number of threads or GPU in common"
        )
    return found


def compare(old: Suite, new: Suite, threshold: float = 0.1) -> tuple[Table, int]:
    """Returns a table of the :func:`changes`, and the number of rows that became slower."""
    found = changes(old, new, threshold)
    return changes_table(found), sum(change.verdict == "slower" for change in found)


def changes_table(found: Sequence[Change]) -> Table:
    """Returns times and ratios of both runs, with the geometric mean of the speeds."""
    table = Table(
        ("problem", "pass", "on"),
        ("old, ms", "new, ms", "old ratio", "new ratio", "speed", ""),
    )
    for change in found:
        row = change.new
        runs = (change.old, change.new)
        table.add_row(
            row.label, row.pass_, row.where,
            *(f"{run.samples['convkern'].median * 1e3:.4g}" for run in runs),
            *("" if run.ratio is None else f"{run.ratio:.2f}x" for run in runs),
            f"{change.speed:.2f}", change.verdict,
        )  # fmt: skip
    mean = geometric_mean(change.speed for change in found)
    slower = sum(change.verdict == "slower" for change in found)
    table.add_row("geometric mean", "", "", "", "", "", "", f"{mean:.2f}", f"{slower} slower")
    return table


def _change(old: Row, new: Row, threshold: float) -> Change:
    was, now = old.samples["convkern"], new.samples["convkern"]
    speed = new.ratio / old.ratio if old.ratio and new.ratio else was.median / now.median
    limit = max(threshold, was.spread + now.spread)
    verdict = "slower" if speed < 1 / (1 + limit) else "faster" if speed > 1 + limit else ""
    return Change(old, new, speed, verdict)
