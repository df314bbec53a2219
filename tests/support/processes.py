"""Processes that run a test's functions together, as a process group of gloo.

They are started once, because each takes seconds to import torch, and serve every test that asks
for at most `MOST` of them. A test that fails or exceeds its time kills them, and the next test
starts new ones.
"""

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

MOST = 4
SECONDS = 120.0  # for one call; the longest takes about 10 on an idle machine
GRACE_SECONDS = 5.0  # for the others to end after one has failed


class Processes:
    """Up to `MOST` processes, ranks from 0."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._calls = 0
        self._workers: list[tuple[Any, Connection]] = []

    def run(
        self, count: int, function: Callable[..., Any], *args: Any, seconds: float = SECONDS
    ) -> list[Any]:
        """Calls `function(*args)` in each of `count` processes with one default process group. The
        function must be at a module's top level. Returns its results by rank."""
        while len(self._workers) < count:
            self._workers.append(_start())
        self._calls += 1
        store = self._folder / f"store{self._calls}"
        links = [link for _, link in self._workers[:count]]
        for rank, link in enumerate(links):
            link.send((store, rank, count, function, args))
        answers, failures = _collect(links, seconds)
        if failures:
            self.kill()
            pytest.fail("\n".join(failures), pytrace=False)
        return [answers[rank] for rank in range(count)]

    def kill(self) -> None:
        for process, link in self._workers:
            process.kill()
            process.join()
            link.close()
        self._workers = []


def _collect(links: list[Connection], seconds: float) -> tuple[dict[int, Any], list[str]]:
    """Returns what each process returned, and what went wrong."""
    answers: dict[int, Any] = {}
    failures: list[str] = []
    end = time.monotonic() + seconds
    pending = dict(zip(links, range(len(links)), strict=True))
    while pending:
        ready = wait(list(pending), timeout=max(0.0, end - time.monotonic()))
        if not ready:
            failures.append(f"no answer from ranks {sorted(pending.values())} in {seconds} s")
            break
        for link in ready:
            assert isinstance(link, Connection)
            rank = pending.pop(link)
            try:
                failure, answers[rank] = link.recv()
            except EOFError:
                failure = "the process has died"
            if failure:
                failures.append(f"rank {rank}: {failure}")
                end = min(end, time.monotonic() + GRACE_SECONDS)
    return answers, failures


def _start() -> tuple[Any, Connection]:
    context = multiprocessing.get_context("spawn")
    link, other = context.Pipe()
    process = context.Process(target=_serve, args=(other,), daemon=True)
    process.start()
    other.close()
    return process, link


def _serve(link: Connection) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    while True:
        try:
            store, rank, count, function, args = link.recv()
        except EOFError:
            return
        try:
            torch.manual_seed(0)
            dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=count)
            answer = function(*args)
            dist.barrier()  # none may leave while another still needs it
            dist.destroy_process_group()
            link.send(("", answer))
        except BaseException:
            link.send((traceback.format_exc(), None))
