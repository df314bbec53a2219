"""Builds the program of tests/kernels/core, which needs no torch, with a sanitizer or for another
processor."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from folders import CSRC, KERNEL_TESTS, ROOT

SOURCES = ("tests/kernels/core/*.cpp", "csrc/core/*.cpp", "csrc/cpu/*.cpp", "csrc/cpu/isa/*.cpp")
SANITIZERS = {
    "": (),
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    "thread": ("-fsanitize=thread",),
    "fuzzer": ("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined"),
}


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class CoreProgram:
    """The program in a folder. `portable` leaves out the kernels for x86-64's instruction sets,
    which take minutes to compile. `static` needs no libraries of another processor to run."""

    folder: Path
    sanitizer: str = ""
    portable: bool = False
    level: str = "-O1"
    compiler: str = "g++"
    static: bool = False

    @property
    def path(self) -> Path:
        return self.folder / "check_core"

    def build(self) -> CoreProgram:
        """Compiles and links it. A failed assertion has the compiler's messages."""
        self.folder.mkdir(parents=True, exist_ok=True)
        sources = sorted(path for pattern in SOURCES for path in ROOT.glob(pattern))
        if self.sanitizer == "fuzzer":  # libFuzzer has its own main
            sources.remove(KERNEL_TESTS / "core" / "main.cpp")
        with ThreadPoolExecutor(max_workers=2) as pool:
            objects = list(pool.map(self._compile, sources))
        flags = [*SANITIZERS[self.sanitizer], *["-static"] * self.static]
        _run(self.compiler, *flags, *objects, "-pthread", "-o", str(self.path))
        return self

    def _compile(self, source: Path) -> str:
        out = str(self.folder / f"{source.name}.o")
        _run(
            self.compiler, "-std=c++20", self.level, "-g1", "-Wall", "-Werror", "-Wno-psabi",
            *SANITIZERS[self.sanitizer], *["-DCONVKERN_PORTABLE"] * self.portable,
            f"-I{CSRC}", "-c", str(source), "-o", out,
        )  # fmt: skip
        return out

    def run(self, *arguments: str, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Runs the program. `before` is a program that runs others, such as an emulator."""
        return subprocess.run(
            [*before, str(self.path), *arguments],
            env={**os.environ, "TSAN_OPTIONS": "halt_on_error=1"},
            capture_output=True,
            text=True,
        )
