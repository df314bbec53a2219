"""The files of the package import each other downwards only: without circles, and never from the
library to what is built on it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import convkern

PACKAGE = Path(convkern.__file__).parent
# What is built on the library, and what each part may import besides the library.
PARTS = {
    "bench": [],
    "fashion_mnist": [],
    "fashion_mnist.study": ["fashion_mnist"],
    "cli": ["bench", "fashion_mnist", "fashion_mnist.study"],
}

# Packages of others that must be installed, and those of the extras.
REQUIRED = {"torch", "filelock"}
OPTIONAL = {
    "jinja2", "markupsafe", "matplotlib", "onnx", "onnxruntime", "onnxscript", "rich", "scipy",
    "torchvision",
}  # fmt: skip


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(path: Path) -> Iterator[str]:
    """The modules of the package that a file names in its imports, wherever they stand."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in FILES:
                    yield inner
                elif node.module in FILES and inner != "convkern._C":  # it is no file of Python
                    yield node.module


def folders_of(name: str) -> list[str]:
    """The packages that Python imports before a module, convkern itself left out: it is imported
    before any of its files."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(2, len(parts))]


@cache
def arrows(name: str) -> set[str]:
    """The files that run where `name` imports, those of the folders that it lies in left out: they
    run before it in any case, unless it takes something from them."""
    found = set()
    for other in imported(FILES[name]):
        found |= {other} | (set(folders_of(other)) - set(folders_of(name)))
    return found - {name}


def part_of(name: str) -> str | None:
    """The part of PARTS that a file belongs to; None for the library."""
    inner = name.removeprefix("convkern.")
    fitting = [part for part in PARTS if inner == part or inner.startswith(f"{part}.")]
    return max(fitting, key=len, default=None)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Files of which each imports the next and the last the first; empty if there are none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph[name]):
            if found := walk(other, [*path, name]):
                return found
        done.add(name)
        return []

    for name in graph:
        if found := walk(name, []):
            return found
    return []


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}
    assert circle(graph) == ["b", "c", "d", "b"]
    assert circle(graph | {"d": set()}) == []


def test_no_circle_of_files() -> None:
    assert circle({name: arrows(name) for name in FILES}) == []


@pytest.mark.parametrize("name", FILES)
def test_nothing_imports_upwards(name: str) -> None:
    part = part_of(name)
    allowed = {None, part, *PARTS.get(part or "", [])}
    if name == "convkern.__main__":
        allowed.add("cli")
    assert {other for other in arrows(name) if part_of(other) not in allowed} == set()


def test_the_layer_imports_neither_application_nor_command_line() -> None:
    """The files that `import convkern` runs."""
    loaded, left = set(), ["convkern"]
    while left:
        name = left.pop()
        if name not in loaded:
            loaded.add(name)
            left += arrows(name)
    assert {part_of(name) for name in loaded} == {None}
    assert "convkern.modules" in loaded


def foreign(name: str) -> set[str]:
    """The packages of others that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found - sys.stdlib_module_names - {"convkern"}


def test_only_packages_that_are_asked_for_are_imported() -> None:
    found = set().union(*map(foreign, FILES))
    assert found == REQUIRED | OPTIONAL
