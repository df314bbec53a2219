"""Lines that are printed while something long runs, and bars of progress below them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

T = TypeVar("T")


class Progress:
    """Shows bars within a ``with`` statement; lines can be printed at any time.

    Bars need a terminal and rich (``pip install 'convkern[progress]'``), and without either there
    are none. If `quiet`, nothing is shown at all.
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
        """Prints a line as it is, above the bars."""
        if self._bars is not None:
            self._bars.console.print(text, soft_wrap=True)
        elif not self._quiet:
            print(text, flush=True)

    def bar(self, description: str, total: float | None, unit: str) -> Bar:
        """A new bar of `total` units; None where their number is not known."""
        return Bar(self._bars, description, total, unit)

    def track(self, items: Iterable[T], description: str, unit: str) -> Iterator[T]:
        """The items, with a bar of how many were taken."""
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
        """So many more units are done; and the bar perhaps is described anew."""
        self._update(advance=count, description=description)

    def describe(self, description: str) -> None:
        self._update(description=description)

    def shorten(self, count: float) -> None:
        """There are so many fewer units to do. They do not count for the rate, as units that are
        done would."""
        self._total -= count
        self._update(total=self._total)

    def _update(self, **changes: Any) -> None:
        if self._bars is not None:
            self._bars.update(self._task, **changes)


def _rich_bars() -> Any:
    """rich's bars; None where there is no terminal or no rich."""
    console = _terminal()
    if console is None:
        return None
    from convkern._show.bars import rich_bars

    return rich_bars(console)


def _terminal() -> Any:
    """rich's console of a terminal; None where stdout is none, or rich is not installed."""
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    # Text is printed as it is: rich would take what stands in brackets, as in a path or the name of
    # a layer, for its markup, and :name: for an emoji.
    return Console(markup=False, emoji=False, highlight=False)
