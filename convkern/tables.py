"""How tables print."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from io import StringIO

from rich.console import Console
from rich.table import Table

from convkern import html


def plain_table(names: Iterable[str], figures: Iterable[str]) -> Table:
    """A table without lines: columns of names, then of figures, which align to the right."""
    result = Table(box=None, pad_edge=False)
    for heading in names:
        result.add_column(heading)
    for heading in figures:
        result.add_column(heading, justify="right")
    return result


def as_text(table: Table) -> str:
    """The table's lines, as wide as they come: one cut to a terminal's width would lose the names
    of kernels."""
    text = StringIO()
    Console(file=text, width=10_000, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def as_html(table: Table) -> str:
    """The table in HTML, as plain_table made it: of strings."""
    headings = [str(column.header) for column in table.columns]
    count = sum(column.justify == "left" for column in table.columns)
    rows = zip(*(map(str, column.cells) for column in table.columns), strict=True)
    return html.table(headings[:count], headings[count:], list(rows))


def wide_console() -> Console:
    """Stdout; wide enough not to cut cells where it is not a terminal."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)
