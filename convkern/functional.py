"""convkern.conv2d and convkern.linear (the functional forms), and the arithmetic of output sizes
and padding."""

from __future__ import annotations

import operator
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convkern import _C
from convkern.activations import activated, check_type
from convkern.choices import Activation, Padding
from convkern.problem import DTYPES
from convkern.reference import pair

_KERNEL_DTYPES = frozenset(DTYPES.values())
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
    padding: int | Sequence[int] | Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    activation: Activation | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """2D cross-correlation, a drop-in for :func:`torch.nn.functional.conv2d`.

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch.
        weight: (O, C / groups, R, S).
        bias: (O,), added to every output channel.
        stride: step of the window, one int or (rows, columns).
        padding: zeros added on both sides of each axis, one int or (rows, columns). ``"valid"``
            means 0. ``"same"`` means the padding that keeps the size, for stride 1 only; with an
            even extent the extra zero goes after the input, as in torch.
        dilation: spacing of the kernel's taps, one int or (rows, columns).
        groups: number of independent groups that C and O are split into.
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
        y = _C.conv2d(input, weight, bias, stride, padding, dilation, groups, activation, residual)
        if y is not None:
            return y
    return _general_conv2d(
        input, weight, bias, stride, padding, dilation, groups,
        activation=activation, residual=residual,
    )  # fmt: skip


def _general_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int] | Padding,
    dilation: int | Sequence[int],
    groups: int,
    *,
    activation: Activation | None,
    residual: Tensor | None,
) -> Tensor:
    """Computes conv2d for all other arguments: tensor subclasses, padding by name, symbolic sizes,
    other dtypes and devices, wrong types."""
    tensors = (input, weight, bias, residual)
    if torch.overrides.has_torch_function(tensors):
        return torch.overrides.handle_torch_function(
            conv2d, tensors, input, weight, bias, stride, padding, dilation, groups,
            activation=activation, residual=residual,
        )  # fmt: skip
    check_types(input, weight, bias, residual, activation)
    groups = integer(groups, "groups", groups)
    if not has_kernels(input, weight, bias, residual) or exporting_to_onnx():
        y: Tensor = torch_conv2d(input, weight, bias, stride, padding, dilation, groups)
        if residual is not None:
            _check_residual(residual, input, y)
            y = y + residual.to(y.dtype)
        return activated(y, activation)
    if not torch.compiler.is_compiling():
        meet_dtensor(input)
    x, *window = canonical(input, weight, stride, padding, dilation)
    added = residual if residual is None or input.dim() == 4 else residual.unsqueeze(0)
    images: Tensor = torch.ops.convkern.conv2d(x, weight, bias, *window, groups, activation, added)
    return images if input.dim() == 4 else images.squeeze(0)


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
    y = _C.conv2d(x, w, bias, 1, 0, 1, 1, None, None)
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
    padding: int | Sequence[int] | Padding,
    dilation: int | Sequence[int],
) -> tuple[Tensor, list[int], list[int], list[int]]:
    """Returns the arguments in the form that the op takes: a batched input, and stride, padding and
    dilation as two integers each."""
    if input.dim() not in (3, 4):
        raise RuntimeError(
            "conv2d: Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of "
            f"size: {list(input.shape)}"
        )
    x = input if input.dim() == 4 else input.unsqueeze(0)
    stride, dilation = integers(stride, "stride"), integers(dilation, "dilation")
    if isinstance(padding, str):
        x, padding = _pad_for(padding, x, weight, stride, dilation)
    return x, stride, integers(padding, "padding"), dilation


def output_size(
    input: int | Sequence[int],
    kernel: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | Padding = 0,
    dilation: int | Sequence[int] = 1,
) -> tuple[int, int]:
    """Returns the rows and columns of the output, floor((n + 2p - d(k - 1) - 1) / s) + 1 for each
    axis.

    Every argument is one int for both axes or a pair (rows, columns). padding may also be
    ``"valid"`` or ``"same"``.

    Raises:
        ValueError: an argument is out of range, or the dilated kernel exceeds the padded input.
    """
    sizes, kernels = pair(input, "input"), pair(kernel, "kernel")
    strides, dilations = pair(stride, "stride"), pair(dilation, "dilation")
    if isinstance(padding, str):
        if padding == "same":
            if strides != (1, 1):
                raise ValueError(f"padding='same' needs stride 1, got stride={strides}")
            return sizes
        if padding != "valid":
            raise ValueError(f"padding must be 'same' or 'valid', got padding={padding!r}")
        padding = 0
    pads = pair(padding, "padding")
    rules = ((sizes, "input", 0), (kernels, "kernel", 1), (strides, "stride", 1),
             (pads, "padding", 0), (dilations, "dilation", 1))  # fmt: skip
    for values, name, least in rules:
        if min(values) < least:
            raise ValueError(f"{name} must be at least {least}, got {name}={values}")
    result = []
    for n, k, s, p, d in zip(sizes, kernels, strides, pads, dilations, strict=True):
        extent = d * (k - 1) + 1
        if extent > n + 2 * p:
            raise ValueError(
                f"kernel must not exceed the padded input, got extent {extent} on {n + 2 * p}"
            )
        result.append((n + 2 * p - extent) // s + 1)
    return result[0], result[1]


def same_padding(
    kernel: int | Sequence[int], dilation: int | Sequence[int] = 1
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the zeros before and after each axis, ((top, bottom), (left, right)), that keep the
    size at stride 1. These are d(k - 1) zeros in total, half on each side. An odd one goes after
    the input, as in torch."""
    kernels, dilations = pair(kernel, "kernel"), pair(dilation, "dilation")
    totals = [d * (k - 1) for k, d in zip(kernels, dilations, strict=True)]
    rows, columns = ((total // 2, total - total // 2) for total in totals)
    return rows, columns


def _pad_for(
    mode: str, x: Tensor, weight: Tensor, stride: list[int], dilation: list[int]
) -> tuple[Tensor, list[int]]:
    """Returns the input and a symmetric padding that together amount to ``"same"`` or
    ``"valid"``."""
    if mode == "valid":
        return x, [0, 0]
    if mode != "same":
        raise RuntimeError(f"conv2d: Invalid padding string: {mode!r}, must be 'same' or 'valid'")
    if any(s != 1 for s in stride):
        raise RuntimeError(
            "conv2d: padding='same' is not supported for strided convolutions, "
            f"got stride={tuple(stride)}"
        )
    if weight.dim() != 4:
        return x, [0, 0]  # the op names the broken rule
    (top, bottom), (left, right) = same_padding(_kernel_size(weight), dilation)
    if (top, left) != (bottom, right):
        x = F.pad(x, (0, right - left, 0, bottom - top))
    return x, [top, left]


def _kernel_size(weight: Tensor) -> tuple[int, int]:
    rows, columns = weight.shape[2:]
    if isinstance(rows, (int, torch.SymInt)):
        return rows, columns
    with warnings.catch_warnings():  # of jit.trace, where sizes are tensors
        warnings.simplefilter("ignore")
        return int(rows), int(columns)


def integers(value: Any, name: str, function: str = "conv2d") -> list[int]:
    """Returns one integer, or a sequence of one or two integers, as two integers."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    values = [integer(v, name, value, function) for v in values]
    return values * 2 if len(values) == 1 else values


def integer(value: Any, name: str, given: Any, function: str = "conv2d") -> int:
    """Returns the value as an int. int, symbolic int, NumPy's integers and tensors of one integer
    count as integers. Anything else raises TypeError, including bool."""
    if isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    try:
        if isinstance(value, bool):
            raise TypeError
        # index() would make torch.compile replace a symbolic int by the constant that it is now.
        number = value if type(value) is int else operator.index(value)
    except TypeError:
        raise TypeError(
            f"{function}: {name} must be an integer{' or two' * (name != 'groups')}, "
            f"got {name}={given!r}"
        ) from None
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{function}: {name} must fit int64, got {name}={given!r}")
    return number
