"""PyTorch's own tests of convolution, with convkern in the place of torch's conv2d.

    python tests/torch/upstream.py PYTORCH/test/nn/test_convolution.py [options of pytest]

Runs every test of the file; a call of nn.functional.conv2d or torch.conv2d in it, as nn.Conv2d
makes, goes to convkern.conv2d. Counts the tests that made such a call, and runs those that failed
once more with torch's own conv2d: what fails with torch too (a file of another version, a package
that is missing) is told from what only convkern fails. The file is PyTorch's, of the version
installed; it needs expecttest, and scipy for some tests. The exit status is 0 if some tests
reached convkern, and only those of DIFFER fail with it alone.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

import convkern

# By the name of the test: what it asks that convkern does differently.
DIFFER = {
    "test_functional_grad_conv2d": "asks for float32 gradients equal to 1e-5 to those of "
    "torch.nn.grad, which are torch's own: sums of thousands of products in another order",
}


class Redirect(TorchFunctionMode):
    """Hands torch's conv2d to convkern.conv2d, and counts the calls."""

    calls = 0

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if function is torch.conv2d:
            self.calls += 1
            function = convkern.conv2d
        return function(*args, **(kwargs or {}))


class Reached:
    """A plugin of pytest that records the outcome of each test that called conv2d, by node id."""

    def __init__(self, redirect: bool) -> None:
        self.redirect = redirect
        self.outcomes: dict[str, str] = {}
        self.others = 0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        with Redirect() if self.redirect else nullcontext() as mode:
            try:
                return (yield)
            finally:
                item.stash[CALLS] = mode.calls if mode else 1

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.when == "call":
            if item.stash[CALLS]:
                self.outcomes[item.nodeid] = report.outcome
            else:
                self.others += 1
        return report

    def failed(self) -> list[str]:
        return [test for test, outcome in self.outcomes.items() if outcome == "failed"]


CALLS = pytest.StashKey[int]()
# Do not use the project's configuration, whose options and warnings are not meant for these tests.
OPTIONS = ["-c", "/dev/null", "-p", "no:cacheprovider", "-q", "--no-header"]


def run(tests: Sequence[str], file: Path, options: Sequence[str], *, redirect: bool) -> Reached:
    reached = Reached(redirect)
    pytest.main([*OPTIONS, f"--rootdir={file.parent}", *tests, *options], plugins=[reached])
    return reached


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("file", type=Path, help="PyTorch's test/nn/test_convolution.py")
    arguments, options = parser.parse_known_args()
    file = arguments.file.resolve(strict=True)
    ours = run([str(file)], file, options, redirect=True)
    failed = ours.failed()
    ids = [f"{file.parent}/{test}" for test in failed]
    with_torch = run(ids, file, options, redirect=False).failed() if ids else []
    only_ours = sorted(set(failed) - set(with_torch))
    reasons = {test: DIFFER.get(test.rpartition(":")[2]) for test in only_ours}
    counts = Counter(ours.outcomes.values())
    print(f"\n{len(ours.outcomes)} tests call conv2d: {counts['passed']} pass with convkern, "
          f"{counts['skipped']} skip, {len(with_torch)} fail with torch too, "
          f"{len(only_ours)} fail with convkern alone; {ours.others} other tests")  # fmt: skip
    for test, reason in reasons.items():
        print(f"fails with convkern alone: {test}: {reason or 'not known why'}")
    return int(None in reasons.values() or not counts["passed"])


if __name__ == "__main__":
    raise SystemExit(main())
