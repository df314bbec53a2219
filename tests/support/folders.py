"""Folders of the source tree."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
KERNEL_TESTS = ROOT / "tests" / "kernels"
SIMULATOR = ROOT / "tests" / "cuda" / "simulator"
