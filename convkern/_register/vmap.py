"""Batching rules of the three ops, for torch.func.vmap and the transforms that use it.

Each rule is one call of the same op, with the batch of V examples folded into one of its
dimensions. The batch goes into the images if all examples share the weights. It goes into the
channels if all examples share one operand, and into the groups if they share none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_ops = torch.ops.convkern
_Rule = Callable[..., tuple[Tensor, int]]

# The dimensions of input, output and their gradients. The next line has those of the weight and its
# gradient.
_IMAGES, _CHANNELS = 0, 1
_OUT_CHANNELS, _GROUP_CHANNELS = 0, 1


class _Library(torch.library.Library):
    """Kernels for vmap's tensors. Outside of vmap they raise an error that says so, as torch's
    do."""

    def impl(self, op_name: Any, fn: Any, dispatch_key: Any = "", **options: Any) -> None:
        def checked(*args: Any, **kwargs: Any) -> Any:
            if torch._C._functorch.maybe_current_level() is None:
                raise RuntimeError(
                    f"{op_name}: a tensor may have escaped from inside a function being vmapped: "
                    "it is batched, and no vmap is active"
                )
            return fn(*args, **kwargs)

        super().impl(op_name, checked, dispatch_key, **options)  # type: ignore[no-untyped-call]


_library = _Library("convkern", "FRAGMENT")  # type: ignore[no-untyped-call]


def _rule(op: str) -> Callable[[_Rule], _Rule]:
    """Registers the rule. It gets operands with the batch in front; None means not batched."""
    register: Callable[[_Rule], _Rule] = torch.library.register_vmap(
        f"convkern::{op}", lib=_library
    )
    return register


def _split(t: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    result: Tensor = t.unflatten(dim, sizes)  # type: ignore[no-untyped-call]
    return result


def _fold(t: Tensor, dim: int, parts: int = 1) -> Tensor:
    """Turns (V, ..., parts * n, ...) into (..., parts * V * n, ...). `dim` does not count the
    batch."""
    n = t.shape[dim + 1] // parts
    return _split(t, dim + 1, (parts, n)).movedim(0, dim + 1).flatten(dim, dim + 2)


def _unfold(t: Tensor, dim: int, batch: int, parts: int = 1) -> Tensor:
    """The inverse of _fold."""
    n = t.shape[dim] // (parts * batch)
    return _split(t, dim, (parts, batch, n)).movedim(dim + 1, 0).flatten(dim + 1, dim + 2)


def _front(t: Tensor, dim: int | None) -> Tensor:
    return t if dim is None else t.movedim(dim, 0)


def _all(t: Tensor, dim: int | None, batch: int) -> Tensor:
    """Returns the tensor with its batch in front. A tensor that is not batched is repeated for the
    whole batch."""
    return _front(t, dim) if dim is not None else t.expand(batch, *t.shape)


def _times(sizes: Sequence[int], dim: int, factor: int) -> list[int]:
    return [n * factor if i == dim else n for i, n in enumerate(sizes)]


@_rule("conv2d")
def _conv2d(
    info: Any,
    in_dims: Sequence[int | None],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    activation: str | None = None,
    residual: Tensor | None = None,
    padding_mode: str = "zeros",
) -> tuple[Tensor, int]:
    V, window, mode = info.batch_size, (stride, padding, dilation), {"padding_mode": padding_mode}
    x_dim, w_dim = in_dims[0], in_dims[1]
    b_dim, z_dim = (in_dims[i] if len(in_dims) > i else None for i in (2, 8))
    z = None if residual is None else _all(residual, z_dim, V)
    if w_dim is None and b_dim is None:
        x = _all(input, x_dim, V)
        added = None if z is None else z.flatten(0, 1)
        y = _ops.conv2d(
            x.flatten(0, 1), weight, bias, *window, groups, activation, added, padding_mode
        )
        return _split(y, 0, x.shape[:2]), 0
    x = _front(input, x_dim)
    # From here on, weight and bias are both batched.
    w, b = _all(weight, w_dim, V), None if bias is None else _all(bias, b_dim, V)
    parts = groups if x_dim is None else 1
    if x_dim is not None:
        x, groups = _fold(x, _CHANNELS), groups * V
    w, b = _fold(w, _OUT_CHANNELS, parts), None if b is None else _fold(b, 0, parts)
    added = None if z is None else _fold(z, _CHANNELS, parts)
    y = _ops.conv2d(x, w, b, *window, groups, activation, added, **mode)
    return _unfold(y, _CHANNELS, V, parts), 0


@_rule("conv2d_grad_input")
def _conv2d_grad_input(
    info: Any,
    in_dims: Sequence[int | None],
    grad_output: Tensor,
    weight: Tensor,
    input_size: Sequence[int],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    memory_format: torch.memory_format | None = None,
    padding_mode: str = "zeros",
) -> tuple[Tensor, int]:
    V, window, mode = info.batch_size, (stride, padding, dilation), {"padding_mode": padding_mode}
    gy_dim, w_dim = in_dims[:2]
    gy, w = _front(grad_output, gy_dim), _front(weight, w_dim)
    if w_dim is None:
        size = _times(input_size, _IMAGES, V)
        gx = _ops.conv2d_grad_input(
            gy.flatten(0, 1), w, size, *window, groups, memory_format, padding_mode
        )
        return _split(gx, 0, gy.shape[:2]), 0
    size = _times(input_size, _CHANNELS, V)
    if gy_dim is None:
        w = _fold(w, _GROUP_CHANNELS)
        gx = _ops.conv2d_grad_input(gy, w, size, *window, groups, memory_format, **mode)
        return _unfold(gx, _CHANNELS, V, groups), 0
    gy, w = _fold(gy, _CHANNELS), _fold(w, _OUT_CHANNELS)
    gx = _ops.conv2d_grad_input(gy, w, size, *window, groups * V, memory_format, **mode)
    return _unfold(gx, _CHANNELS, V), 0


@_rule("conv2d_grad_weight")
def _conv2d_grad_weight(
    info: Any,
    in_dims: Sequence[int | None],
    grad_output: Tensor,
    input: Tensor,
    weight_size: Sequence[int],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    memory_format: torch.memory_format | None = None,
    padding_mode: str = "zeros",
) -> tuple[Tensor, int]:
    V, window, mode = info.batch_size, (stride, padding, dilation), {"padding_mode": padding_mode}
    gy_dim, x_dim = in_dims[:2]
    gy, x = _front(grad_output, gy_dim), _front(input, x_dim)
    if gy_dim is None:
        size = _times(weight_size, _GROUP_CHANNELS, V)
        x = _fold(x, _CHANNELS, groups)
        gw = _ops.conv2d_grad_weight(gy, x, size, *window, groups, memory_format, **mode)
        return _unfold(gw, _GROUP_CHANNELS, V), 0
    size = _times(weight_size, _OUT_CHANNELS, V)
    if x_dim is None:
        gy = _fold(gy, _CHANNELS, groups)
        gw = _ops.conv2d_grad_weight(gy, x, size, *window, groups, memory_format, **mode)
        return _unfold(gw, _OUT_CHANNELS, V, groups), 0
    gy, x = _fold(gy, _CHANNELS), _fold(x, _CHANNELS)
    gw = _ops.conv2d_grad_weight(gy, x, size, *window, groups * V, memory_format, **mode)
    return _unfold(gw, _OUT_CHANNELS, V), 0
