"""The functions that fused nodes call, by torch's functions. They define what a node computes."""

from __future__ import annotations

import torch
from torch import Tensor

from convkern.activations import activated
from convkern.choices import PaddingMode
from convkern.functional import torch_conv2d, torch_linear
from convkern.window import composed


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    padding_mode: PaddingMode,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    """Returns activation(conv2d(input) + bias + residual). The residual has the shape and dtype of
    the result. The padding is as the op takes it."""
    x, pads = composed(input, padding, padding_mode)
    y = torch_conv2d(x, weight, bias, stride, pads, dilation, groups)
    return activated(y, activation, residual)


def linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    """Returns activation(input @ weight.T + bias + residual), over the last axis. The residual has
    the shape and dtype of the result."""
    y = torch_linear(input, weight, bias)
    return activated(y, activation, residual)


def scale_shift(input: Tensor, scale: Tensor, shift: Tensor, activation: str | None) -> Tensor:
    """Returns activation(input * scale + shift), with one scale and one shift for each channel,
    the second axis. They are float32 for an input of half precision, whose result is rounded
    once."""
    sizes = [-1] + [1] * (input.dim() - 2)
    y = torch.addcmul(shift.view(sizes), input.to(scale.dtype), scale.view(sizes))
    return activated(y, activation).to(input.dtype)


def channels(
    inputs: list[Tensor],
    index: list[int],
    scale: Tensor | None,
    shift: Tensor | None,
    activation: str | None,
) -> Tensor:
    """Returns the channels `index` of the inputs' concatenation along the channels, the second
    axis; with scale and shift as :func:`scale_shift` of them."""
    y = torch.cat(inputs, 1)[:, index]
    return y if scale is None or shift is None else scale_shift(y, scale, shift, activation)
