"""The core and the CPU kernels on other processors, in an emulator: aarch64, and x86-64 with fewer
instruction sets than this machine. A kernel that uses more would be an illegal instruction."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from test_core_sanitizers import SMALL, check_kernels, problems

from core_program import CoreProgram
from shared_builds import Once

AARCH64 = "aarch64-linux-gnu-g++"


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


@pytest.mark.exhaustive
@needs(AARCH64, "qemu-aarch64")
def test_aarch64(tmp_path: Path) -> None:
    program = CoreProgram(tmp_path, compiler=AARCH64, static=True).build()
    check_kernels(program.run("kernels", "2", *problems(SMALL), before=["qemu-aarch64"]))


@pytest.fixture(scope="module")
def program(build_once: Once) -> CoreProgram:
    return CoreProgram(build_once("core_x86", lambda folder: CoreProgram(folder).build()))


@pytest.mark.exhaustive
@needs("g++", "qemu-x86_64")
@pytest.mark.parametrize(("cpu", "isa"), [("Nehalem", "baseline"), ("Haswell", "avx2")])
def test_x86_64_of_less(program: CoreProgram, cpu: str, isa: str) -> None:
    emulator = ["qemu-x86_64", "-cpu", cpu]
    done = program.run("kernels", "2", *problems(SMALL), before=emulator)
    check_kernels(done)
    assert re.match(rf"{isa}: ", done.stdout)
