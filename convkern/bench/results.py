"""The results of measurements, which the benchmarks keep in JSON files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import geometric_mean
from typing import ClassVar, Protocol, TypeVar

from convkern._files import write_file
from convkern._json import read_json
from convkern.bench.timing import Sample
from convkern.info import info

ResultT = TypeVar("ResultT", bound="Result")


@dataclass(frozen=True)
class Result:
    """A run, with the place and time of its measurement. Subclasses add `rows`, a list of
    dataclasses."""

    source: ClassVar[str]  # the program that measures, named in errors

    machine: dict[str, str]
    started: str

    @classmethod
    def begin(cls: type[ResultT]) -> ResultT:
        """Returns the result of a run that starts here and now, without rows."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return cls(info(), now, [])  # type: ignore[call-arg]  # the rows of the subclass

    def write(self, path: Path) -> None:
        write_file(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls: type[ResultT], path: Path) -> ResultT:
        """Reads a result. Raises ValueError if the file does not contain one."""
        return read_json(cls, path, f"a result of {cls.source}")


def check_one_of(name: str, value: str, known: Mapping[str, object]) -> None:
    """Raises ValueError if a field of a row has none of its allowed values."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def check_samples(samples: Mapping[str, Sample], *needed: str) -> None:
    """Raises ValueError if a row lacks the times of one of the `needed`."""
    if missing := [name for name in needed if name not in samples]:
        raise ValueError(f"samples must have times of {' and '.join(missing)}")


class Compared(Protocol):
    """A row whose times are compared with the fastest peer's."""

    def ratio(self, ours: str) -> float | None:
        """Returns the time of the fastest peer as a multiple of ours, or None without both."""


def mean_cells(rows: Sequence[Compared], ours: Sequence[str]) -> list[str]:
    """Returns the geometric means of the rows' ratios for the last line of a table."""
    means = []
    for name in ours:
        known = [ratio for row in rows if (ratio := row.ratio(name)) is not None]
        means.append(f"{geometric_mean(known):.2f}x" if known else "")
    return means
