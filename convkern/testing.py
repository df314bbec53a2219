"""Parts that tests and benchmarks share: operands of a problem, the float64 oracle and the
tolerance rule.

A problem is given as a problem string (see ``convkern._C.Problem``). Its pass decides what is
computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from convkern._C import Problem
from convkern.activations import activated
from convkern.choices import Dtype, Layout, PaddingMode, Pass
from convkern.functional import torch_conv2d
from convkern.problem import DTYPES, FORMATS
from convkern.window import composed, paddings


def variant(
    text: str,
    *,
    dtype: Dtype | None = None,
    layout: Layout | None = None,
    pass_: Pass = "fwd",
) -> str:
    """Returns a forward problem string with its `dtype`, `layout` or `pass_` replaced. The epilogue
    is dropped if the new pass has none."""
    body, _, label = text.partition("#")
    sizes, own_dtype, own_layout, forward = body.split("_")
    mode = [word for word in forward.split("+")[1:2] if word in get_args(PaddingMode)]
    tail = forward if pass_ == "fwd" else "+".join([pass_, *mode])
    changed = f"{sizes}_{dtype or own_dtype}_{layout or own_layout}_{tail}"
    return f"{changed}#{label}" if label else changed


def with_mode(text: str, mode: PaddingMode) -> str:
    """Returns a problem string of zeros with another mode of padding."""
    body, _, label = text.partition("#")
    sizes, tail = body.rsplit("_", 1)
    pass_, *words = tail.split("+")
    changed = f"{sizes}_{'+'.join([pass_, mode, *words])}"
    return f"{changed}#{label}" if label else changed


@dataclass(frozen=True)
class Operands:
    """Random operands of a problem, in its dtype and layout. `b` and `residual` are None where the
    problem has none."""

    problem: Problem
    x: Tensor
    w: Tensor
    b: Tensor | None
    gy: Tensor
    residual: Tensor | None = None

    @property
    def window(self) -> tuple[list[int], list[int], list[int], int]:
        p = self.problem
        return list(p.stride), paddings(p.padding), list(p.dilation), p.groups

    def map(self, change: Callable[[Tensor], Tensor]) -> Operands:
        b = None if self.b is None else change(self.b)
        residual = None if self.residual is None else change(self.residual)
        return Operands(self.problem, change(self.x), change(self.w), b, change(self.gy), residual)

    def to(self, dtype: torch.dtype, device: str) -> Operands:
        return self.map(lambda t: t.to(device, dtype))


def operands(text: str, seed: int = 0, device: str = "cpu") -> Operands:
    """Returns standard normal operands of the problem. They are the same for every device."""
    problem = Problem(text)
    generator = torch.Generator().manual_seed(seed)

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    memory_format = FORMATS[problem.layout]
    return Operands(
        problem,
        random(*problem.input_size).contiguous(memory_format=memory_format),
        random(*problem.weight_size),
        random(problem.weight_size[0]) if problem.bias else None,
        random(*problem.output_size).contiguous(memory_format=memory_format),
        random(*problem.output_size).contiguous(memory_format=memory_format)
        if problem.residual
        else None,
    ).to(DTYPES[problem.dtype], device)


def as_tf32(ops: Operands) -> Operands:
    """Returns float32 operands rounded to TF32, which has 10 bits after the point. They are rounded
    to nearest, with ties away from zero. `b` and the residual are only added, so they stay as they
    are."""

    def rounded(t: Tensor) -> Tensor:
        return ((t.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)

    return dataclasses.replace(ops, x=rounded(ops.x), w=rounded(ops.w), gy=rounded(ops.gy))


def run(ops: Operands) -> Tensor:
    """Returns the result of the problem's pass by convkern: y, gx or gw."""
    problem, op = ops.problem, torch.ops.convkern
    result: Tensor
    if problem.pass_ == "fwd":
        epilogue = problem.activation, ops.residual
        result = op.conv2d(ops.x, ops.w, ops.b, *ops.window, *epilogue, problem.padding_mode)
    elif problem.pass_ == "gx":
        # Where gy has one channel, both layouts fit it. Autograd passes that of the input, too.
        sizes, layout = list(problem.input_size), FORMATS[problem.layout]
        result = op.conv2d_grad_input(
            ops.gy, ops.w, sizes, *ops.window, layout, problem.padding_mode
        )
    else:
        sizes = list(problem.weight_size)
        result = op.conv2d_grad_weight(
            ops.gy, ops.x, sizes, *ops.window, None, problem.padding_mode
        )
    return result


