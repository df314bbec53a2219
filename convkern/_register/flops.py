"""FLOPs of the three ops for torch.utils.flop_counter.FlopCounterMode. The formulas are torch's,
so that the ops count the same as torch's convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import conv_backward_flop, conv_flop, register_flop_formula

_Shape = Sequence[int]


@register_flop_formula(torch.ops.convkern.conv2d)
def _conv2d(x: _Shape, w: _Shape, *_: Any, out_shape: _Shape, **__: Any) -> int:
    formula: Any = conv_flop
    count: int = formula(x, w, None, 1, 0, 1, False, out_val=out_shape)
    return count


@register_flop_formula(torch.ops.convkern.conv2d_grad_input)
def _conv2d_grad_input(gy: _Shape, w: _Shape, *_: Any, out_shape: _Shape, **__: Any) -> int:
    return _backward(gy, out_shape, w, (out_shape, None))


@register_flop_formula(torch.ops.convkern.conv2d_grad_weight)
def _conv2d_grad_weight(gy: _Shape, x: _Shape, *_: Any, out_shape: _Shape, **__: Any) -> int:
    return _backward(gy, x, out_shape, (None, out_shape))


def _backward(
    gy: _Shape, x: _Shape, w: _Shape, out_shapes: tuple[_Shape | None, _Shape | None]
) -> int:
    wanted = [shape is not None for shape in out_shapes]
    formula: Any = conv_backward_flop  # its wrapper renames out_shape to out_val
    count: int = formula(gy, x, w, None, 1, 0, 1, False, 0, 1, wanted, out_val=out_shapes)
    return count
