"""Finds rows of a run that differ in one thing only: the batch size, or the number of threads."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from convkern._C import Problem
from convkern.bench.suite import Row


@dataclass(frozen=True)
class Series:
    """Rows in the order of the number in which they differ.

    Attributes:
        label: the label of the layer.
        pass_, where: those of all rows, as in Row. `where` is "" if the threads differ.
        steps: pairs (batch size or number of threads, row), ascending.
    """

    label: str
    pass_: str
    where: str
    steps: list[tuple[int, Row]]


def over_batches(rows: Sequence[Row]) -> list[Series]:
    """Returns layers that were measured with several batch sizes and are the same otherwise."""
    return _series(
        rows,
        lambda row: Problem(row.problem).input_size[0],
        lambda row: (_without_batch(row), row.pass_, row.where),
        lambda row: row.where,
    )


def over_threads(rows: Sequence[Row]) -> list[Series]:
    """Returns layers that were measured with several numbers of threads and are the same
    otherwise."""
    return _series(
        [row for row in rows if row.threads is not None],
        lambda row: row.threads or 0,  # all rows have one
        lambda row: (row.problem, row.pass_),
        lambda row: "",
    )


def _series(
    rows: Sequence[Row],
    step: Callable[[Row], int],
    key: Callable[[Row], Hashable],
    where: Callable[[Row], str],
) -> list[Series]:
    groups: dict[Hashable, dict[int, Row]] = {}
    for row in rows:
        groups.setdefault(key(row), {}).setdefault(step(row), row)
    return [
        Series(_layer(first), first.pass_, where(first), sorted(steps.items()))
        for steps in groups.values()
        if len(steps) > 1
        for first in [next(iter(steps.values()))]
    ]


def _without_batch(row: Row) -> str:
    return re.sub(r"^n\d+", "", str(Problem(row.problem)))


def _layer(row: Row) -> str:
    """Returns the label without the batch size, which shape files and --batches write at its
    end."""
    return re.sub(r"[./](batch)?\d+$", "", row.label)
