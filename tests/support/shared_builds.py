"""Programs that tests compile once a run for all workers."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

Once = Callable[[str, Callable[[Path], object]], Path]


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """Returns a temporary folder that all workers of this run share."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def builder(factory: pytest.TempPathFactory) -> Once:
    """Returns a function that gives the folder for a name. The first worker that asks for it fills
    it by calling `build`, while others wait. A build that failed is tried again."""
    shared = shared_folder(factory) / "built"
    shared.mkdir(exist_ok=True)

    def once(name: str, build: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                build(folder)
                done.touch()
        return folder

    return once
