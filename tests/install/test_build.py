"""The build: what it needs, its messages if something is missing, and code that it must not
emit."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import convkern
from folders import CSRC, ROOT

BUILT = ROOT / "build" / "native"  # the build folder of an editable install
ISA_SOURCES = sorted((CSRC / "cpu" / "isa").glob("*_avx*.cpp"))
needs_build = pytest.mark.skipif(
    not (BUILT / "build.ninja").exists() or shutil.which("ninja") is None,
    reason="needs ninja and the build folder of an editable install",
)
pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").exists(), reason="needs the source tree, not an installed package"
)


def setup(*arguments: str, torch: bool = True, **environment: str) -> subprocess.CompletedProcess:
    hide = "" if torch else "sys.modules['torch'] = None; "
    code = (
        f"import sys; {hide}sys.argv = ['setup.py', *{arguments!r}]; __file__ = 'setup.py'; "
        "exec(compile(open(__file__).read(), __file__, 'exec'))"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def test_metadata_needs_no_torch(tmp_path: Path) -> None:
    result = setup("-q", "dist_info", "--output-dir", str(tmp_path), torch=False)
    assert result.returncode == 0, result.stderr
    metadata = next(tmp_path.glob("*.dist-info/METADATA")).read_text()
    assert "Name: convkern\n" in metadata
    assert f"Version: {convkern.__version__}\n" in metadata


def test_a_missing_torch_gives_a_two_line_remedy() -> None:
    result = setup("-q", "build_ext", torch=False)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-2:] == [
        "convkern: building needs torch, and it is not installed in this environment.",
        "convkern: run `pip install torch`, then install with --no-build-isolation.",
    ]


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"CONVKERN_CUDA": "yes"}, "CONVKERN_CUDA must be auto, 0 or 1, got 'yes'"),
        (
            {"CONVKERN_CUDA": "1", "PATH": "", "CUDA_HOME": ""},
            "CONVKERN_CUDA=1, but nvcc (set CUDA_HOME or PATH) was not found",
        ),
    ],
    ids=["bad value", "no nvcc"],
)
def test_cuda_choice(environment: dict[str, str], words: str) -> None:
    result = setup("-q", "build_ext", **environment)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == f"convkern: {words}"


@pytest.mark.skipif(
    shutil.which("nvcc") is None, reason="nvcc, which is not here, is looked for first"
)
def test_older_cuda_architectures_are_refused() -> None:
    result = setup("-q", "build_ext", CONVKERN_CUDA="1", TORCH_CUDA_ARCH_LIST="7.5;9.0+PTX")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "convkern: the CUDA kernels need compute capability 8.0 or later, got "
        "TORCH_CUDA_ARCH_LIST=7.5;9.0+PTX"
    )


def object_of(source: Path, folder: Path) -> Path:
    """Returns the source's object from the build, or compiles it in `folder` if there is none."""
    name = source.relative_to(CSRC)
    built = BUILT / "libconvkern.so.objects" / f"{name}.o"
    if built.exists() and built.stat().st_mtime > source.stat().st_mtime:
        return built
    built = folder / "unit.o"
    compiler = os.environ.get("CXX", "g++")
    subprocess.run(
        [compiler, "-std=c++17", "-O3", "-fPIC", "-I", CSRC, "-c", "-o", built, source],
        check=True,
    )
    return built


@pytest.mark.parametrize("source", ISA_SOURCES, ids=lambda source: source.stem)
def test_isa_code_stays_in_its_translation_unit(source: Path, tmp_path: Path) -> None:
    """The linker may share a function between translation units. If the function is compiled for an
    instruction set above the baseline, a processor without it may get that copy."""
    built = object_of(source, tmp_path)
    symbols = subprocess.run(["nm", built], check=True, capture_output=True, text=True).stdout
    kinds = {line.split()[-2] for line in symbols.splitlines()}
    assert "t" in kinds  # local functions: the kernels
    shared = [line for line in symbols.splitlines() if line.split()[-2] in "WwuT"]
    assert shared == []


def torch_folder(folder: Path, version: str) -> Path:
    (folder / "version.py").write_text(f"__version__ = {version!r}\ncuda = None\n")
    return folder


@pytest.mark.parametrize(("version", "said"), [("2.9.1", "2.9.1"), ("1.13.0+cpu", "1.13.0+cpu")])
def test_a_torch_that_is_too_old_is_named(tmp_path: Path, version: str, said: str) -> None:
    folder = torch_folder(tmp_path, version)
    result = setup("-q", "build_ext", CONVKERN_TORCH_DIRS=str(folder))
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        f"convkern: torch {said} is too old: convkern needs torch 2.10 or later"
    )


def test_a_folder_without_torch_is_named(tmp_path: Path) -> None:
    result = setup("-q", "build_ext", CONVKERN_TORCH_DIRS=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(
        f"convkern: {tmp_path} is not a torch package: "
    )


def test_a_setuptools_that_is_too_old_is_named() -> None:
    code = (
        "import sys, setuptools; setuptools.__version__ = '65.5.0'; __file__ = 'setup.py'; "
        "sys.argv = ['setup.py', 'build_ext']; "
        "exec(compile(open(__file__).read(), __file__, 'exec'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "convkern: building needs setuptools 77 or later, and 65.5.0 is installed: "
        "run `pip install --upgrade setuptools`.\n"
    )


def would_compile(edited: Path) -> list[str]:
    """Returns what ninja compiles when the file is newer than its objects."""
    before = edited.stat()
    try:
        os.utime(edited)
        done = subprocess.run(
            ["ninja", "-C", BUILT, "-n", "-v"], check=True, capture_output=True, text=True
        )
    finally:
        os.utime(edited, ns=(before.st_atime_ns, before.st_mtime_ns))
    return re.findall(r" -c (\S+) -o ", done.stdout)


@needs_build
@pytest.mark.parametrize("edited", ["torch_binding/ops.cpp", "torch_binding/checks.h"])
def test_an_edit_of_a_binding_compiles_no_kernel(edited: str) -> None:
    files = would_compile(CSRC / edited)
    compiled = [str(Path(BUILT, file).resolve().relative_to(CSRC)) for file in files]
    assert "torch_binding/ops.cpp" in compiled
    assert all(file.startswith(("torch_binding/", "python_binding/")) for file in compiled)


@needs_build
def test_clangd_finds_every_file() -> None:
    rows = json.loads((BUILT / "compile_commands.json").read_text())
    files = {Path(row["directory"], row["file"]).resolve() for row in rows}
    assert {path for path in CSRC.rglob("*.cpp") if "cuda" not in path.parts} <= files
