"""No kernel, forced by name through torch's ops, touches a byte beyond its operands, its result and
its workspace. None reads memory that nothing has written or leaves an element of the result
unwritten. tests/kernels/guard/pages.cpp ends or begins each block of memory at a protected page and
fills it with NaN. This tests the extension as it is installed. AddressSanitizer would need a torch
of its own for that."""

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_core_sanitizers import LAYOUTS, PASSES, SMALL, problems
from test_epilogue import SIZES

import cases
import convkern
import padded_cases
from convkern import _C
from convkern.problem import DTYPES
from convkern.testing import operands, run, variant
from counts import count
from folders import KERNEL_TESTS
from fuzz import Shape, fuzzing, shapes
from named_kernels import AVAILABLE
from shared_builds import Once

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, whose C library it enters"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
]

MODES = ("end", "begin")
TABLES = (*vars(cases).values(), *vars(padded_cases).values())
ALL = sorted({case for table in TABLES if isinstance(table, list) for case in table})


@dataclass(frozen=True)
class Guard:
    """Runs processes on guarded memory."""

    library: Path

    def run(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(KERNEL_TESTS), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "LD_PRELOAD": str(self.library), "PYTHONPATH": path},
            input=given,
            capture_output=True,
            text=True,
        )

    def check(self, texts: list[str], *program: str) -> Counter[tuple[str, str]]:
        """Runs the problems. Returns how many runs there were of each kernel in each mode."""
        program = program or (str(KERNEL_TESTS / "guarded_process.py"),)
        done = self.run(*program, given="\n".join(texts))
        runs = done.stdout.splitlines()
        if done.returncode != 0:
            running = runs[-1] if runs else "nothing yet"
            pytest.fail(f"ended with {done.returncode} in: {running}\n{done.stderr}", pytrace=False)
        count("guard pages: results on guarded memory", len(runs))
        return Counter((mode, name) for mode, name, *_ in map(str.split, runs))


@pytest.fixture(scope="module")
def guard(build_once: Once) -> Guard:
    return Guard(build_once("guard_pages", build_library) / "pages.so")


