"""Runs the code blocks in README.md and docs/ as a reader would."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from convkern import _C
from folders import ROOT

README, DOCS = ROOT / "README.md", ROOT / "docs"

_FENCE = re.compile(r"^( *)```(\w+)([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def _has_cuda() -> bool:
    return _C.build_info()["cuda"] is not None


def _has_onnx() -> bool:
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript"))


# A block's first line may ask for one of these. Without it, the block is only compiled.
NEEDS: dict[str, Callable[[], bool]] = {
    "# needs a GPU": lambda: torch.cuda.is_available() and _has_cuda(),
    "# needs a build with CUDA": _has_cuda,
    "# needs onnx and onnxscript": _has_onnx,
}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the rest of its first line, its text, and the file and line."""

    language: str
    options: str
    text: str
    path: Path
    line: int

    @property
    def quoted_from(self) -> str | None:
        """The file that the block quotes, if its title names one."""
        title = re.search(r'title="([^"]*/[^"]*)"', self.options)
        return title[1] if title else None

    def code(self) -> Any:
        # The blank lines make a traceback give the line in the document.
        return compile("\n" * self.line + self.text, str(self.path), "exec")

    def runs_here(self) -> bool:
        return NEEDS.get(self.text.partition("\n")[0], lambda: True)()


def blocks(path: Path, language: str) -> list[Block]:
    text = path.read_text()
    return [
        Block(m[2], m[3], re.sub(rf"^{m[1]}", "", m[4], flags=re.MULTILINE), path,
              text.count("\n", 0, m.start()) + 1)
        for m in _FENCE.finditer(text)
        if m[2] == language
    ]  # fmt: skip


def printed(block: Block, names: dict[str, Any]) -> str:
    """Runs a block in the namespace `names` and returns what it printed. Checks that it prints what
    its comments say, as in `print(x)  # 3`."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(block.code(), names)
    lines = out.getvalue().splitlines()
    said = re.findall(r"^ *(?:print\(.*)?\)  # (.*)$", block.text, re.MULTILINE)
    where = iter(lines)
    missing = [line for line in said if line not in where]  # in this order
    assert not missing, f"{block.path}:{block.line}: not printed: {missing}; printed: {lines}"
    return out.getvalue()


def run_all(python: Iterable[Block]) -> tuple[int, int]:
    """Runs blocks in one namespace. Returns how many ran, and how many were only compiled."""
    names: dict[str, Any] = {"__name__": "__main__"}
    ran = compiled = 0
    for block in python:
        if block.runs_here():
            printed(block, names)
            ran += 1
        else:
            block.code()
            compiled += 1
    return ran, compiled
