"""Results of measurements, as the benchmarks keep them in JSON files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from convkern.bench.timing import Sample
from convkern.info import info

RowT = TypeVar("RowT")
ResultT = TypeVar("ResultT", bound="Result[Any]")


@dataclass(frozen=True)
class Result(Generic[RowT]):
    """A run's rows, and where and when they were measured."""

    row_type: ClassVar[Callable[..., Any]]  # the class of rows; its `samples` are by name
    source: ClassVar[str]  # what measures them, in the words of an error

    machine: dict[str, str]
    started: str
    rows: list[RowT]

    @classmethod
    def begin(cls: type[ResultT]) -> ResultT:
        """The result of a run that starts here and now, of no row yet."""
        return cls(info(), datetime.now(timezone.utc).isoformat(timespec="seconds"), [])

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls: type[ResultT], path: Path) -> ResultT:
        """Raises ValueError if the file is not such a result."""
        try:
            data = json.loads(path.read_text())
            rows = [
                {**row, "samples": {k: Sample(**v) for k, v in row["samples"].items()}}
                for row in data["rows"]
            ]
            parsed = [cls.row_type(**row) for row in rows]
            return cls(data["machine"], data["started"], parsed, **cls._more(data))
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a result of {cls.source}: {error!r}") from error

    @classmethod
    def _more(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The fields that a subclass adds, from the file's."""
        return {}
