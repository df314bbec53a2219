"""Memory is given back, and running out of it is an ordinary error."""

import gc
import itertools
import mmap
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import convkern

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, sets RLIMIT_AS")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def call(i: int) -> None:
    """Computes one of about a hundred shapes, forward and backward, from small to about a MiB."""
    n, c, size, k = 1 + i % 3, 1 + i % 17, 3 + i % 23, 1 + i % 4
    groups = c if i % 5 == 0 else 1
    dtype = (torch.float32, torch.bfloat16, torch.float64, torch.float16)[i % 4]
    x = torch.randn(n, c, size, size + 2, dtype=dtype, requires_grad=i % 2 == 0)
    w = torch.randn(c, c // groups, k, k, dtype=dtype, requires_grad=i % 3 == 0)
    b = torch.randn(c, dtype=dtype, requires_grad=True)
    if i % 7 == 0:
        x = x.contiguous(memory_format=torch.channels_last)
    y = convkern.conv2d(x, w, b, 1, k // 2, 1, groups, activation="relu" if i % 2 else None)
    y.sum().backward()


@pytest.mark.parametrize("cache", [False, True], ids=["plain", "weight_cache"])
def test_ten_thousand_calls_do_not_grow_the_process(cache: bool) -> None:
    """After the first 2,000 calls, each further 2,000 would leave a leak behind. Memory that the
    process happens to touch for the first time appears in some of them only."""
    convkern.set_weight_cache(cache)
    sizes = []
    try:
        for i in range(10000):
            call(i)
            if i % 2000 == 1999:
                gc.collect()
                sizes.append(resident_bytes())
    finally:
        convkern.set_weight_cache(False)
    assert min(b - a for a, b in itertools.pairwise(sizes)) < 1 << 20  # 500 bytes for each call


ERRORS = """
import mmap, pathlib, torch, convkern
def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
x, w = torch.ones(1, 2, 5, 5), torch.ones(1, 1, 3, 3)
def fail(times):
    for _ in range(times):
        try:
            convkern.conv2d(x, w)
        except RuntimeError:
            pass
        else:
            raise SystemExit("accepted")
        try:
            convkern.conv2d(x, w, stride=1.5)
        except TypeError:
            pass
fail(200)
before = resident()
fail(2000)
print(resident() - before)
"""


def test_errors_leak_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ERRORS], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 2 << 20


OUT_OF_MEMORY = """
import resource, sys, torch, convkern
torch.set_num_threads(2)
x, w = torch.ones(1, 32, 40, 40), torch.ones(32, 32, 3, 3)
expected = convkern.conv2d(x, w)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), resource.RLIM_INFINITY))
wide = torch.ones(1).expand(64, 1, 2000, 2000)  # 1 GB, of one element
ops = torch.ops.convkern
attempts = {
    "conv2d": lambda: convkern.conv2d(wide, torch.ones(1, 1, 1, 1)),
    "result": lambda: convkern.conv2d(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), padding=9000),
    "grad_input": lambda: ops.conv2d_grad_input(wide, torch.ones(1, 1, 1, 1), [64, 1, 2000, 2000]),
    "grad_weight": lambda: ops.conv2d_grad_weight(wide, wide, [1, 1, 1, 1]),
}
for cache in (False, True):
    convkern.set_weight_cache(cache)
    for name, attempt in attempts.items():
        try:
            attempt()
        except RuntimeError as error:
            works = torch.equal(convkern.conv2d(x, w), expected)
            print(name, "can't allocate memory" in str(error), works)
        else:
            print(name, "fits")
"""


def test_out_of_memory_is_torchs_error_and_the_next_call_works() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    names = ["conv2d", "result", "grad_input", "grad_weight"]
    assert done.stdout.splitlines() == [f"{name} True True" for name in names] * 2, done.stderr


# Plans a model of eight convolutions with batch norms, and prints how much the peak of memory grew,
# in sizes of its weights.
PLANNING = """
import resource, torch, convkern
from torch import nn
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
convkern.optimize(nn.Sequential(nn.ReLU()).eval(), torch.ones(1, 1, 2, 2))
layers = [nn.Conv2d(512, 512, 3, padding=1) for _ in range(8)]
model = nn.Sequential(*(p for conv in layers for p in (conv, nn.BatchNorm2d(512)))).eval()
before = peak()
fast = convkern.optimize(model, torch.randn(1, 512, 7, 7))
print((peak() - before) / sum(conv.weight.nbytes for conv in layers))
"""


def test_planning_holds_weights_once_beside_the_models() -> None:
    """Folded weights that stayed beside the packed ones would make it 2 sizes and more."""
    done = subprocess.run(
        [sys.executable, "-c", PLANNING], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 1.6
