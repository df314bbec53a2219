"""The build: what it needs, what it says when that is missing, and what it must not emit."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import convkern

ROOT = Path(__file__).parent.parent
ISA_SOURCES = sorted((ROOT / "csrc" / "cpu" / "isa").glob("*_avx*.cpp"))
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


@pytest.mark.parametrize("source", ISA_SOURCES, ids=lambda source: source.stem)
def test_isa_code_stays_in_its_translation_unit(source: Path, tmp_path: Path) -> None:
    """A function that the linker may share between translation units must not be compiled for an
    instruction set above the baseline: a processor without it might be given that copy."""
    built = tmp_path / "unit.o"
    compiler = os.environ.get("CXX", "g++")
    subprocess.run(
        [compiler, "-std=c++17", "-O3", "-fPIC", "-I", ROOT / "csrc", "-c", "-o", built, source],
        check=True,
    )  # fmt: skip
    symbols = subprocess.run(["nm", built], check=True, capture_output=True, text=True).stdout
    kinds = {line.split()[-2] for line in symbols.splitlines()}
    assert "t" in kinds  # local functions: the kernels
    shared = [line for line in symbols.splitlines() if line.split()[-2] in "WwuT"]
    assert shared == []
