"""Every CUDA kernel on a GPU, forced by name, over the case table against float64. There is one
test for each problem."""

from functools import cache
from itertools import product

import pytest
import torch

from cases import CUDA_TILES, CUDA_WINDOWS, EMPTY_BATCH, FEW, problem_id
from convkern import _C
from convkern.problem import DTYPES
from convkern.testing import Accuracy, as_tf32, assert_accurate, operands, run, variant
from counts import count
from named_kernels import check_accurate, every_failure, forced

pytestmark = pytest.mark.gpu

ROWS = {k["name"]: k for k in _C.kernels() if k["device"] == "cuda"}
# This has enough blocks for the largest tile on every GPU.
LARGE = "n1c20h140w140k65r1s1_f32_nchw_fwd#large"


def problems_of_kernels() -> dict[str, list[str]]:
    """Returns each problem with the kernels that must compute it."""
    problems: dict[str, list[str]] = {}
    for name, case, layout in product(
        ROWS, [*FEW, *CUDA_TILES, *CUDA_WINDOWS, LARGE], ["nchw", "nhwc"]
    ):
        pass_, dtype = ROWS[name]["pass_"], ROWS[name]["dtype"]
        for own in DTYPES if dtype == "any" else [dtype]:
            text = variant(case, pass_=pass_, dtype=own, layout=layout)
            problems.setdefault(text, []).append(name)
    return problems


PROBLEMS = problems_of_kernels()


@pytest.fixture(autouse=True)
def _exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes torch's float32 exact, because the kernels are compared with it and it is TF32 by
    default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("problem", PROBLEMS, ids=problem_id)
def test_kernels(problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ops = operands(problem, device="cuda")

    @cache
    def accuracy(tf32: bool) -> Accuracy:
        return Accuracy(as_tf32(ops) if tf32 else ops, peer=False)

    with every_failure(problem) as failures:
        for name in PROBLEMS[problem]:
            tf32 = ROWS[name]["precision"] == "tf32"
            monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
            with failures.of(name):
                check_accurate(accuracy(tf32), forced(name, ops))
                count("CUDA: results of kernels on a GPU, forced in turn")


@pytest.mark.parametrize("pass_", ["fwd", "gx", "gw"])
def test_empty_batch(pass_: str) -> None:
    ops = operands(variant(EMPTY_BATCH, pass_=pass_), device="cuda")
    assert_accurate(run(ops), ops)
