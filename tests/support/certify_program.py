"""Builds the program of tests/kernels/certify, which runs the CPU kernels on integers modulo a
prime, and plants faults in its kernels."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from folders import CSRC, KERNEL_TESTS, SIMULATOR
from planted import Edit, plant

SOURCES = KERNEL_TESTS / "certify"
# Each unit has the CPU kernels of one dtype and instruction set. CUDA has the kernels that run in
# the simulator.
UNITS = tuple(sorted(path.stem for path in (SOURCES / "kernels").glob("*.cpp")))
CUDA = "cuda"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class Certified:
    """The outcome that a run of the program prints."""

    returncode: int
    output: str
    errors: str
    problems: int
    runs: int
    kernels: int
    faults: int

    def has_all_periods_of_fft(self) -> bool:
        """Returns whether every size of its transforms has run in each pass, along rows and along
        columns, with a whole image in a period and with tiles."""
        return re.search(r"^fft: (\d+) of \1 periods$", self.output, re.M) is not None


# These edits shrink the blocks that fill a cache or make long sums precise. Small problems then
# have several blocks of everything.
SMALL_BLOCKS = [
    Edit("blocking/tasks-inl.h", "kBandBytes = 384 << 10", "kBandBytes = 2 << 10"),
    Edit("blocking/tasks-inl.h", "kAccumulatorBytes = 1 << 20", "kAccumulatorBytes = 2 << 10"),
    Edit("blocking/tasks-inl.h", "kPartialBytes = 4 << 20", "kPartialBytes = 32 << 10"),
    Edit("tiles/correlation-inl.h", "kBlockProducts = 256", "kBlockProducts = 20"),
    Edit("tiles/matmul-inl.h", "kMostBlock = 128", "kMostBlock = 18"),
    Edit("blocking/pixels-inl.h", "sizeof(Real) % 4096", "sizeof(Real) % 128"),
    Edit("algos/columnlane/row_buffers-inl.h", "kSliceChannels = 16", "kSliceChannels = 3"),
    Edit("algos/channellane/shared-inl.h", "kFetchedNumbers = 4 << 20", "kFetchedNumbers = 1 << 8"),
    Edit("algos/channellane/strips-inl.h", "kStripOutputs = 16", "kStripOutputs = 3"),
    Edit("algos/implicit_gemm/correlate-inl.h", "kBandPixels = 512", "kBandPixels = 16"),
    Edit("algos/implicit_gemm/correlate-inl.h", "kLeastBandPixels = 64", "kLeastBandPixels = 4"),
    Edit("blocking/bands-inl.h", "kLeastBandColumns = 128", "kLeastBandColumns = 3"),
    Edit(
        "algos/implicit_gemm/correlate-inl.h", "kBandFloats = (1 << 20)", "kBandFloats = (1 << 11)"
    ),
    Edit("blocking/panels-inl.h", "kBlockRows = 1152", "kBlockRows = 20"),
    Edit(
        "algos/implicit_gemm/grad_weight-inl.h",
        "kAccumulatorFloats = 1 << 16",
        "kAccumulatorFloats = 1 << 9",
    ),
    Edit("algos/implicit_gemm/grad_weight-inl.h", "kSlabFloats = 1 << 16", "kSlabFloats = 1 << 8"),
    Edit("algos/implicit_gemm/grad_weight-inl.h", "kBandColumns = 1 << 8", "kBandColumns = 18"),
    Edit("algos/implicit_gemm/grad_weight-inl.h", "p.C > 128", "p.C > 8"),
    Edit("algos/skinny_gemm/matrices-inl.h", "kBlockRows = 96", "kBlockRows = 5"),
    Edit("algos/skinny_gemm/matrices-inl.h", "kGatheredFloats = 3 << 14", "kGatheredFloats = 96"),
    Edit("algos/skinny_gemm/weights-inl.h", "kBufferTaps = 64", "kBufferTaps = 5"),
    Edit("algos/skinny_gemm/correlate-inl.h", "kProducts = 64 * kLanes", "kProducts = 2 * kLanes"),
    Edit("algos/skinny_gemm/correlate-inl.h", "kSmall = 1 << 13", "kSmall = 1 << 6"),
    Edit("algos/skinny_gemm/grad_weight-inl.h", "kSliceFloats = 1 << 17", "kSliceFloats = 1 << 8"),
    Edit("algos/winograd/correlate-inl.h", "kTileBytes = 768 << 10", "kTileBytes = 12 << 10"),
    Edit("algos/winograd/correlate-inl.h", "kTapFloats = 1 << 20", "kTapFloats = 1 << 12"),
    Edit("algos/winograd/correlate-inl.h", "kBandTiles = 64", "kBandTiles = 6"),
    Edit("algos/winograd/correlate-inl.h", "kTransformedTerms = 64", "kTransformedTerms = 8"),
    Edit("algos/winograd/grad_weight-inl.h", "kSliceChannels = 64", "kSliceChannels = 8"),
    Edit("algos/winograd/grad_weight-inl.h", "kGradWeightTiles = 64", "kGradWeightTiles = 6"),
    Edit("algos/fft/spectra-inl.h", "kBandRows = 4", "kBandRows = 2"),
    Edit("fft_size.cpp", "kChunkUnits = 4", "kChunkUnits = 1"),
]


@dataclass(frozen=True)
class CertifyProgram:
    """The program in a folder, with the kernels of the units."""

    folder: Path
    units: Sequence[str] = UNITS

    def build(self) -> CertifyProgram:
        """Compiles and links it. A failed assertion has the compiler's messages."""
        self.folder.mkdir(parents=True, exist_ok=True)
        program = [*SOURCES.glob("*.cpp"), *(CSRC / "core").glob("*.cpp")]
        return self._compile([*self._kernels(CSRC), *program], CSRC)

    def edited(
        self, folder: Path, edits: Sequence[Edit], faults: Sequence[Edit] = ()
    ) -> CertifyProgram:
        """Returns this program with edited kernels. The faults are expressions that run() may
        replace by wrong ones."""
        shutil.copytree(self.folder, folder)
        shutil.copytree(CSRC, folder / "csrc")
        for edit in edits:
            edit.apply(folder / "csrc" / "cpu")
        header = folder / "planted.h"
        plant(folder / "csrc" / "cpu", faults, header)
        program = CertifyProgram(folder, self.units)
        sources = self._kernels(folder / "csrc")
        return program._compile(sources, folder / "csrc", "-include", str(header))

    def _kernels(self, csrc: Path) -> list[Path]:
        """Returns the sources of the kernels, with what those of the CPU share."""
        shared = [csrc / "cpu" / "choice.cpp", csrc / "cpu" / "fft_size.cpp"]
        if self.units == [CUDA]:
            of_simulator = [SIMULATOR / "simulator.cpp", SIMULATOR / "fiber.cpp"]
            return [*(SOURCES / "cuda").glob("*.cpp"), *of_simulator, *shared]
        return [*(SOURCES / "kernels" / f"{unit}.cpp" for unit in self.units), *shared]

    def _compile(self, sources: Sequence[Path], csrc: Path, *flags: str) -> CertifyProgram:
        def compiled(source: Path) -> None:
            # The algorithms would take minutes to optimise. Only the arithmetic, which takes most
            # of the time, is optimised.
            level = "-O0" if source.parent.name == "kernels" else "-O2"
            _run(
                "g++", "-std=c++20", level, "-Wall", "-Werror", "-D_GLIBCXX_ASSERTIONS", *flags,
                "-Wno-unknown-pragmas", "-DCONVKERN_SIMULATOR",
                f"-I{csrc}", f"-I{SIMULATOR}", f"-I{SOURCES}",
                "-c", str(source), "-o", str(self.folder / f"{source.name}.o"),
            )  # fmt: skip

        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(compiled, sources))
        objects = sorted(str(path) for path in self.folder.glob("*.o"))
        _run("g++", *objects, "-o", str(self.folder / "certify"))
        return self

    def run(
        self,
        problems: range = range(0),
        given: Sequence[str] = (),
        *,
        seed: int = 0,
        fault: int = 0,
    ) -> Certified:
        """Certifies the random problems with these numbers and the given problems. `fault` is the
        number of the fault to switch on, from 1, or none."""
        done = subprocess.run(
            [
                str(self.folder / "certify"),
                str(seed),
                str(problems.start),
                str(problems.stop),
                *given,
            ],
            env={**os.environ, "PLANTED": str(fault)},
            capture_output=True,
            text=True,
        )
        pattern = r"(\d+) problems, (\d+) runs of (\d+) kernels, (\d+) faults"
        found = re.search(pattern, done.stdout)
        assert found is not None, done.stdout + done.stderr
        return Certified(
            done.returncode, done.stdout, done.stderr, *(int(n) for n in found.groups())
        )
