"""Options and shared fixtures."""

import pytest
import torch

from convkern import _C


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skip_slow = pytest.mark.skip(reason="slow: add --run-slow to run it")
    skip_gpu = pytest.mark.skip(reason="no CUDA device, or a build without CUDA")
    has_gpu = torch.cuda.is_available() and _C.build_info()["cuda"] is not None
    for item in items:
        if "slow" in item.keywords and not config.getoption("--run-slow"):
            item.add_marker(skip_slow)
        if "gpu" in item.keywords and not has_gpu:
            item.add_marker(skip_gpu)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
