"""Pictures in text of the cells that outputs of a convolution read, along rows and columns."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field

from convkern._C import Problem
from convkern.choices import PaddingMode
from convkern.reference import cell_at, sides

_WIDTH = 78  # characters of a line
_INDENT = "  "
_GAP = ".."
_PASSES = {
    "fwd": "Each output is the sum of the marked cells times the taps of the kernel.",
    "gx": "The gradient of each output times the taps of the kernel is added to the marked cells.",
    "gw": "The gradient of each tap is the sum of its marked cells times the outputs' gradients.",
}


@dataclass(frozen=True)
class _Axis:
    """One axis of a convolution. Its places are counted from the first cell of the input, so that
    those of the padding before it are negative."""

    cells: int
    before: int
    after: int
    taps: int
    stride: int
    dilation: int
    outputs: int
    mode: PaddingMode

    def first(self, output: int) -> int:
        """Returns the place of the first tap of an output."""
        return output * self.stride - self.before

    def last(self, output: int) -> int:
        """Returns the place of the last tap of an output."""
        return self.first(output) + self.dilation * (self.taps - 1)

    def reads(self, output: int, places: range) -> bool:
        """Returns whether a tap of an output is at one of the adjacent places."""
        first, last = self.first(output), self.last(output)
        taps_before = max(0, -(-(places.start - first) // self.dilation))
        return first + taps_before * self.dilation < min(places.stop, last + 1)

    def label(self, place: int) -> str:
        """Returns what is drawn for a place: the number of its cell, with a prime in padding."""
        cell = cell_at(place, self.cells, self.mode)
        if cell is None:
            return "0"
        return str(cell) if 0 <= place < self.cells else f"{cell}'"

    def title(self) -> str:
        """Returns the parameters in words, with no-break spaces within each."""
        words = [_counted(self.cells, "cell")]
        if self.before or self.after:
            words.append(f"padding {self.before} before and {self.after} after ({self.mode})")
        words.append(f"kernel {self.taps}")
        words += [f"stride {self.stride}"] * (self.stride > 1)
        words += [f"dilation {self.dilation}"] * (self.dilation > 1)
        text = ", ".join(_kept_together(word) for word in words)
        return f"{text}: {_kept_together(_counted(self.outputs, 'output'))}"


@dataclass
class _Line:
    """The line of an axis's cells, some of them left out.

    Attributes:
        text: the characters.
        places: the (first, last + 1) digit of each place.
        gaps: (places left out, first character) of each gap.
    """

    text: str = ""
    places: dict[int, tuple[int, int]] = field(default_factory=dict)
    gaps: list[tuple[range, int]] = field(default_factory=list)

    def add(self, word: str) -> int:
        """Appends a word after a space, and returns the number of its first character."""
        self.text += " " * bool(self.text) + word
        return len(self.text) - len(word)

    def add_place(self, place: int, label: str) -> None:
        """Appends a place."""
        start = self.add(label)
        self.places[place] = (start, start + len(label.rstrip("'")))

    def add_gap(self, places: range) -> None:
        """Appends a gap for places that are left out."""
        self.gaps.append((places, self.add(_GAP)))


def picture(problem: Problem) -> str:
    """Returns the lines of :meth:`convkern.explain.explanation.Explanation.picture`, without a
    newline at the end. The images, channels and groups of the problem are of no matter."""
    rows, columns = (_axis(problem, axis) for axis in (0, 1))
    named = [("rows", rows), ("columns", columns)]
    if rows == columns:
        named = [("rows and columns", rows)]
    legend = textwrap.fill(_PASSES[problem.pass_], _WIDTH)
    return "\n".join([*(_drawn(name, axis) for name, axis in named), legend])


def _axis(problem: Problem, axis: int) -> _Axis:
    before, after = sides(problem.padding)[axis]
    return _Axis(
        cells=problem.input_size[2 + axis],
        before=before,
        after=after,
        taps=problem.weight_size[2 + axis],
        stride=problem.stride[axis],
        dilation=problem.dilation[axis],
        outputs=problem.output_size[2 + axis],
        mode=problem.padding_mode,
    )


def _drawn(name: str, axis: _Axis) -> str:
    """Returns the title of an axis, its cells and the marks of some outputs."""
    title = textwrap.fill(f"{name}: {axis.title()}", _WIDTH, subsequent_indent=_INDENT)
    title = title.replace("\N{NO-BREAK SPACE}", " ")
    outputs, line = _fitting(axis)
    marks = [
        f"{_marks(axis, line, output):{len(line.text)}}{_INDENT}output {output}"
        for output in outputs
    ]
    return "\n".join([title, *(_INDENT + text for text in (line.text, *marks))])


def _fitting(axis: _Axis) -> tuple[list[int], _Line]:
    """Returns outputs to mark and the line with as many cells as fit. Cells near the ends of the
    outputs' windows and near the edges are drawn first."""
    last = axis.outputs - 1
    most = _WIDTH - len(f"{_INDENT}{_INDENT}output {last}")
    edges = {-axis.before, 0, axis.cells - 1, axis.cells + axis.after - 1}
    outputs, few = sorted({0, min(1, last), last}), sorted({0, last})
    for marked, others in ((outputs, edges), (outputs, set[int]()), (few, set[int]())):
        ends = {end for o in marked for end in (axis.first(o), axis.last(o))}
        line = _line(axis, ends | others, 0)
        if len(line.text) <= most:
            break
    for radius in range(1, _WIDTH):
        wider = _line(axis, ends | others, radius)
        if len(wider.text) > most:
            break
        line = wider
    return marked, line


def _line(axis: _Axis, centers: set[int], radius: int) -> _Line:
    """Draws the places that are at most a radius from one of the centers, and gaps for the rest."""
    line = _Line()
    parts = [range(-axis.before, 0), range(axis.cells), range(axis.cells, axis.cells + axis.after)]
    for i, part in enumerate(parts):
        if i:
            line.add("|")
        place = part.start
        near = {p for c in centers for p in range(c - radius, c + radius + 1) if p in part}
        for shown in [*sorted(near), part.stop]:
            if shown - place == 1:  # a gap would hardly be shorter
                line.add_place(place, axis.label(place))
            elif shown > place:
                line.add_gap(range(place, shown))
            if shown < part.stop:
                line.add_place(shown, axis.label(shown))
            place = shown + 1
    return line


def _marks(axis: _Axis, line: _Line, output: int) -> str:
    """Returns the marks below a line: from the first to the last tap, or each tap if there are
    places between them that are not read."""
    marks = [" "] * len(line.text)
    if axis.dilation == 1:
        start, end = line.places[axis.first(output)][0], line.places[axis.last(output)][1]
        marks[start:end] = ["^", *"-" * (end - start - 2), "^"][: end - start]
        return "".join(marks)
    for place, (start, end) in line.places.items():
        if axis.reads(output, range(place, place + 1)):
            marks[start:end] = "^" * (end - start)
    for places, start in line.gaps:
        if axis.reads(output, places):
            marks[start : start + len(_GAP)] = _GAP
    return "".join(marks)


def _kept_together(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
