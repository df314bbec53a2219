"""Plants faults in copies of the native sources: a program is compiled once with all of them, and a
run has the one that the variable PLANTED of its environment numbers, from 1, or none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_HEADER = """\
#include <cstdlib>
inline const int planted = [] {
  const char* number = std::getenv("PLANTED");
  return number == nullptr ? 0 : std::atoi(number);
}();
"""


@dataclass(frozen=True)
class Edit:
    """A piece of a file, statements or an expression, and another in its place.

    Attributes:
        file: relative to the folder that is edited.
        old: the piece.
        new: what is put in its place.
        within: the text around the piece, ``{}``, where the file has the piece several times.
    """

    file: str
    old: str
    new: str
    within: str = "{}"

    @property
    def place(self) -> str:
        return self.within.replace("{}", self.old)

    def replaced_in(self, text: str, new: str) -> str:
        return text.replace(self.place, self.within.replace("{}", new))

    def apply(self, folder: Path) -> None:
        """Replaces the piece, which the file must have once."""
        source = folder / self.file
        text = source.read_text()
        assert text.count(self.place) == 1, self
        source.write_text(self.replaced_in(text, self.new))

    def choice(self, number: int) -> str:
        """Returns code that is the new piece in a run with the fault of that number, else the
        old."""
        if self.old.endswith((";", "\n")):
            return f"if (planted == {number}) {{ {self.new} }} else {{ {self.old} }}"
        return f"(planted == {number} ? {self.new} : {self.old})"


def plant(folder: Path, faults: Sequence[Edit], header: Path) -> None:
    """Plants the faults in the files of the folder, which must have each piece once, and writes the
    header that compilers of the files must include first."""
    originals = {fault.file: (folder / fault.file).read_text() for fault in faults}
    texts = dict(originals)
    # Long pieces come first. A short one within them is then found in both of their versions.
    for fault in sorted(faults, key=lambda f: len(f.place), reverse=True):
        assert originals[fault.file].count(fault.place) == 1, fault
        choice = fault.choice(1 + faults.index(fault))
        texts[fault.file] = fault.replaced_in(texts[fault.file], choice)
    for file, text in texts.items():
        # What is chosen when a program starts is no constant of the compiler's.
        chosen = re.sub(r"\bconstexpr (\w+ \w+ = \(planted\b)", r"inline const \1", text)
        (folder / file).write_text(chosen)
    header.write_text(_HEADER)
