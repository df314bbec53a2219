"""Makes problem strings from tensors. `convkern._C.Problem` has the grammar, parser and
formatter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convkern._C import Problem

DTYPES = {
    "f32": torch.float32, "f64": torch.float64, "bf16": torch.bfloat16, "f16": torch.float16
}  # fmt: skip
FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def forward_problem(
    x: Tensor,
    w: Tensor,
    bias: bool,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    relu: bool,
) -> Problem:
    """Returns the forward problem of x (N, C, H, W) and w (O, C / groups, R, S), whose shapes must
    fit.

    Raises:
        ValueError: the convolution is impossible.
    """
    sizes = (*x.shape, w.shape[0], *w.shape[2:], *padding, *stride, *dilation, groups)
    return _problem(
        sizes, x.dtype, {_format(x), _format(w)}, "fwd" + "+bias" * bias + "+relu" * relu
    )


def problem_of(pass_: str, args: Sequence[Any]) -> Problem:
    """Returns the problem that an op of convkern computes with these positional arguments.
    Arguments at the end may be missing if they have their default.

    Args:
        pass_: ``"fwd"``, ``"gx"`` or ``"gw"``, for conv2d, conv2d_grad_input, conv2d_grad_weight.
    """
    first, second, third, *window = args if len(args) > 2 else (*args, None)
    defaults: list[Any] = [[1, 1], [0, 0], [1, 1], 1, None]
    # The last argument is the activation for fwd, and the memory format for gx and gw.
    stride, padding, dilation, groups, last = [*window, *defaults[len(window) :]]
    formats = {_format(first), _format(second)}
    if pass_ == "gx":
        x_size, w_size = third, second.shape
        formats = formats if last is None else {last}
    elif pass_ == "gw":
        x_size, w_size = second.shape, third
    else:
        x_size, w_size = first.shape, second.shape
    epilogue = "+bias" * (third is not None) + "+relu" * (last == "relu")
    tail = f"fwd{epilogue}" if pass_ == "fwd" else pass_
    window_sizes = (*padding, *stride, *dilation, groups)
    return _problem((*x_size, w_size[0], *w_size[2:], *window_sizes), first.dtype, formats, tail)


def _format(t: Tensor) -> torch.memory_format:
    result: torch.memory_format = torch._prims_common.suggest_memory_format(t)
    return result


def _problem(
    sizes: Sequence[int], dtype: torch.dtype, formats: set[torch.memory_format], tail: str
) -> Problem:
    """Returns the problem with `sizes` in the order of a problem string. It is channels_last if one
    of the formats is."""
    layout = "nhwc" if torch.channels_last in formats else "nchw"
    text = "".join(f"{letter}{n}" for letter, n in zip("nchwkrspquvdeg", sizes, strict=True))
    return Problem(f"{text}_{_NAMES[dtype]}_{layout}_{tail}")
