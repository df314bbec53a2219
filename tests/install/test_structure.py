"""The files of the package import each other downwards only: there are no circles, and the library
imports nothing that is built on it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import convkern

PACKAGE = Path(convkern.__file__).parent
# The parts that are built on the library, with the other parts that each may import.
PARTS = {
    "bench": [],
    "fashion_mnist": [],
    "fashion_mnist.study": ["fashion_mnist"],
    "cli": ["bench", "fashion_mnist", "fashion_mnist.study"],
}

# Required packages of others, and those of the extras.
REQUIRED = {"torch", "filelock"}
OPTIONAL = {
    "jinja2", "markupsafe", "matplotlib", "onnx", "onnxruntime", "onnxscript", "openvino", "rich",
    "scipy", "torchvision",
}  # fmt: skip


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(path: Path) -> Iterator[str]:
    """Yields the modules of the package that a file imports, anywhere in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in FILES:
                    yield inner
                elif node.module in FILES and inner != "convkern._C":  # _C is no Python file
                    yield node.module


def folders_of(name: str) -> list[str]:
    """Returns the packages that Python imports before a module. convkern itself is left out,
    because it is imported before any of its files."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(2, len(parts))]


@cache
def arrows(name: str) -> set[str]:
    """Returns the files that run when `name` is imported. Its own packages run before it in any
    case, so they are left out unless it imports something from them."""
    found = set()
    for other in imported(FILES[name]):
        found |= {other} | (set(folders_of(other)) - set(folders_of(name)))
    return found - {name}


def part_of(name: str) -> str | None:
    """Returns the part in PARTS that a file belongs to, or None for the library."""
    inner = name.removeprefix("convkern.")
    fitting = [part for part in PARTS if inner == part or inner.startswith(f"{part}.")]
    return max(fitting, key=len, default=None)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Returns files that import each other in a circle, or none."""
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
    """Checks the files that `import convkern` runs."""
    loaded, left = set(), ["convkern"]
    while left:
        name = left.pop()
        if name not in loaded:
            loaded.add(name)
            left += arrows(name)
    assert {part_of(name) for name in loaded} == {None}
    assert "convkern.modules" in loaded


def foreign(name: str) -> set[str]:
    """Returns the packages of others that a file imports."""
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
