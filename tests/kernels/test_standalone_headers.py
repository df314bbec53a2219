"""Every header of the native code compiles on its own. It can therefore be read, and opened in an
editor, without knowing what was included before it. The bindings' headers need torch, so only the
build compiles them."""

from __future__ import annotations

import platform
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from folders import CSRC, SIMULATOR

PRELUDE = "cpu/simd/prelude.h"
HEADERS = sorted(
    str(path.relative_to(CSRC))
    for folder in ("include", "library", "core", "cpu", "cuda")
    for path in (CSRC / folder).rglob("*.*h")
    if platform.machine() == "x86_64" or not re.search("avx|f16c|bf16", path.name)
)
# The headers that are compiled for an instruction set.
IN_REGIONS = [
    name
    for name in HEADERS
    if name.endswith("-inl.h")
    or (name.startswith("cpu/simd/") and re.search("/(vec|real|half|product)", name))
]


def _included(header: str) -> list[str]:
    return re.findall(r"^#include (\S+)", (CSRC / header).read_text(), re.MULTILINE)


def _compile(*arguments: str) -> str:
    command = [
        "g++", "-std=c++20", "-Wall", "-Werror", "-Wno-psabi", "-Wno-unused-function",
        "-Wno-unknown-pragmas", "-DCONVKERN_SIMULATOR", f"-I{CSRC}", f"-I{CSRC}/include",
        f"-I{SIMULATOR}", *arguments,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True).stderr


@pytest.mark.parametrize("header", IN_REGIONS)
def test_files_of_a_region_include_the_prelude_and_each_other_only(header: str) -> None:
    """The prelude therefore comes first wherever one of them is included, and nothing else is
    compiled for the instruction set."""
    allowed = {f'"{name}"' for name in [*IN_REGIONS, PRELUDE]} | {
        "CONVKERN_VEC",
        "CONVKERN_PRODUCT",
    }
    included = _included(header)
    assert included
    assert set(included) <= allowed


def test_every_header_compiles_on_its_own(tmp_path: Path) -> None:
    prelude = tmp_path / "prelude.h"
    assert _compile("-w", "-x", "c++-header", str(CSRC / PRELUDE), "-o", f"{prelude}.gch") == ""

    def errors(header: str) -> str:
        source = tmp_path / (header.replace("/", "_") + ".cpp")
        source.write_text(f'#include "{header}"\n')
        # Files of a region include the prelude themselves. Here it is compiled once in advance to
        # save time.
        before = ["-include", str(prelude)] if header in IN_REGIONS else []
        return _compile("-fsyntax-only", *before, str(source))

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(HEADERS, pool.map(errors, HEADERS), strict=True))
    assert {header: text for header, text in found.items() if text} == {}
