"""convkern.peaks: what the machine does at most is measured once, and disturbs nobody."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import convkern
from convkern import _C
from convkern.peaks import Peaks, known_peaks, measure_peaks

PROBLEM = "n8c64h56w56k64r3s3p1q1_f32_nchw_fwd"


def test_peaks_are_of_torch_s_threads_and_the_instruction_set() -> None:
    threads = torch.get_num_threads()
    one, two = measure_peaks([1, 2])
    assert torch.get_num_threads() == threads
    assert (one.threads, two.threads) == (1, 2)
    for peaks in (one, two):
        assert 1e7 < peaks.peak < 1e12 * peaks.threads
        assert 1e7 < peaks.bandwidth < 1e13
    if _C.available_isa() != "baseline":
        # The lanes at least double, and a multiply-add is one instruction. Even a busy machine
        # shows this in one of ten tries.
        for _ in range(10):
            with convkern.use_isa("baseline"):
                (narrow,) = measure_peaks([1])
            (wide,) = measure_peaks([1])
            if narrow.peak < wide.peak:
                return
        pytest.fail("the cap of the instruction set is not heeded")


def test_threads_that_ask_at_once_measure_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def measure(threads: int, isa: str) -> Peaks:
        measured.append(isa)
        time.sleep(0.05)
        return Peaks(threads, 1.0, 1.0)

    monkeypatch.setattr("convkern.peaks._known", {})
    monkeypatch.setattr("convkern.peaks._measure", measure)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: known_peaks(1, "baseline"), range(4)))
    assert measured == ["baseline"]


def test_a_forked_child_prints_without_measuring() -> None:
    """Its copies of torch's threads do not run."""
    code = f"""
import os, torch, convkern
torch.set_num_threads(2)
convkern.conv2d(torch.ones(8, 8, 32, 32), torch.ones(8, 8, 3, 3))  # starts the threads
explanation = convkern.explain({PROBLEM!r})
child = os.fork()
if child == 0:
    os._exit("bound" in str(explanation))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "0\n", done.stderr


def test_printing_leaves_the_threads_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convkern.peaks._known", {})
    monkeypatch.setattr(torch, "set_num_threads", None)  # it is not called
    assert "bound" in str(convkern.explain(PROBLEM))