def build_library(folder: Path) -> None:
    folder.mkdir()
    flags = ["-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command = [
        "g++",
        *flags,
        str(KERNEL_TESTS / "guard" / "pages.cpp"),
        "-o",
        str(folder / "pages.so"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_kernels_keep_to_their_memory(guard: Guard) -> None:
    runs = guard.check(problems(SMALL))
    assert set(runs) == {(mode, name) for mode in MODES for name in [*AVAILABLE, "conv2d"]}


@pytest.mark.parametrize("dtype", DTYPES)
def test_epilogues_keep_to_their_memory(guard: Guard, dtype: str) -> None:
    tails = ("silu", "residual", "residual+relu", "bias+residual+gelu_tanh")
    sizes = zip(SIZES, cycle(product(LAYOUTS, tails)), strict=False)
    guard.check([f"{size}_{dtype}_{layout}_fwd+{tail}" for size, (layout, tail) in sizes])


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_keep_to_their_memory_in_every_case(guard: Guard, dtype: str) -> None:
    guard.check(
        [
            variant(case, dtype=dtype, layout=layout, pass_=pass_)
            for layout in LAYOUTS
            for pass_ in PASSES
            for case in ALL
        ]
    )


def test_kernels_keep_to_their_memory_in_random_problems(guard: Guard) -> None:
    texts = []

    @fuzzing(short=30, share=0.1)  # each is run about 40 times
    @given(
        shape=shapes(least_batch=1),
        dtype=st.sampled_from(list(DTYPES)),
        layout=st.sampled_from(LAYOUTS),
        tail=st.sampled_from(["fwd", "fwd+bias", "fwd+bias+relu", "fwd+residual+gelu", "gx", "gw"]),
    )
    def draw(shape: Shape, dtype: str, layout: str, tail: str) -> None:
        texts.append(shape.problem(dtype, tail, layout))

    draw()
    guard.check(texts)


def test_a_thread_that_gets_more_threads_before_its_first_call(guard: Guard) -> None:
    """A new thread counts one worker at first. Its first parallel loop then adopts the process-wide
    number, three. Its workspace must have room for as many threads as run."""
    code = """
import threading, torch
from concurrent.futures import ThreadPoolExecutor
from convkern.testing import operands, run
from guarded_process import guarded

ops = operands("n2c32h16w16k64r3s3p1q1_f32_nchw_fwd")
expected = run(ops)
for _ in range(3):
    with ThreadPoolExecutor(1) as pool:
        torch.set_num_threads(1)
        assert pool.submit(torch.get_num_threads).result() == 1
        torch.set_num_threads(3)
        with guarded("end"):
            assert torch.equal(pool.submit(run, ops).result(), expected)
"""
    done = guard.run("-c", code)
    assert done.returncode == 0, done.stderr


# The tests below plant faults. Each must be found and named.


def test_a_byte_that_is_not_the_tensors_is_fatal(guard: Guard) -> None:
    code = """
import ctypes, os, torch
from guarded_process import guarded

def read(at): ctypes.string_at(at, 1)
def write(at): ctypes.memset(at, 0, 1)

for touch in (read, write):
    for mode, place in (("end", -1), ("end", 0), ("begin", -1), ("begin", 0), ("end", None)):
        with guarded(mode):
            t = torch.ones(1234567, dtype=torch.bfloat16)
        at = t.data_ptr()
        if place is None:  # after it is freed
            del t
        else:
            at += t.nbytes if mode == "end" else 0
            at += place
        if os.fork() == 0:
            touch(at)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    done = guard.run("-c", code)
    assert done.returncode == 0, done.stderr
    fatal = -signal.SIGSEGV
    assert [int(status) for status in done.stdout.split()] == [0, fatal, fatal, 0, fatal] * 2


def test_fresh_memory_is_nan_in_every_dtype(guard: Guard) -> None:
    code = """
import torch
from guarded_process import MODES, guarded
for mode in MODES:
    with guarded(mode):
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            for size in (1, 1023, 1000000):
                assert torch.empty(size, dtype=dtype).isnan().all()
"""
    done = guard.run("-c", code)
    assert done.returncode == 0, done.stderr


KERNEL = "fwd.implicit_gemm.f32.baseline"
PROBLEM = "n2c3h6w5k9r3s3p1q1u1v1d1e1g1_f32_nchw_fwd+bias"


def failure(guard: Guard, change: str) -> str:
    """Returns how the process fails when the program is changed and the kernel runs the problem
    alone."""
    code = f"""
import ctypes, torch
import guarded_process as program
program.KERNELS = [{KERNEL!r}]
{change}
program.main()
"""
    with pytest.raises(pytest.fail.Exception) as failed:
        guard.check([PROBLEM], "-c", code)
    return str(failed.value)


# Each change of the program, with the expected message.
WRONG_MEMORY = """
kept = []
def alone(t):  # with an element that is not in its memory
    kept.append(torch.empty(t.numel() - 1, dtype=t.dtype))
    at = kept[-1].data_ptr() - {before} * t.itemsize
    memory = (ctypes.c_char * t.nbytes).from_address(at)
    return torch.frombuffer(memory, dtype=t.dtype).view(t.shape)
program.alone = alone
program.MODES = {{"{mode}": program.MODES["{mode}"]}}
"""
PLANTED = {
    "beyond the end": (WRONG_MEMORY.format(before=0, mode="end"), "Segmentation fault"),
    "before the beginning": (WRONG_MEMORY.format(before=1, mode="begin"), "Segmentation fault"),
    "not written": (
        "program.run = lambda ops: torch.empty(ops.problem.output_size)", "not finite",
    ),
    "wrong": (
        "run = program.run\n"
        "program.run = lambda ops: run(ops) + program.LIBRARY.guarded_tensors()",
        "another result than on ordinary memory",
    ),
    "not fresh": (
        "program.in_new_thread = lambda call: call()", "1 tensors of fresh memory, not 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), PLANTED.values(), ids=PLANTED)
def test_a_fault_is_named(guard: Guard, change: str, says: str) -> None:
    message = failure(guard, change)
    assert f" {KERNEL} 1 {PROBLEM}\n" in message
    assert says in message


@pytest.mark.parametrize("memory", ["result", "workspace", "packed weights"])
def test_memory_that_a_call_takes_is_guarded_to_its_size(guard: Guard, memory: str) -> None:
    ops, threads = operands(PROBLEM), torch.get_num_threads()
    torch.set_num_threads(1)
    convkern.set_weight_cache(True)
    with convkern.use_kernel(KERNEL):
        sizes = {
            "result": run(ops).nbytes,
            "workspace": _C.plan(ops.problem)["workspace_bytes"],
            "packed weights": convkern.weight_cache_bytes(),
        }
    convkern.set_weight_cache(False)
    torch.set_num_threads(threads)
    change = f"""
in_new_thread = program.in_new_thread
def with_less_memory(call):
    program.LIBRARY.shorten(ctypes.c_size_t({sizes[memory]}))
    return in_new_thread(call)
program.in_new_thread = with_less_memory
"""
    message = failure(guard, change)
    assert f" {KERNEL} 1 {PROBLEM}{' packing' * (memory == 'packed weights')}\n" in message
    assert "Segmentation fault" in message
