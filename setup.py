"""Builds the native extension convkern._C.

Metadata needs no torch: torch is imported only when something is compiled. CONVKERN_CUDA chooses
the CUDA backend: "auto" (the default) builds it where nvcc is found and torch has CUDA, "1"
insists, "0" leaves it out. No GPU is needed to build.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
DEFAULT_CUDA_ARCHITECTURES = "8.0;8.6;8.9;9.0;10.0+PTX"


def sources(*folders: str, suffixes: tuple[str, ...] = (".cpp",)) -> list[str]:
    """Every source file below csrc/<folder>, relative to the project, in a fixed order."""
    found = [p for folder in folders for p in (ROOT / "csrc" / folder).rglob("*")]
    return sorted(str(p.relative_to(ROOT)) for p in found if p.suffix in suffixes)


def cuda_toolkit() -> Path | None:
    """The CUDA toolkit's folder, or None without nvcc. The nvcc on PATH may be a wrapper script,
    so nvcc itself is asked where it lives."""
    home = os.environ.get("CUDA_HOME")
    nvcc = str(Path(home, "bin", "nvcc")) if home else shutil.which("nvcc")
    if nvcc is None:
        return None
    dryrun = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True)
    top = re.search(r"^#\$ TOP=(.+)$", dryrun.stderr, re.MULTILINE)
    return Path(top.group(1).strip()).resolve() if top else None


class BuildNative(build_ext):
    """Configures the extension with torch's build helpers, then builds it as they do."""

    def run(self) -> None:
        try:
            import torch
        except ImportError:
            sys.exit(
                "convkern: building needs torch, and it is not installed in this environment.\n"
                "convkern: run `pip install torch`, then install with --no-build-isolation."
            )
        self.with_cuda = self.wants_cuda(torch.version.cuda)
        from torch.utils import cpp_extension

        make = cpp_extension.CUDAExtension if self.with_cuda else cpp_extension.CppExtension
        extension = make(
            "convkern._C",
            sources=sources("core", "cpu", "bindings")
            + (sources("cuda", suffixes=(".cpp", ".cu")) if self.with_cuda else []),
            include_dirs=[str(ROOT / "csrc"), *self.cuda_headers(torch)],
            define_macros=self.macros(torch),
            extra_compile_args={
                # at::parallel_for is a header that is serial without OpenMP. The library is not
                # linked: its symbols come with libtorch_cpu, whose copy has torch's threads.
                # psabi is about calls of functions that are all inlined.
                "cxx": ["-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wno-psabi", "-fopenmp"],
                "nvcc": ["-O3"],
            },
        )
        self.distribution.ext_modules = [extension]
        command = cpp_extension.BuildExtension(self.distribution)
        for option in ("inplace", "editable_mode", "build_lib", "build_temp"):
            setattr(command, option, getattr(self, option))
        command.ensure_finalized()
        command.run()

    def wants_cuda(self, torch_cuda: str | None) -> bool:
        choice = os.environ.get("CONVKERN_CUDA", "auto")
        if choice not in ("auto", "0", "1"):
            sys.exit(f"convkern: CONVKERN_CUDA must be auto, 0 or 1, got {choice!r}")
        if choice == "0":
            return False
        toolkit = cuda_toolkit()
        if toolkit is not None and torch_cuda is not None:
            os.environ["CUDA_HOME"] = str(toolkit)
            chosen = os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_CUDA_ARCHITECTURES)
            older = [v for v in re.findall(r"\d+\.\d+", chosen) if float(v) < 8]
            if older:
                sys.exit(
                    "convkern: the CUDA kernels need compute capability 8.0 or later, got "
                    f"TORCH_CUDA_ARCH_LIST={chosen}"
                )
            return True
        missing = "nvcc (set CUDA_HOME or PATH)" if toolkit is None else "a torch built with CUDA"
        if choice == "1":
            sys.exit(f"convkern: CONVKERN_CUDA=1, but {missing} was not found")
        print(f"convkern: building without CUDA: {missing} was not found")
        return False

    def cuda_headers(self, torch) -> list[str]:  # type: ignore[no-untyped-def]
        """Headers of torch's own CUDA wheels, for toolkits installed without the math libraries."""
        if not self.with_cuda:
            return []
        site = Path(torch.__file__).parent.parent
        return [str(p) for p in sorted(site.glob("nvidia/cu*/include"))]

    def macros(self, torch) -> list[tuple[str, str | None]]:  # type: ignore[no-untyped-def]
        macros: list[tuple[str, str | None]] = [
            ("CONVKERN_TORCH_VERSION", f'"{torch.__version__}"')
        ]
        if self.with_cuda:
            macros.append(("CONVKERN_WITH_CUDA", f'"{torch.version.cuda}"'))
        return macros


setup(ext_modules=[Extension("convkern._C", sources=[])], cmdclass={"build_ext": BuildNative})
