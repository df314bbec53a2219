"""Batch normalisation with activation and residual by the native passes and by torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convkern import _C
from convkern.activations import activated
from convkern.choices import Isa

BOUNDS = [None, "relu", "relu6", "clamp(-1.0,2.0)"]  # what may follow a residual
ACTIVATIONS = [*BOUNDS, "silu", "hardswish", "leaky_relu(0.1)"]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
FORMATS = [torch.contiguous_format, torch.channels_last]
ISAS: list[Isa] = ["baseline", "avx2", "avx512"]


def theirs(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    activation: str | None = None,
    residual: Tensor | None = None,
    twice: bool = False,
    recompute: bool = False,
) -> Any:
    y = F.batch_norm(x, mean, var, weight, bias, training, momentum, eps)
    y = activated(y, activation, residual)
    return (y, y) if twice else y


def native(*arguments: Any) -> Any:
    """Returns what the native call returns, which must compute these arguments."""
    results = _C.batch_norm(*arguments)
    assert results is not None
    return results if arguments[10] else results[0]


class Case:
    """Operands and gradients of the result, in float64. Of the two gradients those at the places
    `same` are one number for each image and channel, expanded to the pixels."""

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format,
        *, residual: bool = False, affine: bool = True, training: bool = True, scale: float = 1,
        offset: float = 0.5, same: Sequence[int] = (),
    ) -> None:  # fmt: skip
        channels = shape[1]
        self.dtype, self.training, self.layout = dtype, training, layout
        small = torch.float64 if dtype == torch.float64 else torch.float32

        def images() -> Tensor:
            t = torch.randn(shape, dtype=torch.float64)
            return t.to(dtype).to(torch.float64).contiguous(memory_format=layout)

        self.x = (images() * scale + offset).to(dtype).double()
        self.residual = images() if residual else None
        self.gy, self.same = [images(), images()], same
        for place in same:
            self.gy[place] = self.gy[place][:, :, :1, :1].expand(shape)
        self.weight = torch.randn(channels).to(small).double() if affine else None
        self.bias = torch.randn(channels).to(small).double() if affine else None
        self.mean = torch.randn(channels).to(small).double()
        self.var = torch.rand(channels).add(0.5).to(small).double()

    def magnitude(self, name: str) -> float:
        """Returns the largest sum of absolute terms of a channel's gradient, and 0 for others."""
        if name not in ("grad of weight", "grad of bias"):
            return 0
        mean, var = self.x.mean((0, 2, 3)), self.x.var((0, 2, 3), unbiased=False)
        if not self.training:
            mean, var = self.mean, self.var
        u = F.batch_norm(self.x, mean, var, eps=1e-5)
        terms = (self.gy[0].abs() + self.gy[1].abs()) * (u if name == "grad of weight" else 1)
        return terms.abs().sum((0, 2, 3)).max().item()

    def run(
        self, call: Any, activation: str | None, dtype: torch.dtype, gradients: str = "first"
    ) -> dict[str, Tensor]:
        """Returns the result, the gradients and the statistics by name."""
        small = torch.float64 if dtype == torch.float64 else torch.float32

        def leaf(t: Tensor | None, to: torch.dtype) -> Tensor | None:
            return None if t is None else t.to(to, copy=True).requires_grad_()

        x, residual = leaf(self.x, dtype), leaf(self.residual, dtype)
        weight, bias = leaf(self.weight, small), leaf(self.bias, small)
        mean, var = self.mean.to(small, copy=True), self.var.to(small, copy=True)
        twice = gradients != "first"
        y = call(x, mean, var, weight, bias, self.training, 0.1, 1e-5, activation, residual,
                 twice, False)  # fmt: skip
        gy = [g.to(dtype) for g in self.gy]
        for place in self.same:
            gy[place] = gy[place][:, :, :1, :1].expand(gy[place].shape)
        if gradients == "first":
            torch.autograd.backward([y], [gy[0]])
        elif gradients == "second":
            torch.autograd.backward([y[1]], [gy[1]])
        else:
            torch.autograd.backward(list(y), gy)
        y = y[0] if twice else y
        named = {"y": y.detach(), "mean": mean, "var": var}
        operands = {"x": x, "residual": residual, "weight": weight, "bias": bias}
        named |= {f"grad of {name}": t.grad for name, t in operands.items()
                  if t is not None and t.grad is not None}  # fmt: skip
        return named


def assert_as_accurate(
    case: Case, activation: str | None, gradients: str = "first", call: Any = native
) -> None:
    """Asserts that each result's error, relative to its root mean square, is at most twice that of
    torch in the same dtype, or a few roundings."""
    ours = case.run(call, activation, case.dtype, gradients)
    peers = case.run(theirs, activation, case.dtype, gradients)
    expected = case.run(theirs, activation, torch.float64, gradients)
    assert ours.keys() == peers.keys() == expected.keys()
    for name, value in expected.items():
        ours_now, peer = ours[name], peers[name]
        assert ours_now.dtype == peer.dtype, name
        assert ours_now.shape == value.shape, name
        if name == "y":
            assert ours_now.is_contiguous(memory_format=case.layout)
        rms = value.square().mean().sqrt().item()
        error = (ours_now.double() - value).abs().max().item()
        peers_error = (peer.double() - value).abs().max().item()
        # Where torch is very accurate by luck, a rounding of the largest sum of absolute terms is
        # allowed. In float64, torch's own result has the roundings of these sums, and what few
        # pixels and a small variance make of them.
        eps, terms = torch.finfo(ours_now.dtype).eps, case.x.numel() / case.x.shape[1]
        roundings = 64 * terms**0.5 if case.dtype == torch.float64 else 1
        largest = max(4 * value.abs().max().item(), case.magnitude(name))
        bound = 2 * peers_error + roundings * eps * largest
        assert error <= bound, f"{name}: {error:.2e}, torch {peers_error:.2e}, rms {rms:.2e}"


def doubles(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)
