"""Options, shared fixtures, and what the workers of a run have in common."""

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

# Threads of OpenMP that wait for each other in sleep: those that spin would take the processors
# from the other workers. It is read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

import convkern
from convkern import _C
from counts import COUNTS
from cuda_simulator import Objects, Simulator
from processes import Processes
from shared_builds import Once, builder

HAS_GPU = torch.cuda.is_available() and _C.build_info()["cuda"] is not None
# Tests that need a GPU are made only where there is one: these files are all of such tests, and
# those of other files have the marker `gpu`.
collect_ignore_glob = [] if HAS_GPU else ["cuda/test_gpu_*.py"]


# A shell's background jobs ignore Ctrl-C, and so do their children. Some tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    for marker in ("slow", "exhaustive"):
        parser.addoption(
            f"--run-{marker}", action="store_true", help=f"also run tests marked {marker}"
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for marker in ("slow", "exhaustive"):
        if config.getoption(f"--run-{marker}"):
            continue
        skip = pytest.mark.skip(reason=f"{marker}: add --run-{marker} to run it")
        for item in items:
            if item.get_closest_marker(marker):
                item.add_marker(skip)
    if not HAS_GPU:
        config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker("gpu")])
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]


def pytest_report_header() -> str:
    return "GPU: yes" if HAS_GPU else "GPU: none, or a build without CUDA; its tests are not made"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker gives its counts to the process that prints them."""
    output: dict[str, object] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["counts"] = dict(COUNTS)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    COUNTS.update(getattr(node, "workeroutput", {}).get("counts", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for what, number in sorted(COUNTS.items()):
        terminalreporter.write_line(f"{what}: {number:,}")


@pytest.fixture
def restored_precision() -> Iterator[None]:
    """Sets the precision back that the test may have changed."""
    before = convkern.get_float32_precision()
    yield
    convkern.set_float32_precision(before)


@pytest.fixture
def medium_precision(restored_precision: None) -> None:
    convkern.set_float32_precision("medium")


@pytest.fixture(scope="session")
def build_once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Folders of programs that are compiled once for all workers."""
    return builder(tmp_path_factory)


@pytest.fixture(scope="session")
def cuda_objects(build_once: Once) -> Callable[[str], Objects]:
    """The CUDA kernels compiled for the simulator with a sanitizer."""

    def compiled(sanitizer: str) -> Objects:
        name = f"simulator_{sanitizer or 'plain'}"
        folder = build_once(name, lambda f: Objects(f, sanitizer=sanitizer).compile())
        return Objects(folder, sanitizer=sanitizer)

    return compiled


@pytest.fixture(scope="session")
def simulator(cuda_objects: Callable[[str], Objects], build_once: Once) -> Simulator:
    objects = cuda_objects("")
    build_once("simulator_library", lambda _: objects.link_library())
    return Simulator(objects.library)


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Processes for tests of several."""
    started = Processes(tmp_path_factory.mktemp("processes"))
    yield started
    started.kill()


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    """Lets no graphs of other tests count as known."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(autouse=True)
def _state_of_torch() -> None:
    """Each test begins with the same seed, and may set the flags of torch.backends. Importing
    torch.testing._internal, as torch.library.opcheck does, forbids that for the whole process by a
    variable of the module, which torch.backends, a wrapper, does not show."""
    torch.manual_seed(0)
    torch.backends.flags_frozen.__globals__["__allow_nonbracketed_mutation_flag"] = True
