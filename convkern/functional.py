"""convkern.conv2d and convkern.linear, the functional forms."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from convkern import _C
from convkern.activations import activated, check_type
from convkern.choices import Activation, Padding, PaddingMode, Sides
from convkern.problem import DTYPES
from convkern.window import composed, integer, integers, is_torchs, op_padding, sizes_of

_KERNEL_DTYPES = frozenset(DTYPES.values())
_PADDING_MODES = get_args(PaddingMode)
_KERNEL_DEVICES = frozenset({"cpu", "cuda", "meta"})

# These are torch's own functions, taken from where torch keeps them. A program may have put
# convkern.conv2d in the place of torch.nn.functional.conv2d and torch.conv2d, before or after this
# import.
torch_conv2d: Callable[..., Tensor] = torch._C._VariableFunctions.conv2d
torch_linear: Callable[..., Tensor] = torch._C._nn.linear

# With fewer products torch's linear takes less time than the views around a convolution.
_LEAST_PRODUCTS = 1 << 21
# So few rows are images of one pixel rather than pixels of one image. skinny_gemm then reads each
# weight once and packs none.
FEW_ROWS = 16


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | Sides | Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    padding_mode: PaddingMode = "zeros",
    activation: Activation | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """2D cross-correlation, a drop-in for :func:`torch.nn.functional.conv2d`.

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch.
        weight: (O, C / groups, R, S).
        bias: (O,), added to every output channel.
        stride: step of the window, one int or (rows, columns).
        padding: cells added around the input: one int for all sides, (rows, columns) for both
            sides of each axis, or ((top, bottom), (left, right)). ``"valid"`` means 0. ``"same"``
            means the padding that keeps the size, for stride 1 only; with an even extent the extra
            cell goes after the input, as in torch. ``"same_upper"`` and ``"same_lower"`` are
            ONNX's, for any stride: the output has ceil(size / stride) rows and columns, and an odd
            cell goes after the input ("upper", which is TensorFlow's ``"SAME"``) or before it.
        dilation: spacing of the kernel's taps, one int or (rows, columns).
        groups: number of independent groups that C and O are split into.
        padding_mode: what the cells around the input hold, as in nn.Conv2d: ``"zeros"``,
            ``"reflect"`` (the image mirrored at its edge cells), ``"replicate"`` (the edge cells)
            or ``"circular"`` (the image from its other side). Some images at a time are padded in
            workspace, so that there is no padded copy of the batch, except for the gradient of the
            weight in 16 bits.
        activation: None, or what is applied to the result in the same pass: ``"relu"``,
            ``"relu6"``, ``"clamp(low,high)"``, ``"leaky_relu(slope)"``, ``"hardsigmoid"``,
            ``"hardswish"``, ``"sigmoid"``, ``"silu"``, ``"gelu"`` (by erf) or ``"gelu_tanh"``, as
            torch.nn.functional defines them. ``clamp`` is its hardtanh.
        residual: a tensor of the result's shape and dtype that is added before the activation in
            the same pass: y = activation(convolution + bias + residual).

    Returns:
        (N, O, OH, OW), or (O, OH, OW) without a batch, of input's dtype. It is channels_last if
        input or weight is. :func:`output_size` computes OH and OW.

    float32, float64, bfloat16 and float16 on CPU and CUDA run on convkern's own kernels and
    accumulate in float32 or wider. :func:`convkern.explain` names the kernel. Other dtypes,
    layouts (sparse, quantised, oneDNN's) and devices are handed to torch. Under autocast the
    tensors are cast as torch casts them for its own conv2d.

    Where derivatives are wanted, activations other than ReLU are torch's, after the pass: their
    derivatives need the argument, which a fused pass does not keep.

    Raises:
        RuntimeError: sizes, dtypes or devices do not fit each other, or a size is out of range.
        TypeError: an argument has the wrong type.
        ValueError: there is no such activation, or an integer exceeds int64.

    Example:
        >>> x, w = torch.randn(1, 16, 8, 8), torch.randn(16, 16, 3, 3)
        >>> convkern.conv2d(x, w, padding=1, activation="silu", residual=x).shape
        torch.Size([1, 16, 8, 8])
    """
    if not torch.compiler.is_compiling():
        y = _C.conv2d(
            input, weight, bias, stride, padding, dilation, groups, activation, residual,
            padding_mode,
        )  # fmt: skip
        if y is not None:
            return y
    return _general_conv2d(
        input, weight, bias, stride, padding, dilation, groups,
        padding_mode=padding_mode, activation=activation, residual=residual,
    )  # fmt: skip


def _general_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int] | Sides | Padding,
    dilation: int | Sequence[int],
    groups: int,
    *,
    padding_mode: PaddingMode,
    activation: Activation | None,
    residual: Tensor | None,
) -> Tensor:
    """Computes conv2d for all other arguments: tensor subclasses, padding by name, symbolic sizes,
    other dtypes and devices, wrong types."""
    tensors = (input, weight, bias, residual)
    if torch.overrides.has_torch_function(tensors):
        return torch.overrides.handle_torch_function(
            conv2d, tensors, input, weight, bias, stride, padding, dilation, groups,
            padding_mode=padding_mode, activation=activation, residual=residual,
        )  # fmt: skip
    check_types(input, weight, bias, residual, activation)
    groups = integer(groups, "groups", groups)
    check_mode(padding_mode)
    if not has_kernels(input, weight, bias, residual) or exporting_to_onnx():
        y = torchs_conv2d(
            input, weight, bias, stride, padding, dilation, groups, padding_mode=padding_mode
        )
        if residual is not None:
            _check_residual(residual, input, y)
            y = y + residual.to(y.dtype)
        return activated(y, activation)
    if not torch.compiler.is_compiling():
        meet_dtensor(input)
    x, *window = canonical(input, weight, stride, padding, dilation)
    added = residual if residual is None or input.dim() == 4 else residual.unsqueeze(0)
    images: Tensor = torch.ops.convkern.conv2d(
        x, weight, bias, *window, groups, activation, added, padding_mode
    )
    return images if input.dim() == 4 else images.squeeze(0)


def torchs_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int] | Sides | Padding,
    dilation: int | Sequence[int],
    groups: int,
    *,
    padding_mode: PaddingMode,
) -> Tensor:
    """Computes conv2d by torch's functions, which take more dtypes, layouts and devices."""
    if padding_mode != "zeros" or not is_torchs(padding):
        x, stride, pads, dilation = canonical(input, weight, stride, padding, dilation)
        x, padding = composed(x, pads, padding_mode)
        input = x if input.dim() == 4 else x.squeeze(0)
    return torch_conv2d(input, weight, bias, stride, padding, dilation, groups)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns input @ weight.T + bias, a drop-in for :func:`torch.nn.functional.linear`.

    A product over the last axis is a 1x1 convolution of an image in channels_last, so the kernels
    of :func:`convkern.conv2d` compute it, and its derivatives of every order.

    Args:
        input: (*, C), with any number of axes before the last.
        weight: (O, C), or (C) for a dot product.
        bias: (O,), or None.

    Returns:
        (*, O), or (*) for a dot product, of input's dtype.

    float32, float64, bfloat16 and float16 on CPU run on convkern's kernels, which accumulate in
    float32 or wider. These are handed to torch: fewer than two million products, where its call is
    shorter; CUDA, where cuBLAS is faster; weights that are not contiguous; other dtypes, layouts
    and devices; tensor subclasses and nested tensors; calls that torch.compile, torch.export or a
    tracer records. :func:`convkern.set_weight_cache` and :func:`convkern.set_batch_invariant` do
    not extend to products.

    Raises:
        RuntimeError: sizes, dtypes or devices do not fit each other.
        TypeError: an argument has the wrong type.

    Example:
        >>> x, w = torch.randn(8, 196, 384), torch.randn(1536, 384)
        >>> convkern.linear(x, w).shape
        torch.Size([8, 196, 1536])
    """
    if not _has_product(input, weight, bias):
        return torch_linear(input, weight, bias)  # it also raises what is wrong
    outputs, channels = weight.shape
    rows = input.numel() // channels
    sizes = (rows, 1, 1, channels) if rows <= FEW_ROWS else (1, 1, rows, channels)
    x = input.contiguous().view(sizes).permute(0, 3, 1, 2)
    w = weight.view(outputs, channels, 1, 1)
    y = _C.conv2d(x, w, bias, 1, 0, 1, 1, None, None, "zeros")
    if y is None:
        y = torch.ops.convkern.conv2d(x, w, bias, [1, 1], [0, 0], [1, 1], 1, None)
    # torch's result is no view of another tensor, which could not be changed in place everywhere.
    y = y.permute(0, 2, 3, 1).contiguous()
    result: Tensor = torch.ops.aten._unsafe_view(y, [*input.shape[:-1], outputs])
    return result


def _has_product(input: Any, weight: Any, bias: Any) -> bool:
    """Returns whether convkern's kernels compute linear(input, weight, bias): the product is large
    enough, and of plain tensors of the CPU whose sizes and dtypes fit. Traced calls are torch's,
    because their sizes are not known."""
    if torch.compiler.is_compiling() or torch._C._is_tracing() or exporting_to_onnx():
        return False
    tensors = (input, weight) if bias is None else (input, weight, bias)
    if not all(_is_plain(t) for t in tensors):
        return False
    if weight.dim() != 2 or input.dim() < 2 or input.shape[-1] != weight.shape[1]:
        return False
    if input.numel() * weight.shape[0] < _LEAST_PRODUCTS or not weight.is_contiguous():
        return False
    if bias is not None and bias.shape != weight.shape[:1]:
        return False
    dtype = input.dtype
    same = all(t.dtype == dtype for t in tensors) or torch.is_autocast_enabled("cpu")
    return same and dtype in _KERNEL_DTYPES


def _is_plain(value: Any) -> bool:
    """Returns whether the value is a dense tensor of the CPU and of no subclass."""
    plain = type(value) is Tensor or type(value) is torch.nn.Parameter
    return plain and value.is_cpu and value.layout is torch.strided and not value.is_nested


def exporting_to_onnx() -> bool:
    """Returns whether torch.onnx.export is tracing the call. It knows torch's conv2d only.

    Importing its package takes a while, but a program that exports has already imported it. Dynamo
    cannot trace this check. torch.onnx.export uses Dynamo only after all else has failed.
    """
    if torch.compiler.is_dynamo_compiling() or "torch.onnx" not in sys.modules:
        return False
    return torch.onnx.is_in_onnx_export()


def meet_dtensor(input: Tensor) -> None:
    """Tells DTensor how to shard the ops when the first DTensor appears. This is not done earlier
    because importing its package takes a second; a program that has a DTensor has imported it."""
    dtensor = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    if dtensor is not None and isinstance(input, dtensor):
        from convkern._register import dtensor


def check_types(
    input: Any, weight: Any, bias: Any, residual: Any, activation: Any, function: str = "conv2d"
) -> None:
    """Raises TypeError unless these arguments of a function are tensors and the activation is a
    string. All but input and weight may be None."""
    required, optional = {"input": input, "weight": weight}, {"bias": bias, "residual": residual}
    for name, value in (required | optional).items():
        if not isinstance(value, Tensor) and (value is not None or name in required):
            raise TypeError(f"{function}: {name} must be a Tensor, got {type(value).__name__}")
    check_type(activation)


def check_mode(padding_mode: Any) -> None:
    """Raises what nn.Conv2d raises unless there is such a mode of padding."""
    if padding_mode not in _PADDING_MODES:
        raise ValueError(
            f"padding_mode must be one of {set(_PADDING_MODES)}, "
            f"but got padding_mode={padding_mode!r}"
        )


def _check_residual(residual: Tensor, input: Tensor, y: Tensor) -> None:
    """Raises what the op raises for a residual that does not fit. torch's sum would broadcast it or
    promote its dtype. Under autocast, y has another dtype than the input."""
    if residual.dtype not in (input.dtype, y.dtype):
        raise RuntimeError(
            f"conv2d: Input type ({input.dtype}) and residual type ({residual.dtype}) should be "
            "the same dtype"
        )
    if not torch.compiler.is_compiling() and torch._C._is_tracing():
        return  # the sizes are tensors
    if residual.shape != y.shape:
        raise RuntimeError(
            f"conv2d: residual must have the output's shape {list(y.shape)}, "
            f"got {list(residual.shape)}"
        )


def has_kernels(
    input: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None = None
) -> bool:
    """Returns whether convkern computes the input's dtype on its device and all tensors are dense.
    Sparse and quantised tensors and those in oneDNN's layout are not dense."""
    if input.dtype not in _KERNEL_DTYPES or input.device.type not in _KERNEL_DEVICES:
        return False
    tensors = (t for t in (input, weight, bias, residual) if t is not None)
    return all(t.layout is torch.strided and not t.is_quantized for t in tensors)


def canonical(
    input: Tensor,
    weight: Tensor,
    stride: int | Sequence[int],
    padding: int | Sequence[int] | Sides | Padding,
    dilation: int | Sequence[int],
) -> tuple[Tensor, list[int], list[int], list[int]]:
    """Returns the arguments in the form that the op takes: a batched input, stride and dilation as
    two integers each, and padding as two or four."""
    if input.dim() not in (3, 4):
        raise RuntimeError(
            "conv2d: Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of "
            f"size: {list(input.shape)}"
        )
    x = input if input.dim() == 4 else input.unsqueeze(0)
    stride, dilation = integers(stride, "stride"), integers(dilation, "dilation")
    kernel = sizes_of(weight) if weight.dim() == 4 else (0, 0)  # the op names the broken rule
    return x, stride, op_padding(padding, x.shape[-2:], kernel, stride, dilation), dilation
