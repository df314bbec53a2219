"""The native libraries of convkern, as a graph that ninja builds.

    libconvkern.so          the core and the CPU kernels, without torch, behind convkern.h
    libconvkern_cuda13.so   the CUDA kernels, for CUDA 13.x; loaded where torch has the same CUDA
    torch_2_14/_C.*.so      the binding for torch 2.14.x and the building Python; one for each torch

setup.py calls build(). A file is compiled again only if it, a header that it includes, or its
command has changed. An edit of a binding therefore compiles no kernel. compile_commands.json, which
clangd reads, is left in the build folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
CSRC = ROOT / "csrc"
OLDEST_TORCH = (2, 10)
DEFAULT_CUDA_ARCHITECTURES = "8.0;8.6;8.9;9.0;10.0+PTX"
# The stack protector ends the process if a return address is overwritten.
COMPILE = ("-O3", "-g0", "-DNDEBUG", "-fwrapv", "-fvisibility=hidden", "-fstack-protector-strong")
# psabi warns about the ABI of calls that are all inlined.
CXX = (*COMPILE, "-fPIC", "-Wall", "-Wno-psabi")
# Addresses are bound when a library is loaded, and are read-only afterwards (full RELRO).
LINK = ("-shared", "-Wl,-z,relro,-z,now", "-Wl,-z,defs")


class BuildError(Exception):
    """The reason why nothing can be built, as one sentence."""


@dataclass(frozen=True)
class Torch:
    """The headers and libraries of an installed or unpacked torch.

    Attributes:
        folder: the package, with include/, lib/ and version.py.
        version: such as "2.14.1+cu130".
        cuda: the CUDA that it was built with, such as "13.0", or None.
    """

    folder: Path
    version: str
    cuda: str | None

    @property
    def minor(self) -> tuple[int, int]:
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)

    @staticmethod
    def at(folder: Path) -> Torch:
        """Reads version.py instead of importing torch. An import takes seconds, and fails for a
        torch that was only unpacked."""
        values: dict[str, str | None] = {}
        try:
            exec((folder / "version.py").read_text(), values)
        except OSError as error:
            raise BuildError(f"{folder} is not a torch package: {error}") from None
        torch = Torch(folder.resolve(), str(values["__version__"]), values.get("cuda"))
        if torch.minor < OLDEST_TORCH:
            oldest = ".".join(map(str, OLDEST_TORCH))
            raise BuildError(
                f"torch {torch.version} is too old: convkern needs torch {oldest} or later"
            )
        return torch


@dataclass
class Library:
    """A shared library, with its sources and what it is linked with.

    Attributes:
        path: path of the result, relative to the build folder.
        sources: files below csrc/.
        exports: the pattern of the symbols that other libraries see.
    """

    path: str
    sources: list[Path]
    exports: str
    flags: list[str] = field(default_factory=list)
    link: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)


def sources(*folders: str, suffixes: tuple[str, ...] = (".cpp",)) -> list[Path]:
    """Returns every source file below csrc/<folder>, in a fixed order."""
    found = [path for folder in folders for path in (CSRC / folder).rglob("*")]
    return sorted(path for path in found if path.suffix in suffixes)


def cuda_toolkit() -> Path | None:
    """Returns the CUDA toolkit's folder, or None without nvcc. The nvcc on PATH may be a wrapper
    script, so nvcc itself is asked where it lives."""
    home = os.environ.get("CUDA_HOME")
    nvcc = str(Path(home, "bin", "nvcc")) if home else shutil.which("nvcc")
    if nvcc is None:
        return None
    dryrun = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True)
    top = re.search(r"^#\$ TOP=(.+)$", dryrun.stderr, re.MULTILINE)
    return Path(top.group(1).strip()).resolve() if top else None


def toolkit_version(toolkit: Path) -> str:
    """Returns a version such as "13.0"."""
    text = subprocess.run(
        [str(toolkit / "bin" / "nvcc"), "--version"], capture_output=True, text=True
    ).stdout
    found = re.search(r"release (\d+\.\d+)", text)
    if found is None:
        raise BuildError(f"{toolkit}/bin/nvcc --version names no release")
    return found[1]


def wanted_toolkit(torch_has_cuda: bool) -> Path | None:
    """Returns the toolkit for CUDA kernels, or None to leave them out, as CONVKERN_CUDA says."""
    choice = os.environ.get("CONVKERN_CUDA", "auto")
    if choice not in ("auto", "0", "1"):
        raise BuildError(f"CONVKERN_CUDA must be auto, 0 or 1, got {choice!r}")
    if choice == "0":
        return None
    toolkit = cuda_toolkit()
    if toolkit is not None and torch_has_cuda:
        return toolkit
    missing = "nvcc (set CUDA_HOME or PATH)" if toolkit is None else "a torch built with CUDA"
    if choice == "1":
        raise BuildError(f"CONVKERN_CUDA=1, but {missing} was not found")
    print(f"convkern: building without CUDA: {missing} was not found")
    return None


def architecture_flags() -> list[str]:
    """Returns nvcc's flags for TORCH_CUDA_ARCH_LIST, such as "8.0;9.0+PTX"."""
    chosen = os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_CUDA_ARCHITECTURES
    flags = []
    for name in re.split(r"[; ,]+", chosen.strip()):
        found = re.fullmatch(r"(\d+)\.(\d+)([af]?)(\+PTX)?", name)
        if found is None:
            raise BuildError(f"TORCH_CUDA_ARCH_LIST must list numbers such as 9.0, got {chosen}")
        major, minor, variant, ptx = found.groups()
        if int(major) < 8:
            raise BuildError(
                "the CUDA kernels need compute capability 8.0 or later, got "
                f"TORCH_CUDA_ARCH_LIST={chosen}"
            )
        number = major + minor + variant
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if ptx:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def core_library() -> Library:
    return Library(
        "libconvkern.so",
        sources("core", "cpu", "library"),
        exports="convkern_*",
        flags=["-std=c++17"],
        link=["-Wl,-soname,libconvkern.so", "-ldl", "-lpthread"],
    )


