"""Builds the CUDA kernels for the simulator (tests/cuda/simulator) and runs them on torch
tensors."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from convkern.problem import DTYPES
from convkern.testing import Operands
from folders import CSRC, SIMULATOR

SCHEDULES = (0, 1, 7)  # ascending, descending, shuffled
_FLAGS = [
    "-std=c++20", "-g1", "-fPIC", "-Wall", "-Werror", "-Wno-unknown-pragmas",
    "-DCONVKERN_SIMULATOR",
]  # fmt: skip


_SANITIZERS = {
    "": (),
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    "thread": ("-fsanitize=thread",),
}


class BuildError(RuntimeError):
    """The compiler failed. The text has its messages."""


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise BuildError(done.stderr)


@dataclass(frozen=True)
class Objects:
    """The kernels of a source tree and the simulator, compiled. `sanitizer` is "address" (which
    also finds undefined behaviour), "thread" or ""."""

    folder: Path
    csrc: Path = CSRC
    sanitizer: str = ""

    def compile(self, *, only: str = "", level: str = "-O1") -> Objects:
        """Compiles all sources, or those with the name `only`.

        Raises:
            BuildError: the compiler failed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        core = (self.csrc / "core").glob("*.cpp")
        cuda = [p for p in (self.csrc / "cuda").rglob("*") if p.suffix in (".cpp", ".cu")]
        kernels = [p for p in cuda if p.name != "library.cpp"]  # library.cpp names a toolkit
        sources = sorted([*core, *kernels, *SIMULATOR.glob("*.cpp")])
        with ThreadPoolExecutor(max_workers=2) as pool:
            chosen = [source for source in sources if only in ("", source.name)]
            list(pool.map(lambda source: self._compile(source, level), chosen))
        self._link("program")
        return self

    def _compile(self, source: Path, level: str) -> None:
        _run(
            "g++", level, *_FLAGS, *_SANITIZERS[self.sanitizer], f"-I{self.csrc}", f"-I{SIMULATOR}",
            "-x", "c++", "-c", str(source), "-o", str(self.folder / f"{source.name}.o"),
        )  # fmt: skip

    def with_kernels(self, folder: Path, csrc: Path, changed: str) -> Objects:
        """Returns these objects with the source `changed` compiled from another tree, or with all
        sources if it is empty. One source is compiled without optimisation, which would take longer
        than the few problems that run with it."""
        shutil.copytree(self.folder, folder)
        level = "-O0" if changed else "-O1"
        return Objects(folder, csrc, self.sanitizer).compile(only=changed, level=level)

    def _link(self, name: str, *flags: str) -> None:
        objects = sorted(str(p) for p in self.folder.glob("*.o"))
        _run("g++", *flags, *_SANITIZERS[self.sanitizer], *objects, "-o", str(self.folder / name))

    @property
    def library(self) -> Path:
        return self.folder / "libconvkern_simulator.so"

    def link_library(self) -> Path:
        self._link(self.library.name, "-shared")
        return self.library

    def run_program(
        self, algorithm: str, problems: Sequence[str]
    ) -> subprocess.CompletedProcess[str]:
        """Runs the algorithm's kernels on the problems and compares them with the plain sum; see
        program.cpp."""
        return subprocess.run(
            [str(self.folder / "program"), algorithm, *problems],
            env={**os.environ, "TSAN_OPTIONS": "halt_on_error=1"},
            capture_output=True,
            text=True,
        )


class SimulatorError(RuntimeError):
    """A kernel did what it must not do."""


@dataclass(frozen=True)
class DirectPlan:
    """The part that a block of a direct kernel has: `channels` channels in each of `images`
    images."""

    images: int
    channels: int
    threads: int
    used_threads: int
    shared_bytes: int


