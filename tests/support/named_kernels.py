"""Checks many CPU kernels, by name, on one problem.

A test makes the operands of a problem and the float64 oracle once and then runs every kernel,
because the oracle takes longer than most kernels. The test's message names each kernel that fails,
with the first wrong element.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

import convkern
from convkern import _C
from convkern.testing import Accuracy, Operands, run

ISAS = ["baseline", "avx2", "avx512"]
PASSES = ["fwd", "gx", "gw"]
ROWS = {k["name"]: k for k in _C.kernels() if k["device"] == "cpu"}
CPU_KERNELS = list(ROWS)
# Winograd kernels may be wrong by this many rounding errors of the largest sum of absolute
# products. Their transforms multiply by up to 8 and 5 and add up to 6 terms, twice, before and
# after the products.
WINOGRAD_ERRORS = {"winograd_4x4": 100, "winograd_2x2": 4}


def algorithm(name: str) -> str:
    return ROWS[name]["algorithm"]


def is_available(name: str) -> bool:
    """True if this processor has the kernel's instruction set."""
    levels = [*ISAS, "avx512bf16"]
    return levels.index(ROWS[name]["isa"]) <= levels.index(_C.available_isa())


def available(name: str) -> None:
    """Skips the test on a processor without the kernel's instruction set."""
    if not is_available(name):
        pytest.skip(f"this processor lacks the instruction set of {name}")


AVAILABLE = [name for name in CPU_KERNELS if is_available(name)]
# Kernels that add the products themselves, so that NaN and infinity stay in their windows.
EXACT = [name for name in AVAILABLE if algorithm(name) not in WINOGRAD_ERRORS]


def supporting(ops: Operands, names: list[str]) -> list[str]:
    """Returns the kernels among `names` that compute the problem."""
    supported = []
    for name in names:
        if ROWS[name]["pass_"] == ops.problem.pass_:
            with convkern.use_kernel(name):
                try:
                    plan = _C.plan(ops.problem)
                except ValueError:
                    continue
            assert plan["kernel"] == name
            supported.append(name)
    return supported


def forced(name: str, ops: Operands) -> Tensor:
    """Returns the result of the problem's pass by the kernel with that name."""
    with convkern.use_kernel(name):
        assert _C.plan(ops.problem, ops.x.device.type)["kernel"] == name
        return run(ops)


class Failures:
    """The kernels that failed so far, each with its reason."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Records an error in the block as a failure of the kernel `name`."""
        try:
            yield
        except Exception as error:
            self.messages.append(f"{name}: {error or type(error).__name__}")


@contextmanager
def every_failure(problem: object) -> Iterator[Failures]:
    """Lets the block continue after a kernel has failed. At its end the test fails with the
    messages of all failed kernels."""
    failures = Failures()
    yield failures
    if failures.messages:
        heading = f"{problem}: {len(failures.messages)} failures"
        pytest.fail("\n".join([heading, *failures.messages]), pytrace=False)


def first_element(actual: Tensor, expected: Tensor, wrong: Tensor, bound: object) -> str:
    """Returns the message about the first element of `actual` that is `wrong`."""
    index = wrong.nonzero()[0].tolist()
    got, wanted = (t[tuple(index)].item() for t in (actual, expected))
    return f"element {index} is {got!r}, not {wanted!r}, bound {bound}"


def check_accurate(accuracy: Accuracy, actual: Tensor) -> None:
    """Checks like Accuracy.check, and puts the first wrong element in the message.

    An element's bound does not depend on other elements. The check of the first n elements
    therefore fails for every n beyond the first wrong element, and bisection finds it."""
    try:
        accuracy.check(actual)
    except AssertionError as error:
        expected = accuracy.expected
        if actual.shape != expected.shape or actual.dtype != _dtype(accuracy):
            raise AssertionError(
                f"{actual.dtype} of size {list(actual.shape)}, not {list(expected.shape)}"
            ) from error
        first, last = 0, actual.numel() - 1
        while first < last:
            middle = (first + last) // 2
            if _is_accurate(accuracy, actual, first, middle + 1):
                first = middle + 1
            else:
                last = middle
        wrong = torch.arange(actual.numel()).view(actual.shape) == first
        message = first_element(actual, expected, wrong, "below")
        raise AssertionError(f"{message}; {error}") from error


def _is_accurate(accuracy: Accuracy, actual: Tensor, begin: int, end: int) -> bool:
    try:
        accuracy.check(
            actual.contiguous().flatten()[begin:end],
            lambda whole: whole.contiguous().flatten()[begin:end],
        )
    except AssertionError:
        return False
    return True


def _dtype(accuracy: Accuracy) -> torch.dtype:
    return convkern.problem.DTYPES[accuracy.problem.dtype]


def check_equal(actual: Tensor, expected: Tensor) -> None:
    """Checks that both have the same bits, except for the sign of zeros and the bits of NaN."""
    if torch.equal(actual, expected):
        return
    assert actual.shape == expected.shape
    wrong = actual != expected
    raise AssertionError(first_element(actual, expected, wrong, 0))


def check_winograd(name: str, accuracy: Accuracy, actual: Tensor) -> None:
    eps = torch.finfo(actual.dtype).eps
    bound = WINOGRAD_ERRORS[algorithm(name)] * eps * accuracy.magnitude
    wrong = ~((actual.double() - accuracy.expected).abs() <= bound)  # so that NaN counts as wrong
    if wrong.any():
        raise AssertionError(first_element(actual, accuracy.expected, wrong, bound))
