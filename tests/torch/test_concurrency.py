"""Threads, forks and interpreters."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import convkern
from cases import FEW, GROUPED, MATMUL
from convkern.testing import Operands, operands, run, variant
from counts import count

PROBLEMS = [
    variant(case, pass_=pass_, dtype=dtype, layout=layout)
    for case in [*FEW[::3], *MATMUL[::9], *GROUPED[::9]]
    for pass_ in ("fwd", "gx", "gw")
    for dtype, layout in (("f32", "nchw"), ("f32", "nhwc"), ("bf16", "nhwc"), ("f64", "nchw"))
]


@pytest.fixture(autouse=True)
def settings_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    convkern.set_weight_cache(False)


def call_from_threads(
    problems: list[Operands], seconds: float, *, cache: bool = False
) -> tuple[int, list[str]]:
    """Calls from eight threads in random order, while the number of threads at work changes. With
    `cache`, the setting that keeps weights changes too. Returns the number of calls, and the
    results that differ from a single thread's."""
    torch.set_num_threads(1)
    expected = [run(ops) for ops in problems]
    wrong: list[str] = []
    calls = [0] * 8
    least = 20  # calls in each thread, however busy the machine is
    end = time.monotonic() + seconds
    ended = threading.Event()

    def work(thread: int) -> None:
        generator = torch.Generator().manual_seed(thread)
        while time.monotonic() < end or calls[thread] < least:
            i = int(torch.randint(len(problems), (1,), generator=generator))
            try:
                if not torch.equal(run(problems[i]), expected[i]):
                    wrong.append(str(problems[i].problem))
            except Exception as error:  # a thread's exception is lost otherwise
                wrong.append(f"{problems[i].problem}: {error}")
                return
            calls[thread] += 1
            if thread == 0:
                torch.set_num_threads(1 + calls[0] % 4)

    def switch() -> None:
        on = False
        while not ended.wait(0.01):
            on = not on
            convkern.set_weight_cache(on)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    switcher = threading.Thread(target=switch)
    for worker in workers:
        worker.start()
    if cache:
        switcher.start()
    for worker in workers:
        worker.join()
    ended.set()
    if cache:
        switcher.join()
    return sum(calls), wrong


@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=pytest.mark.exhaustive)])
def test_eight_threads_of_mixed_problems(seconds: float) -> None:
    calls, wrong = call_from_threads([operands(text) for text in PROBLEMS], seconds)
    assert wrong == []
    assert calls >= 160
    count("concurrency: results from eight threads", calls)


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.exhaustive)])
def test_the_weight_cache_is_switched_under_eight_threads(seconds: float) -> None:
    texts = [
        f"n{n}c32h{h}w9k{k}r3s3p1q1_{dtype}_nchw_fwd"
        for n, h, k, dtype in [
            (1, 9, 48, "f32"), (2, 7, 64, "f32"), (1, 5, 33, "bf16"), (3, 4, 40, "f64"),
        ]
    ]  # fmt: skip
    calls, wrong = call_from_threads([operands(text) for text in texts], seconds, cache=True)
    assert wrong == []
    assert calls >= 160
    convkern.set_weight_cache(False)
    assert convkern.weight_cache_bytes() == 0


def test_weights_that_change_under_the_cache_while_others_read_theirs() -> None:
    convkern.set_weight_cache(True)
    wrong: list[int] = []

    def work(thread: int) -> None:
        x = torch.ones(1, 32, 5, 5)
        w = torch.ones(32, 32, 1, 1)
        for step in range(1, 31):
            w.fill_(step)
            if not (convkern.conv2d(x, w) == 32 * step).all():
                wrong.append(thread)
            if step % 10 == 0:
                w = w.clone()

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


class Convolved(Dataset):
    """Samples that are convolved when they are loaded."""

    w = torch.arange(9.0).view(1, 1, 3, 3)

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> torch.Tensor:
        x = torch.full((1, 1, 6, 6), float(i))
        w = self.w.clone().requires_grad_()
        y = convkern.conv2d(x, w, padding=1)
        (gw,) = torch.autograd.grad(y.sum(), w)
        return torch.cat([y.detach().flatten(), gw.flatten()])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("workers", [1, 2])
def test_dataloader_workers_call_it_after_the_parent_did(workers: int) -> None:
    torch.set_num_threads(2)
    data = Convolved()
    expected = torch.stack([data[i] for i in range(len(data))])
    convkern.set_weight_cache(True)
    run(operands(MATMUL[0]))  # large enough for both threads
    loader = DataLoader(
        data, batch_size=3, num_workers=workers, timeout=60,
        multiprocessing_context=multiprocessing.get_context("fork"),
    )  # fmt: skip
    assert torch.equal(torch.cat(list(loader)), expected)


FORK = """
import os, sys, torch, convkern
from convkern.testing import operands, run
problems = [operands(t) for t in sys.argv[1:]]
torch.set_num_threads(1)
expected = [run(ops) for ops in problems]
child = os.fork()
right = all(torch.equal(run(ops), y) for ops, y in zip(problems, expected))
if child == 0:
    os._exit(0 if right else 1)
_, status = os.waitpid(child, 0)
print(right, os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_parent_and_child_compute_after_a_fork() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, *PROBLEMS[::9]],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout == "True 0\n", done.stderr


# The parent's threads pack weights, force kernels and cap instruction sets while it forks. The
# child must not find a lock taken by a thread that it does not have.
FORK_WHILE_THREADS_COMPUTE = """
import os, signal, threading, time, torch, convkern
torch.set_num_threads(1)
convkern.set_weight_cache(True)
ended = False

def compute(thread):
    x, w = torch.randn(1, 32, 5, 5), torch.randn(48, 32, 3, 3)
    while not ended:
        w.add_(1)  # packed anew
        with convkern.use_isa("avx2"), convkern.use_kernel("gx.reference.any.baseline"):
            convkern.conv2d(x, w)

def is_right():
    return bool((convkern.conv2d(x, w) == 288).all())

x, w = torch.ones(1, 32, 3, 3), torch.ones(48, 32, 3, 3)
assert is_right()  # torch's own first calls take locks, which a child would find taken
threads = [threading.Thread(target=compute, args=(i,), daemon=True) for i in range(4)]
for thread in threads:
    thread.start()
statuses = []
for _ in range(40):
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends a child that hangs
        with convkern.use_isa("baseline"):
            right = is_right()
        convkern.set_weight_cache(False)
        os._exit(0 if right else 1)
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
ended = True
print(sorted(set(statuses)), flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_children_of_forks_while_threads_compute() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK_WHILE_THREADS_COMPUTE],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout == "[0]\n", done.stderr


SUBINTERPRETER = """
import torch, convkern
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
interpreter = interpreters.create()
code = '''
try:
    import {what}
    print("imported")
except BaseException as error:
    print(type(error).__name__, str(error).splitlines()[0], flush=True)
'''
interpreters.run_string(interpreter, code)
print(convkern.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 2, 2)).sum().item(), flush=True)
import os
os._exit(0)  # what torch leaves in an interpreter is not ours to end
"""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the module's interface is another")
@pytest.mark.parametrize("what", ["convkern", "convkern._C"])
def test_a_subinterpreter_is_refused_with_a_sentence(what: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SUBINTERPRETER.format(what=what)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    refusal, result = done.stdout.splitlines()[-2:]
    assert refusal.startswith("ImportError")
    assert result == "16.0"
