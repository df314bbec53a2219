"""Counts what tests have compared. conftest.py prints the sums at the end of a run."""

from collections import Counter

COUNTS: Counter[str] = Counter()


def count(what: str, number: int = 1) -> None:
    COUNTS[what] += number
