"""Differential fuzzing: random problems, layouts and views against float64. They run through the
API and by every CPU kernel that supports the problem. `make fuzz` runs it for longer.

float32 is compared with the rounding errors of a sum of its length, not with twice torch's error.
Among thousands of small results, torch happens to round some without an error.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import convkern
from convkern import _C
from convkern.problem import DTYPES
from convkern.testing import Accuracy, Operands, operands
from counts import count
from fuzz import VIEWS, Shape, fuzzing, shapes, tensor
from named_kernels import (
    AVAILABLE,
    WINOGRAD_ERRORS,
    algorithm,
    check_accurate,
    check_winograd,
    every_failure,
    forced,
    supporting,
)

dtypes = st.sampled_from(list(DTYPES))
views = st.sampled_from(VIEWS)
seeds = st.integers(0, 2**32 - 1)


def check_bias_gradient(gb: Tensor, gy: Tensor) -> None:
    """Checks gb against gy as it reaches the convolution."""
    expected, magnitude = (t.double().sum((0, 2, 3)) for t in (gy, gy.abs()))
    terms = gy.numel() / max(1, gy.shape[1])
    eps = torch.finfo(gy.dtype).eps
    if gy.dtype in (torch.bfloat16, torch.float16):
        bound = 0.5 * eps * expected.abs() + 4 * torch.finfo(torch.float32).eps * magnitude
        bound += torch.finfo(gy.dtype).tiny * eps
    else:
        bound = (2 + terms**0.5) * eps * magnitude
    assert gb.shape == expected.shape
    assert gb.dtype == gy.dtype
    assert ((gb.double() - expected).abs() <= bound).all()


def padded(x: Tensor, shape: Shape) -> Tensor:
    (top, bottom), (left, right) = shape.padded()
    return F.pad(x, (0, right - left, 0, bottom - top))


@fuzzing(short=60)
@given(
    shape=shapes(), dtype=dtypes, layout=st.tuples(views, views, views, views), seed=seeds,
    wanted=st.lists(st.sampled_from("xwb"), unique=True), bias=st.booleans(),
    activation=st.sampled_from([None, "relu"]), threads=st.integers(1, 3),
    unbatched=st.booleans(), isa=st.sampled_from(["baseline", "avx2", "avx512", "avx512bf16"]),
)  # fmt: skip
def test_conv2d_and_its_gradients(
    shape: Shape, dtype: str, layout: tuple[str, ...], seed: int, wanted: list[str], bias: bool,
    activation: str | None, threads: int, unbatched: bool, isa: str,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    x, w, b = (
        tensor(size, dtype, view, generator)
        for size, view in zip((shape.x, shape.w, shape.w[:1]), layout[:3], strict=True)
    )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with convkern.use_isa(isa):
            check_conv2d(
                shape, dtype, x, w, b if bias else None,
                wanted, activation, layout[3], generator, unbatched and shape.x[0] == 1,
            )  # fmt: skip
    finally:
        torch.set_num_threads(before)


def check_conv2d(
    shape: Shape, dtype: str, x: Tensor, w: Tensor, b: Tensor | None, wanted: list[str],
    activation: str | None, gy_view: str, generator: torch.Generator, unbatched: bool,
) -> None:  # fmt: skip
    leaves = {"x": x, "w": w, "b": b}
    inputs = [t.requires_grad_() for name, t in leaves.items() if name in wanted and t is not None]
    y = convkern.conv2d(
        x.squeeze(0) if unbatched else x, w, b, shape.stride, shape.padding, shape.dilation,
        shape.groups, activation=activation,
    )  # fmt: skip
    y = y.unsqueeze(0) if unbatched else y
    assert y.requires_grad == bool(inputs)
    tail = "fwd" + "+bias" * (b is not None) + "+relu" * (activation is not None)
    gy = tensor(y.shape, dtype, gy_view, generator)
    through = gy if activation is None else gy * (y.detach() > 0)

    def ops(pass_: str) -> Operands:
        problem = _C.Problem(shape.problem(dtype, pass_))
        bias = None if b is None else b.detach()
        return Operands(problem, padded(x.detach(), shape), w.detach(), bias, through)

    Accuracy(ops(tail), peer=False).check(y.detach())
    count("fuzz: results of convkern.conv2d and its gradients", 1 + len(inputs))
    if not inputs:
        return
    grads = dict(zip(map(id, inputs), torch.autograd.grad(y, inputs, gy), strict=True))
    if id(x) in grads:
        h, v = shape.x[2:]
        Accuracy(ops("gx"), peer=False).check(grads[id(x)], lambda whole: whole[:, :, :h, :v])
    if id(w) in grads:
        Accuracy(ops("gw"), peer=False).check(grads[id(w)])
    if b is not None and id(b) in grads:
        check_bias_gradient(grads[id(b)], through)


@pytest.mark.usefixtures("medium_precision")
@fuzzing(short=30)
@given(
    shape=shapes(least_batch=1), dtype=dtypes, layout=st.sampled_from(["nchw", "nhwc"]),
    tail=st.sampled_from(["fwd", "fwd+bias", "fwd+bias+relu", "gx", "gw"]), seed=seeds,
)  # fmt: skip
def test_every_kernel(shape: Shape, dtype: str, layout: str, tail: str, seed: int) -> None:
    ops = operands(shape.problem(dtype, tail, layout), seed)
    accuracy = Accuracy(ops, peer=False)
    with every_failure(ops.problem) as failures:
        for name in supporting(ops, AVAILABLE):
            with failures.of(name):
                result = forced(name, ops)
                if algorithm(name) in WINOGRAD_ERRORS and dtype in ("f32", "f64"):
                    check_winograd(name, accuracy, result)
                else:
                    check_accurate(accuracy, result)
                count("fuzz: results of kernels, forced in turn")
