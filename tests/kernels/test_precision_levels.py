"""What each level of convkern.set_float32_precision promises, for the kernels that are chosen
under it: random numbers, images, sparse images, loud pixels in quiet pictures, and numbers that
transforms cannot hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import convkern
from convkern import _C
from convkern.testing import Operands, assert_accurate, operands, oracle, run, variant

# Layers that transforms compute under "high": lanes of images, lanes of channels, and 3x3.
LAYERS = [
    "n64c1h28w28k1r14s14p2q2_f32_nchw_fwd",
    "n48c2h30w26k3r11s11p5q5_f32_nchw_fwd",
    "n3c40h40w42k40r21s21p10q10g40_f32_nchw_fwd",
    "n4c32h20w22k48r3s3p1q1_f32_nchw_fwd",
]
PASSES = ("fwd", "gx", "gw")
LAYOUTS = ("nchw", "nhwc")


pytestmark = pytest.mark.usefixtures("restored_precision")


def transforms(problem: str) -> bool:
    kernel = convkern.explain(problem).kernel
    return "fft" in kernel or "winograd" in kernel


def sparse(t: Tensor) -> Tensor:
    return t * (torch.rand_like(t) < 0.1)


def bound_by_own_terms(ops: Operands) -> Tensor:
    """Returns, for each element, the rounding errors that a sum of its own terms may have. Numbers
    that are not finite count as 0."""
    magnitude = oracle(ops.map(lambda t: t.abs().nan_to_num(0, 0)))
    terms = ops.problem.flops / 2 / magnitude.numel()
    return (2 + terms**0.5) * torch.finfo(torch.float32).eps * magnitude


def error(actual: Tensor, ops: Operands) -> float:
    """Returns the largest error, relative to the root mean square of the result."""
    exact = oracle(ops)
    return float((actual.double() - exact).abs().max() / exact.square().mean().sqrt())


@pytest.mark.parametrize(
    "change", [torch.clone, torch.rand_like, sparse], ids=["normal", "images", "sparse"]
)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("layer", LAYERS)
def test_high_is_as_accurate_as_torch(
    layer: str, pass_: str, layout: str, change: Callable[[Tensor], Tensor]
) -> None:
    problem = variant(layer, pass_=pass_, layout=layout)
    ops = operands(problem)
    ops = Operands(ops.problem, change(ops.x), ops.w, ops.b, change(ops.gy))
    convkern.set_float32_precision("high")
    assert transforms(problem)
    # Torch's error in NCHW is the smaller of its two.
    assert_accurate(run(ops), ops.map(torch.Tensor.contiguous))


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("layer", LAYERS)
def test_highest_adds_the_products_of_each_result(layer: str, pass_: str) -> None:
    """Each error is relative to the terms of that result, whatever the others are."""
    ops = operands(variant(layer, pass_=pass_))
    loud = torch.where(torch.rand(ops.x.shape) < 0.01, 1e6, 1.0)
    ops.x.mul_(loud)
    ops.gy[..., ::3].mul_(1e-6)
    convkern.set_float32_precision("highest")
    assert not transforms(str(ops.problem))
    assert ((run(ops).double() - oracle(ops)).abs() <= bound_by_own_terms(ops)).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pass_", PASSES)
def test_medium_rounds_more(pass_: str, layout: str) -> None:
    ops = operands(variant(LAYERS[-1], pass_=pass_, layout=layout))
    convkern.set_float32_precision("medium")
    assert "winograd_4x4" in convkern.explain(str(ops.problem)).kernel
    assert error(run(ops), ops) <= 1e-4


def read_by_pass(ops: Operands) -> Tensor:
    return ops.gy if ops.problem.pass_ == "gx" else ops.x


@pytest.mark.parametrize("precision", ["high", "medium"])
@pytest.mark.parametrize("value", [1e4, 1e30, float("inf"), float("nan"), 1e-30])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pass_", ["fwd", "gx"])
@pytest.mark.parametrize("layer", LAYERS)
def test_images_of_which_transforms_are_not_sure_are_summed_directly(
    layer: str, pass_: str, layout: str, value: float, precision: convkern.choices.Precision
) -> None:
    """A pixel of another size in a quiet image, or an image of tiny numbers, costs no digits. The
    results of other images keep their bits."""
    problem = variant(layer, pass_=pass_, layout=layout)
    ops = operands(problem)
    convkern.set_float32_precision(precision)
    assert transforms(problem)
    before = run(ops)
    image = read_by_pass(ops)[1]
    if value < 1:
        image.mul_(value)
    else:
        image[-1, image.shape[1] // 2, image.shape[2] // 3] = value
    after, exact = run(ops), oracle(ops)
    kept = torch.arange(len(after)) != 1
    assert torch.equal(after[kept], before[kept])
    assert torch.equal(after.isnan(), exact.isnan())
    assert torch.equal(after.isposinf(), exact.isposinf())
    # Every element is as accurate as its own terms.
    finite = exact[1].isfinite()
    bound = bound_by_own_terms(ops)[1]
    assert ((after[1].double() - exact[1]).abs() <= bound)[finite].all()


@pytest.mark.parametrize("precision", ["high", "medium"])
@pytest.mark.parametrize("scale", [1e25, 1e-30, 0.0])
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("layer", LAYERS)
def test_weights_and_gradients_that_transforms_cannot_hold(
    layer: str, pass_: str, scale: float, precision: convkern.choices.Precision
) -> None:
    """test_special_values.py has those that are not finite."""
    ops = operands(variant(layer, pass_=pass_))
    convkern.set_float32_precision(precision)
    assert transforms(str(ops.problem))
    (ops.gy if pass_ == "gw" else ops.w).mul_(scale)
    result, exact = run(ops), oracle(ops)
    allowed = 1e-4 if precision == "medium" else 1e-5
    assert (result.double() - exact).abs().max() <= allowed * exact.square().mean().sqrt()


def test_the_levels_are_in_order() -> None:
    """A kernel that a level allows is allowed by every lower one."""
    of = {k["name"]: k["precision"] for k in _C.kernels() if k["device"] == "cpu"}
    assert {name.split(".")[1] for name, level in of.items() if level == "high"} == {
        "fft",
        "winograd_2x2",
    }
    assert {name.split(".")[1] for name, level in of.items() if level == "medium"} == {
        "winograd_4x4"
    }
    assert {level for name, level in of.items() if "direct" in name} == {"highest"}
