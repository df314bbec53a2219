"""Options and shared fixtures."""

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch

import convkern
from convkern import _C
from counts import COUNTS
from cuda_simulator import Objects, Simulator
from processes import Processes


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skip_slow = pytest.mark.skip(reason="slow: add --run-slow to run it")
    skip_gpu = pytest.mark.skip(reason="no CUDA device, or a build without CUDA")
    has_gpu = torch.cuda.is_available() and _C.build_info()["cuda"] is not None
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--run-slow"):
            item.add_marker(skip_slow)
        if item.get_closest_marker("gpu") and not has_gpu:
            item.add_marker(skip_gpu)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for what, number in sorted(COUNTS.items()):
        terminalreporter.write_line(f"{what}: {number:,}")


@pytest.fixture
def high_precision() -> Iterator[None]:
    before = convkern.get_float32_precision()
    convkern.set_float32_precision("high")
    yield
    convkern.set_float32_precision(before)


@pytest.fixture(scope="session")
def cuda_objects(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Objects]:
    """The CUDA kernels compiled for the simulator with a sanitizer, each once."""

    @cache
    def compiled(sanitizer: str) -> Objects:
        return Objects(tmp_path_factory.mktemp("objects") / "all", sanitizer=sanitizer).compile()

    return compiled


@pytest.fixture(scope="session")
def simulator(cuda_objects: Callable[[str], Objects]) -> Simulator:
    return Simulator(cuda_objects("").library())


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Processes for tests of several."""
    started = Processes(tmp_path_factory.mktemp("processes"))
    yield started
    started.kill()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
