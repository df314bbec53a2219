"""Teams of threads (csrc/torch_binding/team.h) under the thread sanitizer, and faults planted in
them that it or the program must find. The program needs no torch, whose parallel regions it plays.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from counts import count
from folders import CSRC, KERNEL_TESTS
from planted import Edit, plant
from shared_builds import Once

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

TEAM = "torch_binding/team.h"
PUBLISHED = "team.open_.store(number << 32 | ((uint64_t{{1}} << ranges) - 1), {});"
IS_DONE = "return team.left_.load({}) == 0;"
ACQUIRE, RELEASE, RELAXED = (f"std::memory_order_{n}" for n in ("acquire", "release", "relaxed"))
TOLD = "left_.fetch_sub(1, {});"
NOTED = "if (!has_failed_.exchange(true)) failure_ = std::current_exception();"
# The faults, with a regular expression of what is then said.
FAULTS = {
    "a job is published before it is written": (
        "data race", Edit(TEAM, PUBLISHED.format(RELEASE), PUBLISHED.format(RELAXED))
    ),
    "results may come after the news of them": (
        "data race",
        Edit(TEAM, TOLD.format("std::memory_order_acq_rel"), TOLD.format(RELAXED)),
    ),
    "the leader may read results before they are there": (
        "data race", Edit(TEAM, IS_DONE.format(ACQUIRE), IS_DONE.format(RELAXED))
    ),
    "the leader does not wait": (
        "data race|did not run once",
        Edit(TEAM, f"wait_until([&] {{ {IS_DONE.format(ACQUIRE)} }});", ""),
    ),
    "followers have the leader's number": (
        "data race|under the number of one thread",
        Edit(TEAM, "take(thread, number, thread);", "take(thread, number, 0);"),
    ),
    "two errors at once": (
        "data race",
        Edit(TEAM, NOTED, "has_failed_.store(true); failure_ = std::current_exception();"),
    ),
    "an error is raised again by the next job": (
        "terminate called|exception",
        Edit(TEAM, f"team.has_failed_.store(false, {RELAXED});", ""),
    ),
}  # fmt: skip


def compiled(folder: Path, csrc: Path, *flags: str) -> None:
    command = [
        "g++", "-std=c++20", "-O1", "-g1", "-Wall", "-fsanitize=thread", *flags, f"-I{csrc}",
        f"-I{csrc / 'include'}", f"-I{KERNEL_TESTS / 'team'}", "-o", str(folder / "check_team"),
        str(KERNEL_TESTS / "team" / "main.cpp"), "-pthread",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def run(folder: Path, assemblies: int, fault: int = 0) -> subprocess.CompletedProcess[str]:
    variables = {"TSAN_OPTIONS": "halt_on_error=1", "PLANTED": str(fault)}
    return subprocess.run(
        [folder / "check_team", str(assemblies)],
        env={**os.environ, **variables}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_threads_do_not_race(tmp_path: Path) -> None:
    compiled(tmp_path, CSRC, "-Werror")
    done = run(tmp_path, 300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    found = re.fullmatch(
        r"check_team: (\d+) jobs, (\d+) ranges by followers, 0 faults\n", done.stdout
    )
    assert found is not None, done.stdout
    jobs, followed = map(int, found.groups())
    assert jobs > 10_000
    assert followed > 100
    count("teams of threads: jobs under the thread sanitizer", jobs)


@pytest.fixture(scope="module")
def with_faults(build_once: Once) -> Path:
    """The folder of the program with all faults, of which a run may have one."""

    def build(folder: Path) -> None:
        for part in ("torch_binding", "include"):
            shutil.copytree(CSRC / part, folder / "csrc" / part)
        edits: Sequence[Edit] = [edit for _, edit in FAULTS.values()]
        plant(folder / "csrc", edits, folder / "planted.h")
        compiled(folder, folder / "csrc", "-include", str(folder / "planted.h"))

    return build_once("team", build)


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_found(name: str, with_faults: Path) -> None:
    done = run(with_faults, 1000, 1 + list(FAULTS).index(name))
    assert done.returncode != 0, name
    assert re.search(FAULTS[name][0], done.stderr), done.stdout + done.stderr


def test_without_a_fault_the_program_with_faults_finds_nothing(with_faults: Path) -> None:
    done = run(with_faults, 30)
    assert done.returncode == 0, done.stdout + done.stderr
