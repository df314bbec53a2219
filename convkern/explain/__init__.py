"""convkern.explain: which kernel runs a convolution, a problem string or the layers of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from torch import Tensor, nn

from convkern.choices import Activation, Padding, PaddingMode, Sides
from convkern.explain.explanation import Explanation, explain_conv2d
from convkern.explain.model import ModelExplanation, explain_model, explain_optimized
from convkern.optimize import Optimized

__all__ = ["Explanation", "ModelExplanation", "explain"]


@overload
def explain(
    input: nn.Module,
    weight: Tensor | tuple[Tensor, ...] | None = None,
    *,
    device: str | None = None,
) -> ModelExplanation: ...
@overload
def explain(
    input: Tensor | str,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | Sides | Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    padding_mode: PaddingMode = "zeros",
    activation: Activation | None = None,
    residual: Tensor | None = None,
    device: str | None = None,
) -> Explanation: ...
def explain(
    input: Tensor | str | nn.Module,
    weight: Tensor | tuple[Tensor, ...] | None = None,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | Sides | Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    padding_mode: PaddingMode = "zeros",
    activation: Activation | None = None,
    residual: Tensor | None = None,
    device: str | None = None,
) -> Explanation | ModelExplanation:
    """Says which kernel runs, why, and what is expected to bound its speed. Nothing is computed;
    meta tensors will do.

    Takes the arguments of ``convkern.conv2d``; or a problem string such as
    ``"n512c1h28w28k1r14s14_f32_nchw_fwd+bias"``; or a model and an example of its input, a tensor
    or a tuple of the positional arguments, for a table of its convolution layers in the order of
    their calls. The model is neither changed nor computed: its forward is traced on tensors without
    data. Convolutions that it calls as functions, not as layers, are not seen.

    Of a model that :func:`convkern.optimize` returned, it shows the steps of the plan for the
    example, or of its last plan if no example is given.

    Args:
        device: ``"cpu"``, ``"cuda"`` or, for a GPU that need not be here, its compute capability
            as in ``"cuda:sm_90"``; input's own device by default.

    Raises:
        ValueError: the problem string is malformed or describes an impossible convolution; or the
            device is none, or this build has no kernels for it; or the model cannot be traced.
        RuntimeError, TypeError: as conv2d.
    """
    if isinstance(input, Optimized):
        return explain_optimized(input, weight)
    if isinstance(input, nn.Module):
        return explain_model(input, weight, device)
    if isinstance(weight, tuple):
        raise TypeError("conv2d: weight must be a Tensor, got tuple")
    return explain_conv2d(
        input, weight, bias, stride, padding, dilation, groups,
        padding_mode=padding_mode, activation=activation, residual=residual, device=device,
    )  # fmt: skip
