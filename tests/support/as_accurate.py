"""The rule of accuracy for functions that are drop-ins for torch's."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def assert_as_accurate(
    ours: Callable[..., Tensor],
    theirs: Callable[..., Tensor],
    operands: list[Tensor],
    gy: Tensor,
    options: dict[str, Any],
) -> None:
    """Asserts that the result and the gradients of the operands are right: their errors are at most
    twice torch's, or one rounding of the largest sum of absolute products."""
    wide = [t.double() for t in operands]
    exact = _step(theirs, wide, gy.double(), options)
    sums = _step(theirs, [t.abs() for t in wide], gy.double().abs(), options)
    results = (_step(function, operands, gy, options) for function in (ours, theirs))
    # The reference of float64 is rounded as much itself.
    roundings = (8 if gy.dtype == torch.float64 else 1) * torch.finfo(gy.dtype).eps
    for mine, torchs, right, magnitude in zip(*results, exact, sums, strict=True):
        assert mine.shape == torchs.shape
        least = roundings * float(magnitude.max()) if magnitude.numel() else 0
        assert _error(mine, right) <= max(least, 2 * _error(torchs, right))


def _step(
    function: Callable[..., Tensor], operands: list[Tensor], gy: Tensor, options: dict[str, Any]
) -> list[Tensor]:
    leaves = [t.detach().clone().requires_grad_() for t in operands]
    y = function(*leaves, **options)
    return [y.detach(), *torch.autograd.grad(y, leaves, gy)]


def _error(result: Tensor, expected: Tensor) -> float:
    return float((result.double() - expected).abs().max()) if result.numel() else 0.0
