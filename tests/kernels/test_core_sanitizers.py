"""The core and the CPU kernels without torch (tests/kernels/core) build alone and run under ASan,
UBSan, TSan and valgrind. `make test-slow` has the portable kernels and some cases. `make
sanitize` has the kernels of all instruction sets, and runs each kernel on its cases."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cases import (
    DEPTHWISE,
    EMPTY_BATCH,
    FEW,
    GROUPED,
    MATMUL,
    NON_EMPTY,
    PATCHES,
    SKINNY,
    WINOGRAD,
)
from convkern.testing import variant
from core_program import CoreProgram
from counts import count
from shared_builds import Once

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

DTYPES, LAYOUTS, PASSES = ("f32", "bf16", "f64", "f16"), ("nchw", "nhwc"), ("fwd", "gx", "gw")


def problems(cases: list[str]) -> list[str]:
    """Returns each case in every pass, with dtypes and layouts in turn."""
    return [
        variant(case, pass_=pass_, dtype=DTYPES[(i + j) % 4], layout=LAYOUTS[(i // 2 + j) % 2])
        for i, case in enumerate(cases)
        for j, pass_ in enumerate(PASSES)
    ]


SMALL = (
    FEW[::3]
    + MATMUL[::12]
    + SKINNY[::12]
    + PATCHES[-2:]
    + GROUPED[::9]
    + DEPTHWISE[::9]
    + WINOGRAD[::9]
)
ALL = NON_EMPTY + MATMUL + SKINNY + GROUPED + DEPTHWISE + WINOGRAD + [EMPTY_BATCH]


def check_kernels(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    runs = re.fullmatch(r"\w+: (\d+) runs, 0 faults\n", done.stdout)
    assert runs is not None, done.stdout
    count("core without torch: results of kernels against the plain sum", int(runs[1]))


# The programs of the portable kernels are compiled once each. Without optimisation this takes a
# minute with ASan.
def portable(build_once: Once, sanitizer: str) -> CoreProgram:
    def program(folder: Path) -> CoreProgram:
        return CoreProgram(folder, sanitizer=sanitizer, portable=True, level="-O0")

    return program(build_once(f"core_portable_{sanitizer}", lambda folder: program(folder).build()))


@pytest.fixture(scope="module")
def with_asan(build_once: Once) -> CoreProgram:
    return portable(build_once, "address")


@pytest.fixture(scope="module")
def with_tsan(build_once: Once) -> CoreProgram:
    return portable(build_once, "thread")


@pytest.mark.slow
def test_the_portable_kernels_need_no_torch_and_no_bytes_but_their_own(
    with_asan: CoreProgram,
) -> None:
    done = with_asan.run("kernels", "3", *problems(SMALL))
    check_kernels(done)
    assert done.stderr == ""


@pytest.mark.slow
def test_threads_of_the_portable_kernels_do_not_race(with_tsan: CoreProgram) -> None:
    done = with_tsan.run("kernels", "3", *problems(SMALL))
    check_kernels(done)
    assert done.stderr == ""


@pytest.mark.slow
def test_random_problem_strings_are_refused_or_planned(with_asan: CoreProgram) -> None:
    done = with_asan.run("plans", "0", "20000")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(" planned, 0 faults\n")
    assert done.stderr == ""


@pytest.mark.slow
def test_it_says_how_it_is_used(with_asan: CoreProgram) -> None:
    assert with_asan.run("kernels").returncode == 2
    assert "usage" in with_asan.run().stderr


@pytest.mark.exhaustive
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind")
def test_valgrind_finds_nothing(tmp_path: Path) -> None:
    portable = CoreProgram(tmp_path, portable=True, level="-O0").build()
    valgrind = ["valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full"]
    done = portable.run("kernels", "2", *problems(SMALL[::3]), before=valgrind)
    check_kernels(done)
    assert done.stderr == ""


CLANG = shutil.which("clang++") or next(
    (path for n in range(30, 10, -1) if (path := shutil.which(f"clang++-{n}"))), None
)


RUNS = 300_000  # two minutes, after two minutes of compilation


@pytest.mark.exhaustive
@pytest.mark.skipif(CLANG is None, reason="needs clang++ with libFuzzer")
def test_libfuzzer_finds_nothing_in_plans(tmp_path: Path) -> None:
    assert CLANG is not None
    # Only plans are computed, so the kernels need not be fast. Optimising them would take minutes
    # more.
    program = CoreProgram(
        tmp_path, sanitizer="fuzzer", portable=True, compiler=CLANG, level="-O0"
    ).build()
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for i, problem in enumerate(problems(SMALL)):
        (corpus / str(i)).write_text(problem)
    done = program.run(f"-runs={RUNS}", "-seed=1", "-max_len=120", "-timeout=20", str(corpus))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Done {RUNS} runs" in done.stderr
    count("core without torch: texts that libFuzzer gave the planner", RUNS)


@pytest.fixture(scope="module")
def sanitized(request: pytest.FixtureRequest, build_once: Once) -> CoreProgram:
    """The program with all instruction sets. Optimisation would take longer than it saves."""

    def program(folder: Path) -> CoreProgram:
        return CoreProgram(folder, sanitizer=request.param, level="-O0")

    return program(build_once(f"core_{request.param}", lambda folder: program(folder).build()))


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("sanitized", "threads"),
    [("address", "1"), ("address", "3"), ("thread", "3")],
    indirect=["sanitized"],
)
def test_sanitizers_find_nothing(sanitized: CoreProgram, threads: str) -> None:
    done = sanitized.run("kernels", threads, *problems(ALL))
    check_kernels(done)
    assert done.stderr == ""


@pytest.mark.exhaustive
@pytest.mark.parametrize("sanitized", ["address"], indirect=True)
def test_sanitizers_find_nothing_in_plans(sanitized: CoreProgram) -> None:
    done = sanitized.run("plans", "1", "200000")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
