"""Makes problem strings from tensors. `convkern._C.Problem` has the grammar, parser and
formatter."""

from __future__ import annotations

import torch
from torch import Tensor

from convkern._C import Problem
from convkern.window import sides_of

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
    activation: str | None = None,
    residual: bool = False,
    layout: str | None = None,
    padding_mode: str = "zeros",
) -> Problem:
    """Returns the forward problem of x (N, C, H, W) and w (O, C / groups, R, S), whose shapes must
    fit. Its layout is that of the result of nn.Conv2d unless it is given.

    Raises:
        ValueError: the convolution is impossible.
    """
    pads = padding if len(padding) == 2 else [f"{a}-{b}" for a, b in sides_of(padding)]
    sizes = (*x.shape, w.shape[0], *w.shape[2:], *pads, *stride, *dilation, groups)
    text = "".join(f"{letter}{n}" for letter, n in zip("nchwkrspquvdeg", sizes, strict=True))
    # The result is channels_last if one of the operands is: nn.Conv2d's rule.
    if layout is None:
        layout = "nhwc" if torch.channels_last in (_format(x), _format(w)) else "nchw"
    activation = activation and activation.replace("e+", "e")  # '+' separates the words
    mode = [padding_mode] * (padding_mode != "zeros")
    words = ["fwd", *mode, *["bias"] * bias, *["residual"] * residual]
    words += [activation] if activation else []
    return Problem(f"{text}_{_NAMES[x.dtype]}_{layout}_{'+'.join(words)}")


def _format(t: Tensor) -> torch.memory_format:
    result: torch.memory_format = torch._prims_common.suggest_memory_format(t)
    return result
