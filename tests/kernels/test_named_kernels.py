"""Checks of many kernels on one problem find every wrong kernel. Faults are planted in what single
kernels return, and each must be named with its first wrong element."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import test_kernels
import test_special_values
import torch
from torch import Tensor

import named_kernels
from cases import WINOGRAD
from convkern import _C
from convkern.testing import Accuracy, Operands, operands, run
from named_kernels import check_accurate

KERNELS = ["fwd.direct_batchlane.f32.baseline", "fwd.implicit_gemm.f32.baseline"]
PROBLEM = next(p for p, names in test_kernels.PROBLEMS.items() if {*KERNELS} <= {*names})
Change = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def _without_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps these checks out of the run's counts, which are of results that the tests themselves
    check."""
    for module in (test_kernels, test_special_values):
        monkeypatch.setattr(module, "count", lambda *_: None)


def with_element(index: tuple[int, ...], value: float) -> Change:
    def changed(result: Tensor) -> Tensor:
        result = result.clone()
        result[index] = value
        return result

    return changed


def plant(monkeypatch: pytest.MonkeyPatch, faults: dict[str, Change]) -> None:
    """Changes the results of the kernels with these names."""

    def faulty(ops: Operands) -> Tensor:
        name = _C.plan(ops.problem)["kernel"]
        return faults.get(name, lambda result: result)(run(ops))

    monkeypatch.setattr(named_kernels, "run", faulty)


def lines_of_failure(test: Callable[..., None], *arguments: object) -> list[str]:
    with pytest.raises(pytest.fail.Exception) as failed:
        test(*arguments)
    return str(failed.value).splitlines()


@pytest.mark.parametrize("value", [100.0, float("nan"), float("inf")])
def test_each_wrong_kernel_is_named(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    first, last = (with_element(index, value) for index in ((0, 0, 1, 0), (0, 2, 0, 1)))
    faults = {
        KERNELS[0]: with_element((0, 1, 2, 3), value),
        KERNELS[1]: lambda y: first(last(y)),
    }
    plant(monkeypatch, faults)
    heading, *lines = lines_of_failure(test_kernels.test_kernels, PROBLEM)
    assert heading == f"{PROBLEM}: 2 failures"
    by_name = dict(line.split(": ", 1) for line in lines)
    assert set(by_name) == set(KERNELS)
    assert by_name[KERNELS[0]].startswith(f"element [0, 1, 2, 3] is {value}, not ")
    assert by_name[KERNELS[1]].startswith(f"element [0, 0, 1, 0] is {value}, not ")
    assert all("bound " in line for line in by_name.values())


@pytest.mark.parametrize(("times", "is_wrong"), [(0.9, False), (1.1, True)])
def test_the_bound_decides(times: float, is_wrong: bool) -> None:
    accuracy = Accuracy(operands("n2c3h6w5k4r3s3p1q1_f32_nchw_fwd"))
    assert accuracy.torchs_error is not None
    bound = max(2 * accuracy.torchs_error, 2**-23 * accuracy.magnitude)
    result = accuracy.expected.clone()
    result[1, 3, 5, 4] += times * bound
    result[0, 1, 0, 0] -= 0.8 * bound
    if is_wrong:
        with pytest.raises(AssertionError, match=r"^element \[1, 3, 5, 4\] is .*, not .*, bound "):
            check_accurate(accuracy, result.float())
    else:
        check_accurate(accuracy, result.float())


def test_a_unit_in_the_last_place_of_bfloat16_is_found() -> None:
    accuracy = Accuracy(operands("n2c3h6w5k4r3s3p1q1_bf16_nhwc_fwd"))
    result = accuracy.expected.bfloat16()
    check_accurate(accuracy, result)
    result.view(torch.int16)[0, 2, 3, 1] += 1
    with pytest.raises(AssertionError, match=r"^element \[0, 2, 3, 1\] is "):
        check_accurate(accuracy, result)


def test_results_that_are_a_place_off_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, {KERNELS[1]: lambda y: y.roll(1)})
    _, line = lines_of_failure(test_kernels.test_kernels, PROBLEM)
    assert line.startswith(f"{KERNELS[1]}: element [0, 0, 0, 0] is ")


def test_a_wrong_winograd_kernel_is_named(
    monkeypatch: pytest.MonkeyPatch, medium_precision: None
) -> None:
    name = "gw.winograd_2x2.f32.baseline"
    plant(monkeypatch, {name: with_element((1, 0, 2, 2), float("nan"))})
    _, line = lines_of_failure(test_kernels.test_winograd, WINOGRAD[0], "gw", "nchw")
    assert line.startswith(f"{name}: element [1, 0, 2, 2] is nan, not ")


def test_a_nan_beside_its_window_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    case = test_special_values.PROBLEMS[0]
    name = "fwd.direct_columnlane.half.baseline"
    plant(monkeypatch, {name: with_element((1, 1, 0, 0), float("nan"))})
    _, *lines = lines_of_failure(
        test_special_values.test_nan_and_infinities_stay_in_their_windows,
        case, "bf16", "fwd", "nchw",
    )  # fmt: skip
    assert lines
    assert all(line.startswith(f"{name} with ") for line in lines)
    assert all("element [1, 1, 0, 0] is nan, not " in line for line in lines)


def test_a_wrong_size_or_dtype_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, {KERNELS[0]: lambda y: y[:, 1:], KERNELS[1]: Tensor.double})
    _, first, second = lines_of_failure(test_kernels.test_kernels, PROBLEM)
    assert first.startswith(f"{KERNELS[0]}: torch.float32 of size ")
    assert second.startswith(f"{KERNELS[1]}: torch.float64 of size ")


def test_a_kernel_that_raises_is_named_and_the_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Tensor) -> Tensor:
        raise RuntimeError("planted")

    plant(monkeypatch, {KERNELS[0]: refuse, KERNELS[1]: torch.zeros_like})
    _, first, second = lines_of_failure(test_kernels.test_kernels, PROBLEM)
    assert first == f"{KERNELS[0]}: planted"
    assert second.startswith(f"{KERNELS[1]}: element [0, 0, 0, 0] is 0.0, not ")
