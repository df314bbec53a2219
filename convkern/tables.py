"""How tables print."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table


def plain_table(names: Iterable[str], figures: Iterable[str]) -> Table:
    """A table without lines: columns of names, then of figures, which align to the right."""
    result = Table(box=None, pad_edge=False)
    for heading in names:
        result.add_column(heading)
    for heading in figures:
        result.add_column(heading, justify="right")
    return result


def wide_console() -> Console:
    """Stdout; wide enough not to cut cells where it is not a terminal."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)
