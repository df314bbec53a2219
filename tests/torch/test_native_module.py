"""The native module: the symbols that it exports, its protection, and that a process has only
one."""

import copy
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convkern import _C
from convkern.problem import Problem
from folders import ROOT

FILE = Path(_C.__file__)
linux = pytest.mark.skipif(sys.platform != "linux", reason="of ELF files")
needs_binutils = pytest.mark.skipif(
    shutil.which("readelf") is None or shutil.which("nm") is None, reason="needs binutils"
)


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@linux
@needs_binutils
def test_only_the_initialisation_is_exported() -> None:
    defined = output("nm", "--dynamic", "--defined-only", str(FILE)).split()[2::3]
    assert defined == ["PyInit__C"]


@linux
@needs_binutils
def test_addresses_are_read_only_once_bound() -> None:
    assert "GNU_RELRO" in output("readelf", "--program-headers", "--wide", str(FILE))
    assert re.search(r"FLAGS.*(BIND_)?NOW", output("readelf", "--dynamic", "--wide", str(FILE)))


@linux
@needs_binutils
def test_overwritten_return_addresses_are_noticed() -> None:
    assert "__stack_chk_fail" in output("nm", "--dynamic", "--undefined-only", str(FILE))


def test_no_folder_of_the_build_is_in_it() -> None:
    content = FILE.read_bytes()
    assert b"csrc/" in content or b"torch_binding/" in content or b"ATen/" in content
    folders = {ROOT, Path(torch.__file__).parent, Path(sys.prefix), Path.home()} - {Path("/")}
    found = [str(folder) for folder in folders if os.fsencode(folder) + b"/" in content]
    assert found == []


def run(code: str, **kwargs: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True,
        env=os.environ | kwargs, timeout=300,
    )  # fmt: skip


SECOND = """
import sys
import torch, convkern
for name in [n for n in sys.modules if n.split(".")[0] == "convkern"]:
    del sys.modules[name]
{prepare}
try:
    import {module}
except ImportError as error:
    print(error)
"""


def check_refusal(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    assert "loaded in this process already" in done.stdout
    assert "pip install" not in done.stdout


@pytest.mark.parametrize("module", ["convkern", "convkern._C"])
def test_a_second_import_after_sys_modules_was_purged(module: str) -> None:
    check_refusal(run(SECOND.format(module=module, prepare="")))


@pytest.mark.parametrize("module", ["convkern", "convkern._C"])
def test_a_second_copy_in_one_process(module: str, tmp_path: Path) -> None:
    shutil.copytree(
        FILE.parent, tmp_path / "convkern", ignore=shutil.ignore_patterns("__pycache__")
    )
    done = run(SECOND.format(module=module, prepare=f"sys.path.insert(0, {str(tmp_path)!r})"))
    check_refusal(done)


def test_the_first_copy_goes_on_working(tmp_path: Path) -> None:
    code = SECOND.format(module="convkern", prepare="first = convkern") + (
        "print(first.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 2, 2)).sum().item())"
    )
    assert run(code).stdout.splitlines()[-1] == "16.0"


TEXT = "n2c3h8w8k4r3s3p1q1_f32_nchw_fwd+bias"


@pytest.mark.parametrize("arguments", [(), (1,), (None,), (TEXT, TEXT)], ids=str)
def test_a_problem_is_made_of_a_text(arguments: tuple[object, ...]) -> None:
    for make in (Problem, lambda *a: Problem.__new__(Problem, *a)):
        with pytest.raises(TypeError):
            make(*arguments)


def test_a_problem_made_without_init_is_whole() -> None:
    assert Problem.__new__(Problem, TEXT) == Problem(text=TEXT)
    assert Problem(TEXT).output_size == (2, 4, 8, 8)
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Other", (Problem,), {})


@pytest.mark.parametrize("text", ["", "n1", "n1\0", TEXT + "\0", "\ud800"])
def test_a_problem_of_no_text_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (each has words of its own)
        Problem(text)


def test_problems_and_other_things_are_compared() -> None:
    problem = Problem(TEXT)
    assert (problem == 3) is False
    assert problem != TEXT
    assert problem in [None, problem]


def test_problems_are_copied_and_pickled() -> None:
    problem = Problem(TEXT)
    assert copy.deepcopy(problem) == copy.copy(problem) == problem
    assert pickle.loads(pickle.dumps(problem)) == problem


@pytest.mark.parametrize(
    "sizes",
    [
        "n1c1h1w1k1r1s1p1000000000000",
        "n1c1h9w9k1r5s1p10000000000000000q3u2v2",
        "n1c1h9w9k1r1000000000s1p4000000000q0u3v1d7e1",
        "n1c1h1000000000w3k1r100000000s1",
        "n4c3h7w9k2r3s3p2q1u4611686018427387904v2",
    ],
)
def test_flops_of_huge_problems_are_counted_at_once(sizes: str) -> None:
    done = run(
        f"from convkern._C import Problem; p = Problem('{sizes}_f32_nchw_fwd'); "
        "print(0 < p.real_flops <= p.flops)"
    )
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize("context", [0, -1, 10**9, 2**62])
def test_leaving_a_context_that_was_not_entered(context: int) -> None:
    with pytest.raises(ValueError, match=f"entered and not left, got {context}"):
        _C.leave(context)
    with pytest.raises(TypeError):
        _C.leave((255, 255, ""))  # type: ignore[arg-type]