def cuda_library(toolkit: Path) -> Library:
    version = toolkit_version(toolkit)
    name = f"libconvkern_cuda{version.split('.')[0]}.so"
    return Library(
        name,
        # The kernels, and the part of the core that they need, which has no state.
        [
            *sources("cuda", suffixes=(".cpp", ".cu")),
            *(
                CSRC / "core" / f"{name}.cpp"
                for name in ("activation", "geometry_rules", "kernel", "padding", "plan", "problem")
            ),
        ],
        exports="convkern_cuda_library_*",
        flags=["-std=c++20", f"-I{toolkit}/include", f'-DCONVKERN_CUDA_TOOLKIT=\\"{version}\\"'],
        link=[f"-Wl,-soname,{name}", f"-L{toolkit}/lib64", "-lcudart"],
    )


def binding(torch: Torch) -> Library:
    include = torch.folder / "include"
    folder = "torch_" + "_".join(map(str, torch.minor))
    return Library(
        f"{folder}/_C{sysconfig.get_config_var('EXT_SUFFIX')}",
        sources("torch_binding", "python_binding"),
        exports="PyInit__C",
        flags=[
            "-std=c++20",
            # at::parallel_for is a header, which is serial without OpenMP. The OpenMP library is
            # not linked, because its symbols come with libtorch_cpu, whose copy has torch's
            # threads.
            "-fopenmp",
            f"-isystem {include}",
            f"-isystem {include}/torch/csrc/api/include",
            f"-isystem {sysconfig.get_paths()['include']}",
            f"-DCONVKERN_TORCH_VERSION=\\\"{torch.version}\\\"",
            f"-fmacro-prefix-map={torch.folder.parent}/=",
        ],
        # Python's own symbols come with the interpreter.
        link=[
            "-Wl,-z,undefs", "-Wl,-rpath,'$$ORIGIN/..'", "-L.", "-lconvkern",
            f"-L{torch.folder / 'lib'}", "-ltorch_python", "-ltorch_cpu", "-ltorch", "-lc10",
        ],
        needs=["libconvkern.so"],
    )  # fmt: skip


