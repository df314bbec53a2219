"""The values that were used last, so that no more memory is held than for so many."""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
_uses = itertools.count()  # numbers all uses in their order


@dataclass
class _Entry(Generic[T]):
    value: T
    used: int


class Recent(Generic[T]):
    """At most so many values by their keys. The table itself never changes, so that threads may
    read it while another puts a new one in its place.

    Example:
        >>> table = Recent(2).added("a", 1).added("b", 2)
        >>> table.get("a")
        1
        >>> table.added("c", 3).values()
        [1, 3]
    """

    def __init__(self, most: int, entries: dict[Hashable, _Entry[T]] | None = None) -> None:
        self._most = most
        self._entries = entries or {}

    def get(self, key: Hashable) -> T | None:
        """Returns the value of a key, which is now the one that was used last, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        entry.used = next(_uses)
        return entry.value

    def added(self, key: Hashable, value: T) -> Recent[T]:
        """Returns a table that has another value too. The value that has not been used for the
        longest time is left out if there would be too many."""
        entries = {k: entry for k, entry in self._entries.items() if k != key}
        if len(entries) == self._most:
            del entries[min(entries, key=lambda k: entries[k].used)]
        return Recent(self._most, {**entries, key: _Entry(value, next(_uses))})

    def values(self) -> list[T]:
        """Returns the values in the order in which they were added."""
        return [entry.value for entry in self._entries.values()]
