"""Autograd formulas of the three ops.

Convolution is bilinear: with y = F(x, w), gx = I(gy, w) and gw = W(gy, x), every derivative of
each of F, I and W is another of the three. Formulas that refer to each other therefore give
derivatives of every order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ops = torch.ops.convkern


def _setup_conv2d(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, w, b, *window, activation = inputs
    ctx.window = window
    ctx.has_bias = b is not None
    ctx.has_relu = activation is not None
    ctx.save_for_backward(x, w, output if ctx.has_relu else None)


def _backward_conv2d(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
    x, w, y = ctx.saved_tensors
    if ctx.has_relu:
        gy = torch.ops.aten.threshold_backward(gy, y, 0)
    # Inputs that equal the schema's defaults, such as no bias, are not passed and not listed.
    needs_x, needs_w, *needs_others = ctx.needs_input_grad
    needs_b = ctx.has_bias and needs_others[0]
    gx = _ops.conv2d_grad_input(gy, w, x.shape, *ctx.window) if needs_x else None
    gw = _ops.conv2d_grad_weight(gy, x, w.shape, *ctx.window) if needs_w else None
    gb = gy.sum((0, 2, 3)) if needs_b else None
    return gx, gw, gb, None, None, None, None, None


def _setup_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    gy, other, _, *window = inputs
    ctx.window = window
    ctx.save_for_backward(gy, other)


def _backward_grad_input(ctx: Any, ggx: Tensor) -> tuple[Tensor | None, ...]:
    gy, w = ctx.saved_tensors
    needs_gy, needs_w = ctx.needs_input_grad[:2]
    ggy = _ops.conv2d(ggx, w, None, *ctx.window) if needs_gy else None
    gw = _ops.conv2d_grad_weight(gy, ggx, w.shape, *ctx.window) if needs_w else None
    return ggy, gw, None, None, None, None, None


def _backward_grad_weight(ctx: Any, ggw: Tensor) -> tuple[Tensor | None, ...]:
    gy, x = ctx.saved_tensors
    needs_gy, needs_x = ctx.needs_input_grad[:2]
    ggy = _ops.conv2d(x, ggw, None, *ctx.window) if needs_gy else None
    gx = _ops.conv2d_grad_input(gy, ggw, x.shape, *ctx.window) if needs_x else None
    return ggy, gx, None, None, None, None, None


def register() -> None:
    """Attaches the formulas to the ops."""
    attach = torch.library.register_autograd
    attach("convkern::conv2d", _backward_conv2d, setup_context=_setup_conv2d)
    attach("convkern::conv2d_grad_input", _backward_grad_input, setup_context=_setup_gradient)
    attach("convkern::conv2d_grad_weight", _backward_grad_weight, setup_context=_setup_gradient)