def statements(libraries: list[Library], toolkit: Path | None) -> Iterator[str]:
    """Yields the lines of build.ninja."""
    nvcc = os.environ.get("CUDACXX") or (f"{toolkit}/bin/nvcc" if toolkit else "nvcc")
    host = " ".join(f"-Xcompiler={flag}" for flag in ("-fPIC", *COMPILE))
    common = f"-I{CSRC} -I{CSRC / 'include'} -fmacro-prefix-map={ROOT}/="
    yield "ninja_required_version = 1.8"
    yield f"cxx = {os.environ.get('CXX') or 'c++'}"
    yield f"nvcc = {nvcc}"
    yield "rule cxx"
    yield f"  command = $cxx -MMD -MF $out.d {common} {' '.join(CXX)} $flags -c $in -o $out"
    yield "  description = compile $name"
    yield "  depfile = $out.d\n  deps = gcc"
    yield "rule nvcc"
    yield (
        f"  command = $nvcc -MD -MF $out.d -I{CSRC} -I{CSRC / 'include'} -O3 "
        f"--expt-relaxed-constexpr -Xcompiler=-fmacro-prefix-map={ROOT}/= {host} "
        f"{' '.join(architecture_flags()) if toolkit else ''} $flags -c $in -o $out"
    )
    yield "  description = compile $name"
    yield "  depfile = $out.d\n  deps = gcc"
    yield "rule link"
    yield f"  command = $cxx {' '.join(LINK)} $in $flags -o $out"
    yield "  description = link $out"
    for library in libraries:
        objects = []
        for source in library.sources:
            name = source.relative_to(CSRC)
            objects.append(f"{Path(library.path).parts[0]}.objects/{name}.o")
            rule = "nvcc" if source.suffix == ".cu" else "cxx"
            yield f"build {objects[-1]}: {rule} {source}"
            yield f"  flags = {' '.join(library.flags)}"
            yield f"  name = {name}"
        script = f"{library.path}.map"
        needs = " ".join([script, *library.needs])
        yield f"build {library.path}: link {' '.join(objects)} | {needs}"
        yield f"  flags = -Wl,--version-script={script} {' '.join(library.link)}"
    yield f"default {' '.join(library.path for library in libraries)}"


def version_script(library: Library) -> str:
    """Returns the symbols that the library exports. They have a version of their own if other
    libraries link it."""
    name = "CONVKERN_1 " if library.path == "libconvkern.so" else ""
    return f"{name}{{ global: {library.exports}; local: *; }};\n"


def write_if_new(path: Path, text: str) -> None:
    """Writes a file only if its text changes, so that what depends on it is not built again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def build(folder: Path, torches: list[Torch]) -> list[Path]:
    """Builds all libraries below `folder` and returns their paths relative to it. Later calls
    continue the build. Raises BuildError."""
    if not sys.platform.startswith("linux"):
        raise BuildError(f"the native libraries build on Linux, not on {sys.platform}")
    toolkit = wanted_toolkit(any(torch.cuda for torch in torches))
    libraries = [core_library(), *([cuda_library(toolkit)] if toolkit else [])]
    libraries += map(binding, torches)
    for library in libraries:
        write_if_new(folder / f"{library.path}.map", version_script(library))
    write_if_new(folder / "build.ninja", "\n".join(statements(libraries, toolkit)) + "\n")
    ninja = [shutil.which("ninja") or "ninja", "-C", str(folder)]
    jobs = os.environ.get("MAX_JOBS")
    try:
        database = subprocess.run([*ninja, "-t", "compdb"], capture_output=True, text=True)
        done = subprocess.run([*ninja, *(["-j", jobs] if jobs else [])])
    except FileNotFoundError:
        raise BuildError("building needs ninja: run `pip install ninja`") from None
    write_if_new(folder / "compile_commands.json", database.stdout)
    if done.returncode != 0:
        raise BuildError("the native libraries were not built; the compiler's errors are above")
    return [Path(library.path) for library in libraries]
