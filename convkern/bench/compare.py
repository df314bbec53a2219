"""Two runs of the suite as a regression table."""

from __future__ import annotations

from statistics import geometric_mean

from rich.table import Table

from convkern.bench.suite import Suite
from convkern.tables import plain_table


def compare(old: Suite, new: Suite, threshold: float = 0.1) -> tuple[Table, int]:
    """A table of the rows that both runs have, and how many of them became slower.

    Where both runs timed torch, what is compared is the ratio to torch, since the speed of the
    machine cancels; otherwise convkern's time. A row counts as slower, or faster, if the change
    exceeds `threshold` and the spread of both runs' measurements.

    Raises:
        ValueError: the runs have no row in common.
    """
    before = {row.key: row for row in old.rows}
    pairs = [(before[row.key], row) for row in new.rows if row.key in before]
    if not pairs:
        raise ValueError(
            "the two results have no problem, pass and number of threads or GPU in common"
        )
    table = plain_table(
        ("problem", "pass", "on"),
        ("old, ms", "new, ms", "old ratio", "new ratio", "speed", ""),
    )
    slower, speeds = 0, []
    for a, b in pairs:
        was, now = a.samples["convkern"], b.samples["convkern"]
        ratios = (a.ratio, b.ratio)
        speed = b.ratio / a.ratio if a.ratio and b.ratio else was.median / now.median
        speeds.append(speed)
        limit = max(threshold, was.spread + now.spread)
        verdict = "slower" if speed < 1 / (1 + limit) else "faster" if speed > 1 + limit else ""
        slower += verdict == "slower"
        table.add_row(
            b.label, b.pass_, b.where, f"{was.median * 1e3:.4g}", f"{now.median * 1e3:.4g}",
            *("" if r is None else f"{r:.2f}x" for r in ratios), f"{speed:.2f}", verdict,
        )  # fmt: skip
    mean = geometric_mean(speeds)
    table.add_row("geometric mean", "", "", "", "", "", "", f"{mean:.2f}", f"{slower} slower")
    return table, slower