class Simulator:
    """The kernels of a library that `Objects` built."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        for name in (
            "convkern_kernel_name",
            "convkern_kernel_pass",
            "convkern_kernel_algorithm",
            "convkern_kernel_dtype",
            "convkern_rejection",
            "convkern_run",
            "convkern_broken_primitive",
        ):
            getattr(self._library, name).restype = ctypes.c_char_p
        for name in (
            "convkern_workspace",
            "convkern_correlation_splits",
            "convkern_weight_splits",
        ):
            getattr(self._library, name).restype = ctypes.c_int64
        self._library.convkern_fits_int32.restype = ctypes.c_bool

    def kernels(self) -> list[str]:
        names: list[str] = []
        while (name := self._library.convkern_kernel_name(len(names))) is not None:
            names.append(name.decode())
        return names

    def fields(self, kernel: str) -> tuple[str, str, str]:
        """Returns the kernel's pass, algorithm and dtype."""
        name = kernel.encode()
        return (
            self._library.convkern_kernel_pass(name).decode(),
            self._library.convkern_kernel_algorithm(name).decode(),
            self._library.convkern_kernel_dtype(name).decode(),
        )

    def rejection(self, kernel: str, problem: str) -> str:
        """Returns why the kernel does not run the problem, or "" if it runs it."""
        reason: bytes = self._library.convkern_rejection(kernel.encode(), problem.encode())
        return reason.decode()

    def tile_columns(
        self, *, pixels: int, columns: int, groups: int = 1, multiprocessors: int = 132
    ) -> int:
        """Returns the width of the tile that implicit_gemm chooses for forward and grad_input."""
        sizes = (ctypes.c_int64(n) for n in (pixels, columns, groups))
        chosen: int = self._library.convkern_tile_columns(*sizes, multiprocessors)
        return chosen

    def correlation_splits(
        self, *, pixels: int, columns: int, steps: int, groups: int = 1, bytes_: int = 1
    ) -> int:
        """Returns into how many parts, of at least 4 steps each, implicit_gemm splits the terms of
        forward and grad_input."""
        sizes = (ctypes.c_int64(n) for n in (pixels, columns, groups, steps, 4, bytes_))
        splits: int = self._library.convkern_correlation_splits(*sizes)
        return splits

    def weight_splits(self, *, pixels: int, blocks: int, bytes_: int = 1) -> int:
        """Returns into how many parts implicit_gemm splits the pixels of grad_weight."""
        sizes = (ctypes.c_int64(n) for n in (pixels, blocks, bytes_))
        splits: int = self._library.convkern_weight_splits(*sizes)
        return splits

    def direct_plan(self, problem: str) -> DirectPlan:
        """Returns the blocks that direct chooses for the problem, or for the first part of its
        pass."""
        sizes = (ctypes.c_int * 5)()
        self._library.convkern_direct_plan(problem.encode(), sizes)
        return DirectPlan(*sizes)

    def broken_primitive(self) -> str:
        """Returns which of the simulator's shuffles, ballots and barriers is wrong, or "" if none
        is."""
        name: bytes = self._library.convkern_broken_primitive()
        return name.decode()

    def fits_int32(self, problem: str) -> bool:
        fits: bool = self._library.convkern_fits_int32(problem.encode())
        return fits

    def run(self, kernel: str, ops: Operands, schedule: int = 0) -> Tensor:
        """Returns the result of the problem's pass by a kernel.

        Raises:
            SimulatorError: the kernel did something wrong, which the message says.
        """
        problem = ops.problem
        names = {"fwd": "output_size", "gx": "input_size", "gw": "weight_size"}
        size = getattr(problem, names[problem.pass_])
        layout = torch.channels_last if problem.layout == "nhwc" else torch.contiguous_format
        out = torch.full(size, torch.nan, dtype=DTYPES[problem.dtype])
        out = out if problem.pass_ == "gw" else out.contiguous(memory_format=layout)
        text = str(problem).encode()
        bytes_ = self._library.convkern_workspace(kernel.encode(), text)
        workspace = torch.full((bytes_ // 4,), torch.nan)

        def address(tensor: Tensor | None) -> ctypes.c_void_p:
            return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())

        error: bytes = self._library.convkern_run(
            kernel.encode(), text, schedule, address(ops.x), address(ops.w.contiguous()),
            address(ops.b), address(ops.gy), address(out), address(workspace),
        )  # fmt: skip
        if error:
            raise SimulatorError(error.decode())
        return out