def run_torch(ops: Operands) -> Tensor:
    """Returns the result of the problem's pass by torch, in the dtype of the operands."""
    problem = ops.problem
    x = ops.x.detach().requires_grad_(problem.pass_ == "gx")
    w = ops.w.detach().requires_grad_(problem.pass_ == "gw")
    stride, padding, dilation, groups = ops.window
    padded, pads = composed(x, padding, problem.padding_mode)
    y = torch_conv2d(padded, w, ops.b, stride, pads, dilation, groups)
    if problem.pass_ == "fwd":
        return activated(y, problem.activation, ops.residual)
    return torch.autograd.grad(y, x if problem.pass_ == "gx" else w, ops.gy)[0]


def oracle(ops: Operands) -> Tensor:
    """Returns the result of the problem's pass by torch in float64 on the CPU. The operands are not
    rounded further."""
    return run_torch(ops.to(torch.float64, "cpu"))


class Accuracy:
    """The rule of :func:`assert_accurate` for one problem. It is computed once and then checks the
    results of several kernels."""

    def __init__(self, ops: Operands, *, peer: bool = True) -> None:
        problem = self.problem = ops.problem
        self.expected = oracle(ops)
        text, activation = str(problem), problem.activation
        if activation is not None:
            text = text.removesuffix(f"+{activation}")
        plain = dataclasses.replace(ops, problem=Problem(text))
        # The largest sum of absolute products among all elements of the result.
        self.magnitude = oracle(plain.map(torch.abs)).amax().item() if self.expected.numel() else 0
        self.torchs_error: float | None = None
        # In 16 bits a gradient is rounded before those of cells that repeat each other are added,
        # by torch too.
        repeats = problem.padding_mode != "zeros" and problem.pass_ == "gx"
        half = problem.dtype in ("bf16", "f16")
        if ((problem.dtype == "f32" and peer) or (half and repeats)) and self.expected.numel():
            self.torchs_error = (run_torch(ops).cpu().double() - self.expected).abs().max().item()

    def check(self, actual: Tensor, part: Callable[[Tensor], Tensor] = lambda whole: whole) -> None:
        """Asserts that `actual` is accurate. `part` selects the part of the pass's result that it
        is."""
        problem, dtype, expected = self.problem, actual.dtype, part(self.expected)
        assert actual.shape == expected.shape
        assert dtype == DTYPES[problem.dtype]
        if actual.numel() == 0:
            return
        error = (actual.cpu().double() - expected).abs()
        if dtype in (torch.bfloat16, torch.float16):
            ulp = torch.finfo(dtype).eps * expected.abs().clamp(min=torch.finfo(dtype).tiny)
            bound = 0.5 * ulp + 4 * torch.finfo(torch.float32).eps * self.magnitude
            if self.torchs_error is not None:
                bound = bound.clamp(min=2 * self.torchs_error)
            over = (error - bound).max()
            assert not (~(error <= bound)).any(), f"{problem}: error {over:.2e} over"
            return
        if self.torchs_error is not None:
            bound_of_all = max(2 * self.torchs_error, torch.finfo(dtype).eps * self.magnitude)
        else:
            terms = problem.flops / 2 / max(self.expected.numel(), 1)
            bound_of_all = (2 + terms**0.5) * torch.finfo(dtype).eps * self.magnitude
        largest = error.max().item()
        # The comparison is written so that NaN fails it.
        assert largest <= bound_of_all, f"{problem}: error {largest:.2e}, bound {bound_of_all:.2e}"


def assert_accurate(actual: Tensor, ops: Operands, *, peer: bool = True) -> None:
    """Asserts that `actual` is the result of the problem's pass to the precision of its dtype.

    float32: the largest error against float64 is at most twice that of torch in float32. Where
    torch is very accurate by luck, one rounding error of the largest sum of absolute products is
    allowed. float64, and float32 if torch is no `peer`: the error is at most that of as many
    roundings as a sum of that length has. bfloat16 and float16: the result is correctly rounded,
    except for the errors of a float32 sum. Gradients of an input with a mode of padding may have
    twice torch's error.
    """
    Accuracy(ops, peer=peer).check(actual)
