"""keep_memory: after it, tensors get their memory without page faults."""

import platform
import subprocess
import sys

import pytest

from convkern import memory

# Allocates and fills 64 MB ten times, and prints the page faults of these. What is allocated before
# uses up the pages by which the heap grew at once: an aligned block needs more than the bytes that
# the last one left, so that up to nine blocks take new pages until free ones lie side by side.
PROGRAM = """
import resource, sys, torch, convkern
if sys.argv[1] == "kept":
    convkern.keep_memory()
for _ in range(32):
    torch.full((1 << 24,), 1.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.full((1 << 24,), 1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="needs torch's memory to come from the malloc of glibc",
)
def test_no_page_faults() -> None:
    mapped, kept = faults("mapped"), faults("kept")
    assert mapped >= 10 * 32  # huge pages of 2 MB at least
    assert kept < 32


def test_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(RuntimeError, match="needs the malloc of glibc, which this platform lacks"):
        memory.keep_memory()
