"""The scratch memory that a calling thread keeps between calls."""

import math
import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import convkern
from cases import FEW, GROUPED, MATMUL, WINOGRAD, label
from convkern import _C
from convkern.testing import operands, run, variant

# 64 to 64 channels. The workspace is several MiB, and the result 144 KiB. The allocator is told to
# return blocks larger than 256 KiB to the system at once.
PROBLEM = "n4c64h28w28k64r3s3p1q1_f32_nchw_gw"
COUNT_FAULTS = f"""
import mmap, resource
import convkern, torch
torch.set_num_threads(2)
from convkern.testing import operands, run

ops = operands("{PROBLEM}")
for _ in range(3):
    run(ops)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    run(ops)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults, convkern.explain("{PROBLEM}").workspace_bytes // mmap.PAGESIZE)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts faults and sets glibc's threshold")
def test_later_calls_do_not_fault_their_workspaces_in_again() -> None:
    output = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS],
        env={
            **os.environ,
            "MALLOC_MMAP_THRESHOLD_": str(256 << 10),
            "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
        },
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    faults, pages = map(int, output.split())
    assert pages > 256  # more than the threshold
    assert faults < 10 * pages / 4


@pytest.mark.parametrize("case", FEW + MATMUL[::5] + GROUPED[::5], ids=label)
@pytest.mark.parametrize("pass_", ["fwd", "gx", "gw"])
def test_what_a_workspace_held_does_not_matter(case: str, pass_: str) -> None:
    ops = operands(variant(case, pass_=pass_))
    nan = ops.map(lambda t: torch.full_like(t, torch.nan))
    expected = run(ops)
    run(nan)
    torch.testing.assert_close(run(ops), expected, rtol=0, atol=0)


@pytest.mark.usefixtures("medium_precision")
@pytest.mark.parametrize("case", WINOGRAD[::2], ids=label)
@pytest.mark.parametrize("pass_", ["fwd", "gx", "gw"])
def test_what_a_workspace_held_does_not_matter_to_winograd(case: str, pass_: str) -> None:
    test_what_a_workspace_held_does_not_matter(case, pass_)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident set from /proc")
def test_a_thread_that_ends_gives_its_workspace_back() -> None:
    ops = operands(PROBLEM)
    expected = run(ops)
    results: list[torch.Tensor] = []

    def call_in_threads(count: int) -> None:
        for _ in range(count):
            thread = threading.Thread(target=lambda: results.append(run(ops)))
            thread.start()
            thread.join()

    call_in_threads(3)
    before = resident_bytes()
    call_in_threads(40)
    assert all(torch.equal(result, expected) for result in results)
    assert len(results) == 43
    assert resident_bytes() - before < 15 * convkern.explain(PROBLEM).workspace_bytes


@pytest.mark.parametrize(
    ("problem", "is_copied"),
    [
        ("n1c64h256w256k64r3s3p1q1g64_bf16_nhwc_fwd", False),
        ("n1c64h256w256k64r3s3p1q1g64_bf16_nchw_fwd", True),
    ],
)
def test_depthwise_images_in_channels_last_are_not_copied(problem: str, is_copied: bool) -> None:
    parsed = _C.Problem(problem)
    with convkern.use_kernel("fwd.direct_channellane.half.baseline"):
        workspace = _C.plan(parsed)["workspace_bytes"]
    assert (workspace > 4 * math.prod(parsed.input_size)) == is_copied
