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
from planted import Edit, plant

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
    """The compiler's messages."""


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

    def compile(self) -> Objects:
        """Compiles all sources.

        Raises:
            BuildError: the compiler failed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        core = (self.csrc / "core").glob("*.cpp")
        return self._compile(sorted([*core, *self._kernels(), *SIMULATOR.glob("*.cpp")]), "-O1")

    def with_faults(self, folder: Path, faults: Sequence[Edit]) -> Objects:
        """Returns these objects with all faults, of which a run may have one; see run_program().
        The kernels are compiled again, without optimisation, which would take longer than the few
        problems that run with it."""
        shutil.copytree(self.folder, folder)
        tree = folder / "csrc"
        shutil.copytree(CSRC, tree)
        header = folder / "planted.h"
        plant(tree / "cuda", faults, header)
        planted = Objects(folder, tree, self.sanitizer)
        # library.cpp has inline functions of the kernels' headers.
        sources = [*planted._kernels(), SIMULATOR / "library.cpp"]
        return planted._compile(sources, "-O0", "-include", str(header))

    def _kernels(self) -> list[Path]:
        cuda = [p for p in (self.csrc / "cuda").rglob("*") if p.suffix in (".cpp", ".cu")]
        return sorted(p for p in cuda if p.name != "library.cpp")  # it names a toolkit

    def _compile(self, sources: Sequence[Path], level: str, *flags: str) -> Objects:
        def compiled(source: Path) -> None:
            _run(
                "g++", level, *_FLAGS, *_SANITIZERS[self.sanitizer], *flags, f"-I{self.csrc}",
                f"-I{SIMULATOR}", "-x", "c++", "-c", str(source),
                "-o", str(self.folder / f"{source.name}.o"),
            )  # fmt: skip

        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(compiled, sources))
        self._link(self.folder / "program")
        return self

    def _link(self, path: Path, *flags: str) -> None:
        objects = sorted(str(p) for p in self.folder.glob("*.o"))
        _run("g++", *flags, *_SANITIZERS[self.sanitizer], *objects, "-o", str(path))

    @property
    def library(self) -> Path:
        return self.folder / "libconvkern_simulator.so"

    def link_library(self, folder: Path | None = None) -> Path:
        """The library that :class:`Simulator` loads, in the folder or that of the objects."""
        path = (folder or self.folder) / self.library.name
        self._link(path, "-shared")
        return path

    def run_program(
        self, algorithm: str, problems: Sequence[str], *, fault: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Runs the algorithm's kernels on the problems and compares them with the plain sum; see
        program.cpp. Objects made by with_faults() have the fault of that number, from 1."""
        return subprocess.run(
            [str(self.folder / "program"), algorithm, *problems],
            env={**os.environ, "TSAN_OPTIONS": "halt_on_error=1", "PLANTED": str(fault)},
            capture_output=True,
            text=True,
        )


class SimulatorError(RuntimeError):
    """A kernel did what it must not do."""


@dataclass(frozen=True)
class DirectPlan:
    """What a block of a direct kernel has: `images` of `channels` channels each."""

    images: int
    channels: int
    threads: int
    used_threads: int
    shared_bytes: int


class Simulator:
    """The kernels of a library that `Objects` made."""

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
        """The kernel's pass, algorithm and dtype."""
        name = kernel.encode()
        return (
            self._library.convkern_kernel_pass(name).decode(),
            self._library.convkern_kernel_algorithm(name).decode(),
            self._library.convkern_kernel_dtype(name).decode(),
        )

    def rejection(self, kernel: str, problem: str) -> str:
        """Why the kernel does not run the problem; empty if it does."""
        reason: bytes = self._library.convkern_rejection(kernel.encode(), problem.encode())
        return reason.decode()

    def tile_columns(
        self, *, pixels: int, columns: int, groups: int = 1, multiprocessors: int = 132
    ) -> int:
        """The width of the tile that implicit_gemm chooses for forward and grad_input."""
        sizes = (ctypes.c_int64(n) for n in (pixels, columns, groups))
        chosen: int = self._library.convkern_tile_columns(*sizes, multiprocessors)
        return chosen

    def correlation_splits(
        self, *, pixels: int, columns: int, steps: int, groups: int = 1, bytes_: int = 1
    ) -> int:
        """Into how many parts, of 4 steps or more, implicit_gemm splits the terms of forward and
        grad_input."""
        sizes = (ctypes.c_int64(n) for n in (pixels, columns, groups, steps, 4, bytes_))
        splits: int = self._library.convkern_correlation_splits(*sizes)
        return splits

    def weight_splits(self, *, pixels: int, blocks: int, bytes_: int = 1) -> int:
        """Into how many parts implicit_gemm splits the pixels of grad_weight."""
        sizes = (ctypes.c_int64(n) for n in (pixels, blocks, bytes_))
        splits: int = self._library.convkern_weight_splits(*sizes)
        return splits

    def direct_plan(self, problem: str) -> DirectPlan:
        """The blocks that direct chooses for the problem, or for the first part of its pass."""
        sizes = (ctypes.c_int * 5)()
        self._library.convkern_direct_plan(problem.encode(), sizes)
        return DirectPlan(*sizes)

    def broken_primitive(self) -> str:
        """Which of the simulator's own shuffles, ballots and barriers is wrong; empty if none."""
        name: bytes = self._library.convkern_broken_primitive()
        return name.decode()

    def fits_int32(self, problem: str) -> bool:
        fits: bool = self._library.convkern_fits_int32(problem.encode())
        return fits

    def run(self, kernel: str, ops: Operands, schedule: int = 0) -> Tensor:
        """The problem's pass by a kernel.

        Raises:
            SimulatorError: what the kernel did wrong.
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
            address(ops.b), address(ops.gy), address(ops.residual), address(out),
            address(workspace),
        )  # fmt: skip
        if error:
            raise SimulatorError(error.decode())
        return out
