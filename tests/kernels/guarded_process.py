"""The program of test_guard_pages.py. It is run with tests/kernels/guard/pages.cpp preloaded.

    python guarded_process.py < PROBLEMS

It runs each problem on guarded memory, in one or three threads, by every CPU kernel that supports
it. Problems of the forward pass also run through convkern.conv2d with all gradients, on tensors and
on views. Results must be finite and have the same bits as on ordinary memory. It writes a line
before each run, so that the last line says what a process that died was running.
"""

import ctypes
import faulthandler
import os
import resource
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle

import torch
from torch import Tensor

import convkern
from convkern import _C
from convkern.testing import Operands, operands, run

MODES = {"end": 1, "begin": 2}  # the end of a block that touches a protected page
THREADS = (1, 3)  # in turn; a lone thread's part is all of the workspace
KERNELS = [k["name"] for k in _C.kernels() if k["device"] == "cpu"]
LIBRARY = ctypes.CDLL(os.environ["LD_PRELOAD"])
LIBRARY.guarded_tensors.restype = ctypes.c_int64
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the tests let it die, so it should write no core


@contextmanager
def guarded(mode: str) -> Iterator[None]:
    """Guards new blocks of memory within the context."""
    LIBRARY.set_guard_pages(MODES[mode])
    try:
        yield
    finally:
        LIBRARY.set_guard_pages(0)


def in_new_thread(call: Callable[[], list[Tensor]]) -> list[Tensor]:
    """Calls in a new thread, which has no workspace yet and frees its own at the end. A thread
    keeps its workspace for its next calls."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def alone(t: Tensor) -> Tensor:
    return t.clone()


def in_a_row(t: Tensor) -> Tensor:
    """Returns a dense copy with NaN before and after it in memory."""
    memory = t.new_full((t.numel() + 10,), torch.nan)
    return memory.as_strided(t.shape, t.stride(), 5).copy_(t)


def sliced(t: Tensor) -> Tensor:
    """Returns a view of the inner elements of a tensor whose other elements are NaN."""
    whole = t.new_full([size + 2 for size in t.shape], torch.nan)
    if t.dim() == 4 and not t.is_contiguous():
        whole = whole.contiguous(memory_format=torch.channels_last)
    return whole[(slice(1, -1),) * t.dim()].copy_(t)


def check(
    what: str, call: Callable[[], list[Tensor]], expected: list[Tensor], mode: str,
    tensors: int | None = None,
) -> None:  # fmt: skip
    """Checks a call that allocates `tensors` tensors, including workspaces."""
    print(mode, what, flush=True)
    with guarded(mode):
        before = LIBRARY.guarded_tensors()
        results = in_new_thread(call)
        made = LIBRARY.guarded_tensors() - before
    for result, other in zip(results, expected, strict=True):
        assert result.isfinite().all(), "not finite"
        assert torch.equal(result, other), "another result than on ordinary memory"
    assert tensors in (None, made), f"{made} tensors of fresh memory, not {tensors}"


def check_kernel(kernel: str, ops: Operands, placed: dict[str, Operands]) -> None:
    """Checks a kernel that is forced."""
    plan = _C.plan(ops.problem)
    assert plan["kernel"] == kernel
    what = f"{kernel} {torch.get_num_threads()} {ops.problem}"
    expected = [run(ops)]
    tensors = 1 + (plan["workspace_bytes"] > 0)
    for mode, own in placed.items():

        def call(own: Operands = own) -> list[Tensor]:
            return [run(own)]

        check(what, call, expected, mode, tensors)
        if kernel.startswith("fwd.implicit_gemm."):
            convkern.set_weight_cache(True)
            check(f"{what} packing", call, expected, mode, tensors + 1)
            check(f"{what} packed", call, expected, mode, tensors)
            convkern.set_weight_cache(False)


def check_kernels(ops: Operands) -> None:
    placed = {}
    for mode in MODES:
        with guarded(mode):
            placed[mode] = ops.map(alone)
    for kernel in KERNELS:
        if not kernel.startswith(ops.problem.pass_ + "."):
            continue
        with convkern.use_kernel(kernel):
            try:
                _C.plan(ops.problem)
            except ValueError:  # the kernel does not support it
                continue
            check_kernel(kernel, ops, placed)


def run_with_gradients(ops: Operands) -> list[Tensor]:
    """Returns y of convkern.conv2d and the gradients of its operands."""
    given = (ops.x, ops.w, ops.b, ops.residual)
    x, w, b, residual = (t if t is None else t.detach().requires_grad_() for t in given)
    p = ops.problem
    y = convkern.conv2d(
        x, w, b, p.stride, p.padding, p.dilation, p.groups,
        padding_mode=p.padding_mode, activation=p.activation, residual=residual,
    )  # fmt: skip
    leaves = [t for t in (x, w, b, residual) if t is not None]
    return [y.detach(), *torch.autograd.grad(y, leaves, ops.gy)]


def check_gradients(ops: Operands) -> None:
    for place in (alone, in_a_row, sliced):
        expected = run_with_gradients(ops.map(place))
        for mode in MODES:
            with guarded(mode):
                own = ops.map(place)
            what = f"conv2d {torch.get_num_threads()} {ops.problem} {place.__name__}"
            check(what, lambda own=own: run_with_gradients(own), expected, mode)


def main() -> None:
    faulthandler.enable()
    convkern.set_float32_precision("medium")  # lets Winograd's kernels be forced
    for problem, threads in zip(sys.stdin.read().split(), cycle(THREADS), strict=False):
        torch.set_num_threads(threads)
        ops = operands(problem)
        check_kernels(ops)
        if ops.problem.pass_ == "fwd":
            check_gradients(ops)


if __name__ == "__main__":
    main()
