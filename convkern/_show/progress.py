"""Prints lines while something long runs, with progress bars below them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

T = TypeVar("T")


class Progress:
    """Shows bars within a ``with`` statement. Lines can be printed at any time.

    Bars need a terminal and rich (``pip install 'convkern[progress]'``). If either is missing, no
    bars are shown. If `quiet`, nothing is shown at all.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bars = None if quiet else _rich_bars()

    def __enter__(self) -> Progress:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def print(self, text: str) -> None:
        """Prints a line unchanged, above the bars."""
        if self._bars is not None:
            self._bars.console.print(text, soft_wrap=True)
        elif not self._quiet:
            print(text, flush=True)

    def bar(self, description: str, total: float | None, unit: str) -> Bar:
        """Returns a new bar of `total` units, where None means that their number is unknown."""
        return Bar(self._bars, description, total, unit)

    def track(self, items: Iterable[T], description: str, unit: str) -> Iterator[T]:
        """Yields the items, with a bar that counts them."""
        bar = self.bar(description, len(items) if isinstance(items, Sized) else None, unit)
        for item in items:
            yield item
            bar.advance()


class Bar:
    """One bar of a :class:`Progress`."""

    def __init__(self, bars: Any, description: str, total: float | None, unit: str) -> None:
        self._bars, self._total = bars, total or 0
        if bars is not None:
            self._task = bars.add_task(description, total=total, unit=unit)

    def advance(self, count: float = 1, description: str | None = None) -> None:
        """Adds `count` units to those that are done. Replaces the description if one is given."""
        self._update(advance=count, description=description)

    def describe(self, description: str) -> None:
        self._update(description=description)

    def shorten(self, count: float) -> None:
        """Subtracts `count` units from those to do. Unlike units that are done, they do not count
        for the rate."""
        self._total -= count
        self._update(total=self._total)

    def _update(self, **changes: Any) -> None:
        if self._bars is not None:
            self._bars.update(self._task, **changes)


def _rich_bars() -> Any:
    """Returns rich's bars, or None without a terminal or rich."""
    console = _terminal()
    if console is None:
        return None
    from convkern._show.bars import rich_bars

    return rich_bars(console)


def _terminal() -> Any:
    """Returns rich's console for a terminal. Returns None if stdout is no terminal or rich is
    missing."""
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    # Print text unchanged. rich would read brackets, as in a path or a layer's name, as its markup,
    # and :name: as an emoji.
    return Console(markup=False, emoji=False, highlight=False)
