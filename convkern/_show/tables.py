"""Tables of text, for a terminal and as HTML."""

from __future__ import annotations

from collections.abc import Iterable
from unicodedata import combining, east_asian_width

from convkern._show import html


class Table:
    """A table without rules. Columns of names come first and align to the left. Then come columns
    of figures, which align to the right, and perhaps more names.

    ``str()`` gives its lines at full width, because cutting them to a terminal's width would lose
    the names of kernels. Jupyter shows it as HTML.

    Attributes:
        headings: the headings of all columns.
        rows: the cells of each row.
    """

    def __init__(
        self, names: Iterable[str], figures: Iterable[str], more: Iterable[str] = ()
    ) -> None:
        groups = ((names, False), (figures, True), (more, False))
        columns = [(heading, right) for group, right in groups for heading in group]
        self.headings = [heading for heading, _ in columns]
        self.rows: list[tuple[str, ...]] = []
        self._right = [right for _, right in columns]

    def add_row(self, *cells: str) -> None:
        if len(cells) != len(self.headings):
            raise ValueError(f"a row of {len(cells)} cells for {len(self.headings)} columns")
        self.rows.append(cells)

    def __str__(self) -> str:
        lines = [self.headings, *self.rows]
        widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
        return "\n".join(self._line(cells, widths) for cells in lines)

    def _line(self, cells: Iterable[str], widths: list[int]) -> str:
        padded = []
        for text, width, right in zip(cells, widths, self._right, strict=True):
            blanks = " " * (width - _width(text))
            padded.append(blanks + text if right else text + blanks)
        return "  ".join(padded).rstrip()

    def _repr_html_(self) -> str:
        return html.table(self.headings, self._right, self.rows)


def _width(text: str) -> int:
    """Returns how many columns a text takes in a terminal."""
    return sum(2 if east_asian_width(c) in "WF" else 1 for c in text if not combining(c))
