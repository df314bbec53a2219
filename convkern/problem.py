"""Problem strings from tensors. Grammar, parser and formatter are `convkern._C.Problem`."""

from __future__ import annotations

import torch
from torch import Tensor

from convkern._C import Problem

DTYPES = {
    "f32": torch.float32, "f64": torch.float64, "bf16": torch.bfloat16, "f16": torch.float16
}  # fmt: skip
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
    """The forward problem of x (N, C, H, W) and w (O, C / groups, R, S), whose shapes fit.

    Raises:
        ValueError: the convolution is impossible.
    """
    formats = (torch._prims_common.suggest_memory_format(t) for t in (x, w))
    layout = "nhwc" if torch.channels_last in formats else "nchw"
    sizes = (*x.shape, w.shape[0], *w.shape[2:], *padding, *stride, *dilation, groups)
    text = "".join(f"{letter}{n}" for letter, n in zip("nchwkrspquvdeg", sizes, strict=True))
    epilogue = "+bias" * bias + "+relu" * relu
    return Problem(f"{text}_{_NAMES[x.dtype]}_{layout}_fwd{epilogue}")
