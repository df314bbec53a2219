"""convkern.profile: the ops that it sees, and what it reports about them. No test checks a time."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import convkern
from convkern import _C
from convkern.peaks import Peaks

# Layouts, strides, groups, epilogues, a second-order gradient and a dtype without a roof.
SCRIPT = """
import torch, convkern
with convkern.profile(roof=False) as profile:
    for last in (False, True):
        x = torch.randn(2, 4, 9, 8, requires_grad=True)
        if last:
            x = x.detach().to(memory_format=torch.channels_last).requires_grad_()
        for layer in (convkern.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), groups=2, activation="relu"),
                      convkern.Conv2d(4, 4, 3, dilation=2, padding=2, bias=False)):
            y = layer(x)
            (gx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            gx.square().sum().backward()
    convkern.conv2d(torch.ones(1, 1, 4, 4).bfloat16(), torch.ones(1, 1, 2, 2).bfloat16())
    convkern.conv2d(torch.ones(0, 1, 4, 4), torch.ones(1, 1, 2, 2))
for e in profile.executions:
    print(f"convkern: {e.problem} -> {e.kernel}")
"""


def test_it_sees_what_is_dispatched() -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CONVKERN_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=clean | {"CONVKERN_VERBOSE": "dispatch"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen, dispatched = done.stdout.splitlines(), done.stderr.splitlines()
    assert len(seen) > 15
    assert seen == dispatched


def test_a_row_for_each_op_with_its_share_of_the_roof(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = Peaks(1, 1e6, 1e6)  # a machine so slow that every share is above 1
    monkeypatch.setattr("convkern.profiling.known_peaks", lambda threads, isa: peaks)
    model = nn.Sequential(convkern.Conv2d(3, 8, 3), nn.ReLU(), convkern.Conv2d(8, 4, 3))
    x = torch.randn(2, 3, 16, 16)
    with convkern.profile() as profile:
        model(x).sum().backward()
    assert [e.problem.split("_")[3] for e in profile.executions] == [
        "fwd+bias", "fwd+bias", *["gx", "gw", "gw"]
    ]  # fmt: skip
    first = profile.executions[0]
    assert first.rate == pytest.approx(2 * 2 * 14 * 14 * 8 * 27 / first.seconds)
    least = max(2 * 2 * 14 * 14 * 8 * 27, 4 * (2 * 3 * 256 + 8 * 27 + 8 + 2 * 8 * 196)) / 1e6
    assert first.share == pytest.approx(least / first.seconds)
    heading, *rows, total = str(profile).splitlines()
    assert heading.split() == ["problem", "kernel", "ms", "GFLOP/s", "of", "the", "roof"]
    assert len(rows) == len(profile.executions) == 5
    assert all(re.search(r" \d+\.\d{3} +[\d.]+ +\d+%$", row) for row in rows)
    assert total.startswith("5 ops")
    assert "<th" in profile._repr_html_()


def test_without_memory_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(isa: str) -> None:
        raise MemoryError("std::bad_alloc")

    monkeypatch.setattr(_C, "measure_peak", fail)
    monkeypatch.setattr("convkern.peaks._known", {})
    threads = torch.get_num_threads()
    with convkern.profile() as profile:
        convkern.conv2d(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2))
    assert len(profile.executions) == 1
    note = "no percentages: measuring the bandwidth needs 384 MiB of memory"
    assert str(profile).endswith(note)
    assert torch.get_num_threads() == threads


def test_a_machine_without_room_or_tools_is_measured(tmp_path: Path) -> None:
    """There is no compiler and no folder for temporary files. With too little memory, the module
    can still be imported."""
    code = """
import resource, sys, convkern, torch
with convkern.profile() as profile:
    convkern.conv2d(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2))
print(profile.executions[0].share is not None, profile.note)
from convkern import peaks
from convkern.profiling import measure_roof
peaks._known.clear()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20),) * 2)
measure_roof()
"""
    environment = {"PATH": "", "TMPDIR": str(tmp_path / "none"), "CONVKERN_VERBOSE": "profile"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True \n"
    lines = done.stderr.splitlines()
    assert "no percentages" not in lines[0]
    assert lines[-1] == (
        "convkern: no percentages: measuring the bandwidth needs 384 MiB of memory"
    )


def test_the_gil_is_released_while_it_measures() -> None:
    counted = 0

    def count() -> None:
        nonlocal counted
        while not done.wait(0.001):
            counted += 1

    done = threading.Event()
    thread = threading.Thread(target=count)
    thread.start()
    before = counted
    _C.measure_peak(_C.isa_cap())
    assert counted - before > 2
    done.set()
    thread.join()


def test_other_dtypes_have_no_roof_and_need_no_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "convkern.profiling.known_peaks", lambda threads, isa: pytest.fail("measured")
    )
    x, w = torch.ones(1, 1, 4, 4, dtype=torch.float64), torch.ones(1, 1, 2, 2, dtype=torch.float64)
    with convkern.profile() as profile:
        convkern.conv2d(x, w)
    with convkern.profile(roof=False):
        convkern.conv2d(x.float(), w.float())
    assert profile.executions[0].share is None


@pytest.mark.parametrize("first", [False, True], ids=["after a call", "first"])
def test_what_runs_nothing_is_not_seen(first: bool) -> None:
    """Fake tensors, which torch.export and make_fx trace with, and empty results."""
    code = f"""
import torch, convkern
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
x, w = torch.randn(5, 3, 8, 8), torch.randn(8, 3, 3, 3)
if not {first}:
    convkern.conv2d(torch.randn(2, 3, 8, 8), w)
with convkern.profile(roof=False) as profile:
    with FakeTensorMode() as mode:
        convkern.conv2d(mode.from_tensor(x), mode.from_tensor(w))
    make_fx(lambda x, w: convkern.conv2d(x, w), tracing_mode="fake")(x, w)
    torch.export.export(convkern.Conv2d(3, 8, 3), (x,))
    convkern.conv2d(x[:0], w)
print(len(profile.executions))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "0\n", done.stderr
